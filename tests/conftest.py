"""Fixtures that every test may use. Prefect's environment is set here, before Prefect is imported."""

import os
import sys

# Fewer server services make a flow run in the harness six times faster; nothing here asserts on them.
os.environ.update(
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED="false",
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED="false",
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED="false",
    **{
        f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
        for service in ("LATE_RUNS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "CLEANUP_RECONCILER")
    },
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    PREFECT_CLI_PROMPT="false",
)

import asyncio
import contextlib
import functools
import gc
import shutil
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import (
    runtestprotocol,
)  # pytest's own way to run one test; plugins that repeat tests use it
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import LRUCache

import store.engine
from blocks.settings import Settings
from tests.turns import LATE, my_turn

# The tests start dozens of processes and two workers; none of them should compile again what another has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Every client of Prefect's and of httpx reads all certificates anew, 20 ms of work for each of some thousand.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]  # all can be hashed


class _Statements(LRUCache[Any, Any]):
    """Statements as SQL, by what they say: each test opens a database anew, and would have all of them made anew."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((key[0].name, *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((key[0].name, *key[1:]), value)


def _create_engine(url: Any, **options: Any) -> AsyncEngine:
    options["execution_options"] = {**options.get("execution_options", {}), "compiled_cache": _STATEMENTS}
    return create_async_engine(url, **options)


_STATEMENTS = _Statements(2_000)
store.engine.create_async_engine = _create_engine  # type: ignore[attr-defined]  # it is only imported there

KEPT = Path(__file__).parents[1] / ".pytest_cache"
ROUNDS = os.environ.get("KOMMO_TEST_ROUNDS", "")
FULL = ROUNDS == "full"
SERVING = pytest.StashKey[contextlib.ExitStack]()
NEEDS_QUIET = pytest.StashKey[bool]()
AGAIN = ("again", "alone")
LEFT_OUT = "a whole service: bash .ci/run, or KOMMO_TEST_ROUNDS=few, or name its file"
POSTGRES_URL = os.environ.get("KOMMO_TEST_POSTGRES_URL", "")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """The whole suite on every core; a file or a single test in this process, where it begins at once.

    Three workers to a core: most of the time a test waits for a process, a poll or its place in a budget.
    """
    return 0 if _narrow(config) else 3 * (os.cpu_count() or 1)


def _narrow(config: pytest.Config) -> bool:
    """Whether files or single tests are asked for by their names."""
    return any("::" in argument or argument.endswith(".py") for argument in config.args)


def _everyday(config: pytest.Config) -> bool:
    """Whether this is the run that everybody makes all the time: nothing was chosen, and there is no PostgreSQL."""
    chosen = _narrow(config) or config.option.keyword or config.option.markexpr
    return not (ROUNDS or POSTGRES_URL or chosen)


@pytest.hookimpl(trylast=True)  # after -k and -m have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """First what takes long: so all workers end at about the same time. What needs a whole service is for .ci/run."""

    def seconds(item: pytest.Item) -> float:
        marker = item.get_closest_marker("seconds")
        return float(marker.args[0]) if marker else 0.0

    if FULL:
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
    elif POSTGRES_URL:
        beside = pytest.mark.skip(reason="on PostgreSQL; on SQLite too with KOMMO_TEST_ROUNDS=full")
        for item in items:
            given = getattr(item, "callspec", None)
            if item.get_closest_marker("one_database") and given and "sqlite" in given.params.values():
                item.add_marker(beside)
    elif _everyday(config):
        for item in items:
            if item.get_closest_marker("whole_service"):
                item.add_marker(pytest.mark.skip(reason=LEFT_OUT))
    items.sort(key=seconds, reverse=True)
    # What is imported by now stays; looking through it again and again finds nothing to collect.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the workers begin: they inherit where it is
def pytest_sessionstart(session: pytest.Session) -> Iterator[None]:
    """What all workers share: a server of quick commands, whose imports cost as much as dozens of tests, and Prefect's
    tables, made while the workers look for their tests.
    """
    if session.config.getoption("numprocesses", None) and not session.config.option.collectonly:
        from tests.quick.running import quick_server

        stack = session.config.stash.setdefault(SERVING, contextlib.ExitStack())
        stack.enter_context(quick_server())
        if not any(KEPT.glob("prefect-*.db")):
            stack.enter_context(subprocess.Popen([sys.executable, "-m", "tests.prefect_server", str(KEPT)]))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """The server ends after the last worker."""
    try:
        return (yield)
    finally:
        session.config.stash.get(SERVING, contextlib.ExitStack()).close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """What measures time runs beside the others; only if a bound is missed there, once more with the machine to itself.

    So nobody waits for a quiet that is seldom needed, and what is slow of itself still fails. What has nothing to do
    with time fails at once. Full rounds, whose bounds are sharp, are alone from the start.
    """
    if FULL or item.get_closest_marker("timing") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if item.stash.get(NEEDS_QUIET, False):
        item.user_properties.append(AGAIN)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note that a bound on time was missed."""
    if call.excinfo is not None and LATE in getattr(call.excinfo.value, "__notes__", ()):
        item.stash[NEEDS_QUIET] = True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests had to be repeated: one that always has to is one to mend. Say what was left out, and why."""
    for report in terminalreporter.getreports("passed"):
        if report.when == "call" and AGAIN in map(tuple, report.user_properties):
            terminalreporter.write_line(f"passed only with the machine to itself: {report.nodeid}")
    skipped = [report.longrepr for report in terminalreporter.getreports("skipped")]
    if left_out := sum(isinstance(why, tuple) and LEFT_OUT in why[2] for why in skipped):
        terminalreporter.write_line(f"left out: {left_out} tests, each with {LEFT_OUT}")


@contextlib.contextmanager
def _turn(*, alone: bool) -> Iterator[None]:
    if "PYTEST_XDIST_WORKER" in os.environ:
        with my_turn(KEPT, alone=alone):
            yield
    else:
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Fixtures are made while no test has the machine to itself."""
    with _turn(alone=False):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that needs quiet has the machine to itself, as far as this session goes."""
    timing = item.get_closest_marker("timing") is not None
    with _turn(alone=timing and (FULL or item.stash.get(NEEDS_QUIET, False))):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fixtures end while no test has the machine to itself."""
    with _turn(alone=False):
        return (yield)


def _databases() -> list[str]:
    return ["sqlite", "postgresql"] if POSTGRES_URL else ["sqlite"]


async def _on_postgres(*statements: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(POSTGRES_URL.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        await connection.execute(";".join(statements))
    finally:
        await connection.close()


async def _make_tables(url: str, schema: str) -> None:
    from store.database import Database

    async with Database.open(url, schema) as database:
        await database.ensure()


def _new_schema() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=_databases())
def empty_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(URL, schema) of a database without a table, of each dialect; on PostgreSQL a schema of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'store.db'}", "kommo"
        return
    schema = _new_schema()
    yield POSTGRES_URL, schema
    asyncio.run(_on_postgres(f'drop schema if exists "{schema}" cascade'))


@pytest.fixture(scope="session")
def _sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables, to be copied: making them takes as long as many a test."""
    file = tmp_path_factory.mktemp("made") / "store.db"
    asyncio.run(_make_tables(f"sqlite+aiosqlite:///{file}", "kommo"))
    return file


@pytest.fixture(scope="session")
def _postgres_schema() -> Iterator[str]:
    """A schema with the tables, which is emptied after each test."""
    schema = _new_schema()
    asyncio.run(_make_tables(POSTGRES_URL, schema))
    yield schema
    asyncio.run(_on_postgres(f'drop schema if exists "{schema}" cascade'))


@pytest.fixture(params=_databases())
def database_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(URL, schema) of a database with tables and no row, of each dialect."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("_sqlite_file"), tmp_path / "store.db")
        yield f"sqlite+aiosqlite:///{file}", "kommo"
        return
    from store.tables import metadata

    schema = request.getfixturevalue("_postgres_schema")
    yield POSTGRES_URL, schema
    tables = [table.name for table in reversed(metadata.sorted_tables)]
    asyncio.run(_on_postgres(*(f'delete from "{schema}"."{name}"' for name in tables)))  # noqa: S608 - our names


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of the test session's own; gives its API address. Ask for it only where a flow really runs."""
    from tests.prefect_server import running_prefect

    with running_prefect(tmp_path_factory.mktemp("prefect"), KEPT) as api:
        yield api


@pytest.fixture(scope="session")
def quick() -> Iterator[None]:
    """Commands as processes that begin at once: see tests/quick. All workers of a session share one server."""
    from tests.quick.running import quick_server, wait_until_quick

    with contextlib.nullcontext() if "QUICK_SERVER" in os.environ else quick_server():
        wait_until_quick()
        yield


@pytest.fixture
def installation(
    database_place: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """An installation that may talk to a sandbox, with an empty database, in this process's environment."""
    url, schema = database_place
    for name in [name for name in os.environ if name.startswith("KOMMO_")]:
        monkeypatch.delenv(name)
    environment = {
        "KOMMO_HOME": str(tmp_path / "home"),
        "KOMMO_DATABASE_URL": url,
        "KOMMO_DATABASE_SCHEMA": schema,
        "KOMMO_SANDBOX": "1",
        # The sandbox of most tests does not throttle, so that they need not wait for a budget that others test.
        "KOMMO_REQUESTS_PER_SECOND": "50",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()
