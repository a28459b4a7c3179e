"""T1 to T4 when several things go wrong at once: what must not be lost, and what must not come back."""

import asyncio
from typing import Any

import pytest

from kommo.hosts import parse_host
from sandbox import Sandbox
from store import token_journal
from store.claims import Claim, take_claim
from store.connections import get_connection
from store.database import Database
from store.errors import DatabaseUnavailableError
from tasks.errors import ClaimLostError
from tests.tokens.support import Installation, a_day_passes, connected, token_calls, works


async def test_t2_a_pair_is_held_on_to_whatever_ails_the_database(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby that has just become read-only, a full disk: errors that nobody has a sentence for."""
    await connected(here, kommo)
    a_day_passes(kommo, here)
    refusals, append = 0, token_journal.append_pair

    async def append_or_not(*arguments: Any, **more: Any) -> Any:
        nonlocal refusals
        here.blocks.down = refusals < 3
        if refusals < 3:
            refusals += 1
            raise RuntimeError("cannot execute INSERT in a read-only transaction")
        return await append(*arguments, **more)

    monkeypatch.setattr("tasks.vault.append_pair", append_or_not)
    async with here.refresher() as refresher:
        found = await refresher.fresh("acme")
    assert refusals == 3
    assert works(kommo, found.pair)


async def test_t2_a_pair_got_with_a_spare_one_is_kept_before_anything_else(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    connection, old = await get_connection(here.database, "acme"), await here.held()
    async with here.refresher() as refresher:
        await refresher.fresh("acme")
        late = await refresher._oauth.refresh(parse_host(old.host, allow_loopback=True), old.refresh_token)
    await here.vault.keep(connection, late, old.host)
    a_day_passes(kommo, here)

    async def unavailable(*_: Any, **__: Any) -> bool:
        raise DatabaseUnavailableError("The database does not answer.")

    monkeypatch.setattr("tasks.refresh.mark_dead", unavailable)
    async with here.refresher() as refresher:
        found = await refresher.fresh("acme")
    assert works(kommo, found.pair)
    assert works(kommo, await here.held())


async def test_t2_cancelling_again_and_again_does_not_throw_away_the_pair(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    answered = asyncio.Event()

    async def reached(step: str) -> None:
        if step == "answered":
            answered.set()
            await asyncio.sleep(0.05)

    async with here.refresher(reached=reached) as refresher:
        wish = asyncio.ensure_future(refresher.fresh("acme"))
        await answered.wait()
        while not wish.done():
            wish.cancel()
            await asyncio.sleep(0.005)
        assert wish.cancelled()
        assert works(kommo, await here.held())


async def test_t1_a_process_held_up_while_it_took_the_claim_counts_from_before(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    calls = len(token_calls(kommo))

    async def slowly(db: Database, org: str, owner: str, seconds: float) -> Claim | None:
        claim = await take_claim(db, org, owner, seconds)
        await asyncio.sleep(0.6)
        return claim

    monkeypatch.setattr("tasks.refresh.take_claim", slowly)
    async with here.refresher(claim_seconds=1.0) as refresher:
        with pytest.raises(ClaimLostError):
            await refresher.fresh("acme")
    assert len(token_calls(kommo)) == calls
