"""Two ways to keep an installation's databases, with the tools that docs/backup-and-restore.md names."""

import asyncio
import os
import shutil
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import prefect

from store.copying import copy_sqlite
from tests.conftest import KEPT

MIGRATED = KEPT / f"prefect-{prefect.__version__}.db"
POSTGRES_URL = os.environ.get("KOMMO_TEST_POSTGRES_URL", "")


async def run(*command: str) -> None:
    """Run one of PostgreSQL's own tools; it must do well."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, (command[0], errors.decode())


class SqliteKeeper:
    """Two files. `new` names where the databases are to be after the loss."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def prepare(self) -> None:
        for name in ("before", "after", "backups"):
            (self.folder / name).mkdir(mode=0o700)
        if MIGRATED.exists():  # a server that has to make its tables takes minutes on a busy machine
            shutil.copyfile(MIGRATED, self._file("prefect", new=False))

    def url(self, what: str, *, new: bool = False) -> str:
        return f"sqlite+aiosqlite:///{self._file(what, new=new)}"

    def _file(self, what: str, *, new: bool) -> Path:
        return self.folder / ("after" if new else "before") / f"{what}.db"

    async def dump(self, what: str) -> None:
        await asyncio.to_thread(
            copy_sqlite, self._file(what, new=False), self.folder / "backups" / f"{what}.db"
        )

    async def lose(self) -> None:
        for file in (self.folder / "before").iterdir():
            file.unlink()

    async def restore(self, what: str) -> None:
        (self.folder / "backups" / f"{what}.db").rename(self._file(what, new=True))

    async def end(self) -> None:
        """Nothing is left outside the test's folder."""


class PostgresKeeper:
    """Two databases on the server of the tests, kept by pg_dump and brought back by pg_restore."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex[:8]
        where = urlsplit(POSTGRES_URL)
        self._place = where.netloc.rpartition("@")
        self._plain = f"postgresql://{where.netloc}"

    async def prepare(self) -> None:
        for what in ("store", "prefect"):
            await self._admin(f'create database "{self._name(what, new=False)}"')

    def url(self, what: str, *, new: bool = False) -> str:
        return f"postgresql+asyncpg://{urlsplit(POSTGRES_URL).netloc}/{self._name(what, new=new)}"

    def _name(self, what: str, *, new: bool) -> str:
        return f"kommo_test_{self._mark}_{what}_{'after' if new else 'before'}"

    def _dump(self, what: str) -> str:
        return str(self.folder / f"{what}.dump")

    async def _admin(self, statement: str) -> None:
        await run("psql", "--no-psqlrc", "--quiet", "--command", statement, f"{self._plain}/postgres")

    async def dump(self, what: str) -> None:
        source = f"{self._plain}/{self._name(what, new=False)}"
        await run("pg_dump", "--format=custom", "--no-owner", "--file", self._dump(what), source)

    async def lose(self) -> None:
        for what in ("store", "prefect"):
            await self._admin(f'drop database "{self._name(what, new=False)}" with (force)')

    async def restore(self, what: str) -> None:
        await self._admin(f'create database "{self._name(what, new=True)}"')
        target = f"{self._plain}/{self._name(what, new=True)}"
        await run(
            *("pg_restore", "--no-owner", "--exit-on-error", "--single-transaction"),
            *("--dbname", target, self._dump(what)),
        )

    async def end(self) -> None:
        for what in ("store", "prefect"):
            for new in (False, True):
                await self._admin(f'drop database if exists "{self._name(what, new=new)}" with (force)')


Keeper = SqliteKeeper | PostgresKeeper
Rows = dict[str, list[tuple[Any, ...]]]
