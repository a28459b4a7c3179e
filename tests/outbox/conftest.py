"""Fixtures of the tests of the delivery."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from store.database import Database
from tests.outbox.receiver import Receiver, running_receiver


@pytest.fixture
async def database(database_place: tuple[str, str]) -> AsyncIterator[Database]:
    """An open database with its tables, of each dialect."""
    async with Database.open(*database_place) as opened:
        await opened.ensure()
        yield opened


@pytest.fixture
def sqlite_place(_sqlite_file: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(_sqlite_file, tmp_path / 'one.db')}"


@pytest.fixture
async def sqlite_database(sqlite_place: str) -> AsyncIterator[Database]:
    """The same on SQLite only, for what does not depend on the dialect."""
    async with Database.open(sqlite_place) as opened:
        yield opened


@pytest.fixture
async def product() -> AsyncIterator[Receiver]:
    """A product that takes events."""
    async with running_receiver() as receiver:
        yield receiver
