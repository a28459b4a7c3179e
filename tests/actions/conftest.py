"""Fixtures of the tests of actions."""

from collections.abc import AsyncIterator

import pytest

from sandbox import running_sandbox
from store.database import Database
from tests.actions.support import World, access_of, join
from tests.syncing import quiet_config


@pytest.fixture
async def world(database_place: tuple[str, str]) -> AsyncIterator[World]:
    """An org `acme` on a sandbox that does not throttle, synced, on each dialect."""
    config = quiet_config(accounts=1, leads=12, contacts=8, companies=3, talks=6)
    async with running_sandbox(config) as sandbox, Database.open(*database_place) as database:
        await database.ensure()
        await join(database, access_of(sandbox), like="world")
        yield World(database, sandbox)
