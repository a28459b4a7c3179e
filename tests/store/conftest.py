"""A database with its tables, on each dialect: migrated once, emptied for each test."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text

from store.database import Database
from store.tables import metadata

POSTGRES_URL = os.environ.get("KOMMO_TEST_POSTGRES_URL", "")


@pytest.fixture(scope="session", params=["sqlite", "postgresql"] if POSTGRES_URL else ["sqlite"])
def migrated_place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """(URL, schema) of the database that `db` opens, for the tests that need other processes on it."""
    file = tmp_path_factory.mktemp("store") / "store.db"
    url = f"sqlite:///{file}" if request.param == "sqlite" else POSTGRES_URL
    place = (url, f"test_{uuid.uuid4().hex[:12]}")
    asyncio.run(_migrate(*place))
    yield place
    if request.param == "postgresql":
        asyncio.run(_drop(*place))


async def _migrate(url: str, schema: str) -> None:
    async with Database.open(url, schema) as database:
        await database.ensure()


async def _drop(url: str, schema: str) -> None:
    async with Database.open(url, schema) as database, database.begin() as connection:
        await connection.execute(text(f'DROP SCHEMA "{schema}" CASCADE'))


@pytest.fixture
async def db(migrated_place: tuple[str, str]) -> AsyncIterator[Database]:
    """An open, empty database."""
    async with Database.open(*migrated_place) as database:
        async with database.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                await connection.execute(table.delete())
        yield database
