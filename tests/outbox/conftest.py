"""Fixtures of the tests of the delivery."""

from collections.abc import AsyncIterator

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
async def product() -> AsyncIterator[Receiver]:
    """A product that takes events."""
    async with running_receiver() as receiver:
        yield receiver
