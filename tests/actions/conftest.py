"""Fixtures of the tests of actions."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sandbox import running_sandbox
from store.database import Database
from tests.actions.support import World, access_of, join
from tests.syncing import quiet_config


@asynccontextmanager
async def _made(place: tuple[str, str]) -> AsyncIterator[World]:
    config = quiet_config(accounts=1, leads=12, contacts=8, companies=3, talks=6)
    async with running_sandbox(config) as sandbox, Database.open(*place) as database:
        await join(database, access_of(sandbox), like="world")
        yield World(database, sandbox)


@pytest.fixture
async def world(database_place: tuple[str, str]) -> AsyncIterator[World]:
    """An org `acme` on a sandbox that does not throttle, synced, on each dialect."""
    async with _made(database_place) as made:
        yield made


@pytest.fixture
async def sqlite_world(_sqlite_file: Path, tmp_path: Path) -> AsyncIterator[World]:
    """The same on SQLite, for what does not depend on the dialect."""
    file = shutil.copy(_sqlite_file, tmp_path / "store.db")
    async with _made((f"sqlite+aiosqlite:///{file}", "kommo")) as made:
        yield made
