"""Closing a connection to SQLite ends, whoever has asked for it before: a process that cannot end blocks its place."""

import asyncio
from pathlib import Path

import aiosqlite
import pytest

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
