"""T2 with real servers: Prefect, the database or both are away at the moment at which Kommo's new pair arrives."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy.engine import make_url

from sandbox import Sandbox
from store.connections import get_connection
from store.token_journal import chain
from tasks.credentials import PrefectBlocks
from tasks.vault import STORE_WITHIN
from tests.proofs.support import FULL
from tests.tokens.process import Wish, digest, stopped_process
from tests.tokens.support import Installation, a_day_passes, connected, token_calls, works
from tests.tokens.wire import FileLock, Wire, wire_to

pytestmark = pytest.mark.proof

OUTAGE = 60.0 if FULL else 1.0
ORG = "outage"


@dataclass(frozen=True)
class Wires:
    """How a process reaches its servers."""

    prefect: Wire
    database: Wire | FileLock
    prefect_api: str
    database_url: str

    async def cut(self, what: str, *, silent: bool) -> None:
        """Cut one of them or both."""
        for wire in self._named(what):
            await (wire.fall_silent() if silent else wire.refuse())

    async def mend(self, what: str) -> None:
        for wire in self._named(what):
            await wire.mend()

    def _named(self, what: str) -> list[Wire | FileLock]:
        named: dict[str, list[Wire | FileLock]] = {
            "prefect": [self.prefect],
            "database": [self.database],
            "both": [self.prefect, self.database],
        }
        return named[what]


@asynccontextmanager
async def _wired(place: tuple[str, str], prefect_api: str) -> AsyncIterator[Wires]:
    async with AsyncExitStack() as stack:
        server, url = urlsplit(prefect_api), make_url(place[0])
        prefect = await stack.enter_async_context(wire_to(server.hostname or "", server.port or 80))
        database: Wire | FileLock
        if url.host is None:
            database = FileLock(Path(url.database or ""))
        else:
            database = await stack.enter_async_context(wire_to(url.host, url.port or 5432))
            url = url.set(host="127.0.0.1", port=database.port)
        yield Wires(
            prefect,
            database,
            f"http://127.0.0.1:{prefect.port}/api",
            url.render_as_string(hide_password=False),
        )


@pytest.fixture
async def blocks(prefect_api: str) -> AsyncIterator[PrefectBlocks]:
    """The blocks as somebody sees them who is not cut off."""
    del prefect_api
    async with PrefectBlocks() as blocks:
        yield blocks
        await blocks.delete(ORG)


def _cases() -> list[tuple[str, bool]]:
    """What is down, and whether it is silent instead of refusing; by default silence once only."""
    if not FULL:
        return [("prefect", False), ("database", False), ("both", True)]
    return [(what, silent) for silent in (False, True) for what in ("prefect", "database", "both")]


@pytest.mark.whole_service
@pytest.mark.seconds(5)
@pytest.mark.parametrize(("what", "silent"), _cases())
async def test_t2_a_pair_that_arrives_in_an_outage_is_not_lost(
    here: Installation,
    kommo: Sandbox,
    wish: Wish,
    blocks: PrefectBlocks,
    prefect_api: str,
    database_place: tuple[str, str],
    what: str,
    *,
    silent: bool,
) -> None:
    await connected(here, kommo, ORG)
    made = await here.blocks.load(ORG)
    assert made is not None
    await blocks.save(ORG, made)
    a_day_passes(kommo, here)
    kommo.world.log.entries.clear()
    async with _wired(database_place, prefect_api) as wires:
        wish = replace(
            wish,
            place=(wires.database_url, database_place[1]),
            offset=here.clock.seconds,
            org=ORG,
            claim_seconds=60.0,
            stop_at="answered",
            prefect=wires.prefect_api,
        )
        async with stopped_process(wish) as refreshing:
            await wires.cut(what, silent=silent)
            refreshing.go_on()
            begun = time.monotonic()
            ending = asyncio.ensure_future(refreshing.end(OUTAGE + 120))
            await asyncio.sleep(OUTAGE)
            await wires.mend(what)
            ended = await ending
    assert ended.error is None
    durable = ended.steps["journalled"] - begun
    print(  # noqa: T201 - shown with -s
        f"\n{what} {'silent' if silent else 'refusing'} for {OUTAGE:.0f} s: the pair was durable after {durable:.1f} s"
    )
    # What is up takes it in the middle of the outage; if nothing is, it is held on to.
    assert what != "both" or durable > OUTAGE - 1
    assert what == "both" or not FULL or durable < STORE_WITHIN + 5
    assert token_calls(kommo) == [200]
    # Whoever comes next finds the pair, and makes good what could not be done in the outage.
    async with here.refresher(blocks=blocks) as refresher:
        found = await refresher.fresh(ORG)
    assert not found.called
    assert digest(found.pair.access_token) == ended.access
    assert works(kommo, found.pair)
    block, connection = await blocks.load(ORG), await get_connection(here.database, ORG)
    assert block is not None
    assert digest(block.access_token) == ended.access
    assert (connection.state, connection.token_fingerprint) == ("connected", found.pair.fingerprint)
    assert (await chain(here.database, ORG)).path()[-1] == found.pair.fingerprint
    assert token_calls(kommo) == [200]
