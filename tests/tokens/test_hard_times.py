"""T1 to T4 when several things go wrong at once: what must not be lost, and what must not come back."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from kommo.hosts import parse_host
from sandbox import Sandbox
from store import token_journal
from store.claims import Claim, take_claim
from store.connections import get_connection, put_connection, set_state
from store.database import Database
from store.errors import DatabaseUnavailableError
from store.purge import purge_org
from store.token_journal import chain, forget
from tasks.errors import ClaimLostError, NotConnectedError, RefreshFailedError
from tasks.refresh_due import RefreshSession, refresh_due
from tasks.tokens import RefreshingToken
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


async def test_t2_a_database_that_has_fallen_silent_does_not_keep_the_pair_from_the_block(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error ends the wait for a host that is not there any more, only time does."""
    await connected(here, kommo)
    a_day_passes(kommo, here)

    async def silence(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr("tasks.vault.STORE_WITHIN", 0.05)
        patch.setattr("tasks.calling.STORE_WITHIN", 0.05)
        for name in ("vault.append_pair", "vault.promote", "calling.release"):
            patch.setattr(f"tasks.{name}", silence)
        async with asyncio.timeout(5), here.refresher() as refresher:
            found = await refresher.fresh("acme")
    assert works(kommo, found.pair)
    block = await here.blocks.load("acme")
    assert block is not None
    assert block.access_token == found.pair.access_token
    assert (await here.held()).fingerprint == found.pair.fingerprint


async def test_t2_a_pair_got_with_a_spare_one_is_kept_before_anything_else(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    connection, old = await get_connection(here.database, "acme"), await here.held()
    async with here.refresher() as refresher:
        await refresher.fresh("acme")
        late = await refresher._caller.oauth.refresh(
            parse_host(old.host, allow_loopback=True), old.refresh_token
        )
    await here.vault.keep(connection, late, old.host)
    a_day_passes(kommo, here)

    async def unavailable(*_: Any, **__: Any) -> bool:
        raise DatabaseUnavailableError("The database does not answer.")

    monkeypatch.setattr("tasks.refused.mark_dead", unavailable)
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


async def _disconnect(here: Installation, *, purge: bool) -> None:
    """As `tasks.disconnect` does, without a Prefect server."""
    await here.blocks.delete("acme")
    await set_state(here.database, "acme", "disconnected", "A person did it.", now=here.clock.now())
    await forget(here.database, "acme")
    if purge:
        await purge_org(here.database, "acme", now=here.clock.now())


@pytest.mark.parametrize("purge", [False, True])
async def test_a_refresh_that_was_under_way_does_not_bring_the_tokens_of_an_ended_connection_back(
    here: Installation, kommo: Sandbox, *, purge: bool
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)

    async def reached(step: str) -> None:
        if step == "answered":
            await _disconnect(here, purge=purge)

    async with here.refresher(reached=reached) as refresher:
        with pytest.raises(NotConnectedError, match="disconnected"):
            await refresher.fresh("acme")
    assert await here.blocks.load("acme") is None
    assert (await chain(here.database, "acme")).edges == ()
    if not purge:
        assert (await get_connection(here.database, "acme")).state == "disconnected"
        async with here.refresher() as refresher:
            with pytest.raises(NotConnectedError, match="disconnected"):
                await refresher.fresh("acme")


async def test_a_refresh_that_fails_does_not_revive_an_ended_connection(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    kommo.world.faults.add(kind="429_html", rate=1.0, path="/oauth2/access_token", retry_after=0.01)

    async def reached(step: str) -> None:
        if step == "calling":
            await _disconnect(here, purge=False)

    async with here.refresher(reached=reached) as refresher:
        with pytest.raises(RefreshFailedError):
            await refresher.fresh("acme")
    assert (await get_connection(here.database, "acme")).state == "disconnected"


async def test_t4_a_refresh_that_fails_says_nothing_about_a_consent_that_came_meanwhile(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    kommo.world.faults.add(kind="429_html", rate=1.0, path="/oauth2/access_token", retry_after=0.01)

    async def reached(step: str) -> None:
        if step == "calling":
            kommo.world.faults.rules.clear()
            await connected(here, kommo)
            kommo.world.faults.add(kind="429_html", rate=1.0, path="/oauth2/access_token", retry_after=0.01)

    async with here.refresher(reached=reached) as refresher:
        with pytest.raises(RefreshFailedError):
            await refresher.fresh("acme")
    after = await get_connection(here.database, "acme")
    assert (after.state, after.refresh_attempts) == ("connected", 0)


@pytest.mark.parametrize("kind", ["500", "429_html"])
async def test_t3_a_failed_refresh_of_a_young_pair_is_settled_by_the_next_run(
    here: Installation, kommo: Sandbox, kind: str
) -> None:
    await connected(here, kommo)
    kommo.world.faults.add(kind=kind, rate=1.0, path="/oauth2/access_token", retry_after=0.01)
    async with here.refresher() as refresher:
        with pytest.raises(RefreshFailedError):
            await refresher.fresh("acme", force=True)
    kommo.world.faults.rules.clear()
    here.clock.seconds += 120
    kommo.world.clock_offset += 120
    async with here.refresher() as refresher:
        session = RefreshSession(here.database, refresher, here.clock)
        report = await refresh_due.fn(session, "6h", timedelta(hours=6), concurrency=1)
    assert (report.due, report.refreshed) == (1, 1)
    assert (await get_connection(here.database, "acme")).state == "connected"


async def test_t2_a_pair_that_only_the_block_could_take_is_in_the_journal_later(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await here.blocks.load("acme") if await connected(here, kommo) else None
    assert before is not None
    a_day_passes(kommo, here)

    async def unavailable(*_: Any, **__: Any) -> Any:
        raise DatabaseUnavailableError("The database does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.vault.append_pair", unavailable)
        patch.setattr("tasks.vault.promote", unavailable)
        async with here.refresher() as refresher:
            found = (await refresher.fresh("acme")).pair
    async with here.refresher() as refresher:
        assert not (await refresher.fresh("acme")).called
    after = await get_connection(here.database, "acme")
    assert (after.token_fingerprint, after.expires_at) == (found.fingerprint, found.expires_at)
    await here.blocks.save("acme", before)  # an old process overwrites it: the journal leads on
    held = await here.held()
    assert (held.fingerprint, held.access_token) == (found.fingerprint, found.access_token)


async def test_a_long_lived_token_is_not_refreshed_and_that_is_said(
    here: Installation, kommo: Sandbox
) -> None:
    await put_connection(
        here.database,
        org="acme",
        block_name="org-acme",
        host=kommo.account("acme").host,
        token_kind="long_lived",
        now=here.clock.now(),
    )
    async with here.refresher() as refresher:
        with pytest.raises(NotConnectedError, match="long-lived"):
            await refresher.fresh("acme")


async def test_while_a_token_is_good_a_failing_refresh_is_not_tried_for_each_request(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    old = await here.held()
    here.clock.seconds += timedelta(hours=23, minutes=55).total_seconds()
    kommo.world.clock_offset = here.clock.seconds
    kommo.world.faults.add(kind="429_html", rate=1.0, path="/oauth2/access_token", retry_after=0.01)
    before = len(token_calls(kommo))
    async with here.refresher() as refresher:
        source = RefreshingToken(refresher, "acme", old, here.clock)
        for _ in range(5):
            assert await source.current() == old.access_token
        assert len(token_calls(kommo)) == before + 3  # those of one refresh
        here.blocks.down = True
        assert await RefreshingToken(refresher, "acme", old, here.clock).current() == old.access_token
