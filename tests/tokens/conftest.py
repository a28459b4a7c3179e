"""Fixtures of the tests of tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import Sandbox, running_sandbox
from store.database import Database
from tests.syncing import quiet_config
from tests.tokens.process import Wish
from tests.tokens.support import FileBlocks, Installation, app_of


@pytest.fixture
async def kommo() -> AsyncIterator[Sandbox]:
    """A sandbox with two small accounts that does not throttle."""
    async with running_sandbox(
        quiet_config(accounts=2, leads=1, contacts=1, companies=1, talks=0)
    ) as sandbox:
        yield sandbox


@pytest.fixture
async def here(
    kommo: Sandbox, database_place: tuple[str, str], tmp_path: Path
) -> AsyncIterator[Installation]:
    """An installation on each database."""
    folder = tmp_path / "blocks"
    folder.mkdir()
    async with Database.open(*database_place) as database:
        await database.ensure()
        yield Installation(database, FileBlocks(folder), app_of(kommo))


@pytest.fixture
def wish(kommo: Sandbox, here: Installation, database_place: tuple[str, str], tmp_path: Path) -> Wish:
    """What a process of the tests is to do, before they say more."""
    del here
    known = kommo.world.integration
    app = {
        "client_id": known.client_id,
        "client_secret": known.client_secret,
        "redirect_uri": known.redirect_uri,
    }
    return Wish(database_place, str(tmp_path / "blocks"), app, 0.0)
