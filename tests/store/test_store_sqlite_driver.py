"""SQLite's driver: closing it, once; and statements, each with one way to its thread."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from store import sqlite_driver
from store.database import Database


async def _driver(database: Database) -> aiosqlite.Connection:
    raw = await database.engine.raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, aiosqlite.Connection)
    raw.detach()
    return driver


@pytest.mark.parametrize("first", ["stop", "close"])
async def test_a_connection_that_is_closed_and_stopped_at_once_ends(tmp_path: Path, first: str) -> None:
    """As SQLAlchemy stops what it could not close in time, while the closing goes on."""
    async with Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}") as database:
        driver = await _driver(database)
        if first == "stop":
            driver.stop()
            closing = asyncio.create_task(driver.close())
        else:
            closing = asyncio.create_task(driver.close())
            await asyncio.sleep(0)
            driver.stop()
        async with asyncio.timeout(10):
            await asyncio.gather(closing, return_exceptions=True)
        driver._thread.join(10)
        assert not driver._thread.is_alive()


@pytest.fixture
async def numbers(tmp_path: Path) -> AsyncIterator[Database]:
    """A database with the numbers from 0 to 599 in a table of two columns."""
    async with Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}") as database:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE numbers (number INTEGER, half INTEGER)"))
            await connection.execute(
                text("INSERT INTO numbers VALUES (:number, :half)"),
                [{"number": number, "half": number // 2} for number in range(600)],
            )
        yield database


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been asked of SQLite's threads, in its order."""
    asked: list[str] = []
    run = sqlite_driver._Thread.run

    async def counted(self: sqlite_driver._Thread, function: Any, *arguments: Any) -> Any:
        asked.append(function.__name__)
        return await run(self, function, *arguments)

    monkeypatch.setattr(sqlite_driver._Thread, "run", counted)
    return asked


async def test_a_statement_goes_to_the_thread_once(numbers: Database, ways: list[str]) -> None:
    async with numbers.read() as connection:
        ways.clear()
        found = await connection.execute(text("SELECT number FROM numbers WHERE half = 3"))
        assert found.scalars().all() == [6, 7]
        assert ways == ["_executed"]


@pytest.mark.parametrize("many", [0, 1, 255, 256, 257, 512, 513, 600])
async def test_answers_of_any_length_are_whole_read_at_once_or_streamed(numbers: Database, many: int) -> None:
    statement = text("SELECT number FROM numbers ORDER BY number LIMIT :many").bindparams(many=many)
    async with numbers.read() as connection:
        assert (await connection.execute(statement)).scalars().all() == list(range(many))
        async with connection.stream(statement) as streamed:
            assert [row.number async for row in streamed] == list(range(many))
        async with connection.stream(statement) as streamed:
            first = await streamed.fetchone()
            assert (first is None) == (many == 0)
            assert [row.number async for row in streamed] == list(range(1, many))
        async with connection.stream(statement) as streamed:
            portions = [len(portion) async for portion in streamed.partitions(100)]
        assert sum(portions) == many
        assert set(portions[:-1]) <= {100}


async def test_a_stream_holds_a_portion_and_not_the_table(numbers: Database, ways: list[str]) -> None:
    async with numbers.read() as connection:
        ways.clear()
        async with connection.stream(
            text("SELECT number FROM numbers, (SELECT half FROM numbers)")
        ) as streamed:
            assert await streamed.fetchone() is not None
        assert ways == ["_executed", "close"]


@pytest.mark.parametrize("many", [0, 1, 300, 600])
async def test_what_was_changed_is_counted(numbers: Database, many: int) -> None:
    async with numbers.begin() as connection:
        changed = await connection.execute(
            text("UPDATE numbers SET half = -1 WHERE number < :many"), {"many": many}
        )
        assert changed.rowcount == many
        told = await connection.execute(
            text("DELETE FROM numbers WHERE half = -1 RETURNING number"),
        )
        assert sorted(told.scalars()) == list(range(many))
        assert (await connection.execute(text("SELECT count(*) FROM numbers"))).scalar_one() == 600 - many


async def test_a_statement_that_fails_says_why_and_the_connection_goes_on(numbers: Database) -> None:
    async with numbers.read() as connection:
        with pytest.raises(OperationalError, match="no such table"):
            await connection.execute(text("SELECT * FROM nowhere"))
        assert (await connection.execute(text("SELECT count(*) FROM numbers"))).scalar_one() == 600
