"""A PostgreSQL and a Redis of the harness's own: nothing of the machine's is touched."""

import asyncio
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.service.supervisor import Service

_NOBODY_ELSE = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")


def _programs() -> Path:
    """Where PostgreSQL's own programs are; Debian keeps them off the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    told = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True)
    return Path(told.stdout.strip())


def _as_postgres() -> tuple[str, ...]:
    """PostgreSQL refuses to run as root."""
    return _NOBODY_ELSE if os.geteuid() == 0 else ()


async def run(*command: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """A command that must do well; gives what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=cwd or "/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command[:4])} … ended with {process.returncode}: {err.decode()[-2000:]}"
        )
    return out.decode()


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if _as_postgres():
        known = pwd.getpwnam("postgres")
        os.chown(folder, known.pw_uid, known.pw_gid)


async def postgres(folder: Path, port: int) -> Service:
    """A new cluster, as Debian would make one: passwords over TCP, and data that survives a crash.

    Args:
        folder: Its own folder; must not exist.
        port: Where it listens on loopback.
    """
    programs, data = _programs(), folder / "data"
    _make(folder)
    await run(
        *_as_postgres(),
        *(str(programs / "initdb"), "--pgdata", str(data), "--username", "postgres", "--encoding", "UTF8"),
        *("--auth-local", "trust", "--auth-host", "scram-sha-256", "--locale", "C.UTF-8"),
        cwd=folder,
    )
    command = [
        *_as_postgres(),
        *(str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)),
        *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"),
    ]
    return Service("postgres", command, {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}, folder=folder)


def redis(folder: Path, port: int) -> Service:
    """A Redis that writes down what it is told, each second.

    Args:
        folder: Its own folder; must not exist.
        port: Where it listens on loopback.
    """
    folder.mkdir(mode=0o700)
    command = [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes", "--maxmemory-policy", "noeviction", "--save", ""),
    ]
    return Service("redis", command, {"PATH": os.environ["PATH"]}, folder=folder)
