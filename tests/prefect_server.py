"""A Prefect server for tests: what Prefect's own test harness gives, in a third of the time.

Prefect makes a new database by more than a hundred migrations, seven seconds of work; so that is done once per version
of Prefect, and every later server begins with a copy. Each worker of a parallel session has a server of its own:
blocks are named after orgs, and those are the same in many tests.
"""

import fcntl
import http.client
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import prefect
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

from tests.quick.running import QUICK, wait_until_quick

STARTS_WITHIN = 120.0


@contextmanager
def running_prefect(folder: Path, kept: Path) -> Iterator[str]:
    """A server for as long as the block lasts; Prefect in this process talks to it.

    Args:
        folder: an empty folder for its database.
        kept: a folder that outlives the session, for the migrated database.

    Yields:
        The address of its API.
    """
    database = folder / "prefect.db"
    url = f"sqlite+aiosqlite:///{database}"
    process, api = _start_migrated(database, url, _migrated(kept))
    try:
        with temporary_settings({PREFECT_API_URL: api, PREFECT_SERVER_DATABASE_CONNECTION_URL: url}):
            yield api
            _send_what_is_left()
    finally:
        _end(process)


@contextmanager
def prefect_on(database_url: str) -> Iterator[str]:
    """A server on this database, as it is, for as long as the block lasts; Prefect in this process talks to it."""
    process, api = _start(database_url, within=600.0)  # it may have to make its tables first
    try:
        with temporary_settings({PREFECT_API_URL: api, PREFECT_SERVER_DATABASE_CONNECTION_URL: database_url}):
            yield api
            _send_what_is_left()
    finally:
        _end(process)


def _send_what_is_left() -> None:
    """While there is someone to send it to: at exit it would be retried for a minute."""
    # Where a loop runs they would give coroutines in place of waiting, so it is done where none does.
    with ThreadPoolExecutor(1) as aside:
        aside.submit(APILogWorker.drain_all).result()
        aside.submit(EventsWorker.drain_all).result()


def migrate(kept: Path) -> None:
    """Make the migrated database that servers begin with, unless it is there."""
    with TemporaryDirectory() as folder:
        database = Path(folder) / "prefect.db"
        process, _ = _start_migrated(database, f"sqlite+aiosqlite:///{database}", _migrated(kept))
        _end(process)


def _migrated(kept: Path) -> Path:
    return kept / f"prefect-{prefect.__version__}.db"


def _start_migrated(database: Path, url: str, migrated: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start on a copy of what was migrated before; whoever comes first has to migrate, the others wait for it."""
    migrated.parent.mkdir(parents=True, exist_ok=True)
    with migrated.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not migrated.exists():
            process, api = _start(url)
            try:
                _keep(database, migrated)
            except BaseException:
                _end(process)
                raise
            return process, api
    shutil.copyfile(migrated, database)
    return _start(url)


def _keep(database: Path, migrated: Path) -> None:
    half = migrated.with_suffix(".half")
    half.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as made, closing(sqlite3.connect(half)) as copy:
        made.backup(copy)  # with what is still in the write-ahead log
    half.rename(migrated)


def _start(database_url: str, *, within: float = STARTS_WITHIN) -> tuple[subprocess.Popen[bytes], str]:
    if "QUICK_SERVER" in os.environ:
        wait_until_quick()
    # The socket is open before the server is there: nobody else can take its port, and a question waits for its answer.
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        process = subprocess.Popen(
            [
                *(QUICK if "QUICK_SERVER" in os.environ else (sys.executable, "-m")),
                *("uvicorn", "--app-dir", str(prefect.__module_path__.parent)),
                *("--factory", "prefect.server.api.server:create_app", "--lifespan", "on"),
                *("--fd", "0", "--log-level", "error"),
            ],
            env={
                **os.environ,
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
                "PREFECT_SERVER_UI_ENABLED": "false",
            },
            stdin=door.fileno(),  # the one way in that both kinds of process share
        )
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=within)
    try:
        with closing(asked):
            asked.request("GET", "/api/health")
            assert asked.getresponse().status == 200
    except BaseException:
        _end(process)
        raise
    return process, f"http://127.0.0.1:{port}/api"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    migrate(Path(sys.argv[1]))
