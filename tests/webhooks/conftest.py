"""Fixtures of the webhook tests."""

from collections.abc import AsyncIterator

import pytest

from store.database import Database


@pytest.fixture
async def database(database_place: tuple[str, str]) -> AsyncIterator[Database]:
    """An open database with its tables, of each dialect."""
    async with Database.open(*database_place) as opened:
        await opened.ensure()
        yield opened
