"""T1 to T4 in one process: who refreshes, what is kept before it is used, what is final and what is not."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from kommo.hosts import parse_host
from sandbox import Sandbox
from store import token_journal
from store.claims import take_claim
from store.connections import get_connection
from store.database import Database
from store.errors import DatabaseUnavailableError
from store.outbox import list_outbox
from store.token_journal import chain
from tasks.attempt import Step
from tasks.errors import (
    BlocksUnavailableError,
    ClaimLostError,
    NotConnectedError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RefreshUnknownError,
)
from tasks.tokens import RefreshingToken
from tests.tokens.support import Installation, a_day_passes, connected, token_calls, works


class DeathError(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


async def state_of(here: Installation, org: str = "acme") -> tuple[str, str | None]:
    connection = await get_connection(here.database, org)
    return connection.state, connection.reason_code


async def test_a_good_pair_is_given_without_a_call(here: Installation, kommo: Sandbox) -> None:
    await connected(here, kommo)
    calls = len(token_calls(kommo))
    async with here.refresher() as refresher:
        found = await refresher.fresh("acme")
    assert not found.called
    assert len(token_calls(kommo)) == calls


async def test_t1_many_tasks_that_want_one_pair_make_one_call(here: Installation, kommo: Sandbox) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    kommo.world.log.entries.clear()
    async with here.refresher() as one, here.refresher() as other:
        found = await asyncio.gather(*(refresher.fresh("acme") for refresher in (one, other) * 10))
    assert token_calls(kommo) == [200]
    assert len({pair.pair.fingerprint for pair in found}) == 1
    assert sum(pair.called for pair in found) == 1
    assert works(kommo, found[0].pair)


async def test_t2_the_pair_is_in_the_journal_before_anything_else_has_it(
    here: Installation, kommo: Sandbox
) -> None:
    before = await connected(here, kommo)
    a_day_passes(kommo, here)
    seen: dict[Step, tuple[int, str | None]] = {}

    async def reached(step: Step) -> None:
        block = await here.blocks.load("acme")
        assert block is not None
        seen[step] = (len((await chain(here.database, "acme")).edges), block.used)

    async with here.refresher(reached=reached) as refresher:
        await refresher.fresh("acme")
    assert list(seen) == [
        "wanted", "claimed", "reread", "calling", "answered", "journalled", "saved", "released"
    ]  # fmt: skip
    assert seen["answered"][0] == 1
    assert seen["journalled"][0] == 2
    assert seen["journalled"][1] != before.token_fingerprint
    assert seen["saved"][1] == before.token_fingerprint


async def test_a_refresh_tells_what_happened_and_moves_the_end(here: Installation, kommo: Sandbox) -> None:
    before = await connected(here, kommo)
    a_day_passes(kommo, here)
    heard: list[tuple[str, str, dict[str, object]]] = []
    async with here.refresher(announce=lambda *told: heard.append(told)) as refresher:
        await refresher.fresh("acme")
    after = await get_connection(here.database, "acme")
    assert [(event, org) for event, org, _ in heard] == [("kommo.connection.refreshed", "acme")]
    assert [one.type for one in await list_outbox(here.database)] == ["kommo.connection.refreshed"]
    assert before.expires_at is not None
    assert after.expires_at is not None
    assert after.expires_at > before.expires_at + timedelta(hours=24)
    assert after.token_serial == before.token_serial + 1
    assert after.state == "connected"


async def test_t2_prefect_down_while_the_pair_arrives_loses_nothing(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)

    async def reached(step: Step) -> None:
        if step == "answered":
            here.blocks.down = True

    async with here.refresher(reached=reached) as refresher:
        first = await refresher.fresh("acme")
    assert works(kommo, first.pair)
    async with here.refresher() as refresher:  # still down: the journal alone serves
        assert (await refresher.fresh("acme")).pair.fingerprint == first.pair.fingerprint
    here.blocks.down = False
    async with here.refresher() as refresher:
        second = await refresher.fresh("acme")
    assert not second.called
    block = await here.blocks.load("acme")
    assert block is not None
    assert block.refresh_token == first.pair.refresh_token
    assert (await get_connection(here.database, "acme")).token_fingerprint == first.pair.fingerprint


async def test_t2_the_database_down_while_the_pair_arrives_loses_nothing(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    down = False
    begin = Database.begin

    def begin_or_not(self: Database, **options: Any) -> Any:
        if down:
            raise DatabaseUnavailableError("The database does not answer.")
        return begin(self, **options)

    async def reached(step: Step) -> None:
        nonlocal down
        down = down or step == "answered"

    monkeypatch.setattr(Database, "begin", begin_or_not)
    async with here.refresher(reached=reached, claim_seconds=0.5) as refresher:
        first = await refresher.fresh("acme")
    assert works(kommo, first.pair)
    assert len((await chain(here.database, "acme")).edges) == 1
    down = False
    async with here.refresher() as refresher:
        second = await refresher.fresh("acme")
    assert not second.called
    assert second.pair.fingerprint == first.pair.fingerprint
    a_day_passes(kommo, here)
    async with here.refresher() as refresher:
        third = await refresher.fresh("acme")
    assert third.called
    assert works(kommo, third.pair)


async def test_t2_with_both_down_the_pair_is_held_on_to_until_one_takes_it(
    here: Installation, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    refusals, append = 0, token_journal.append_pair

    async def append_or_not(*arguments: Any, **more: Any) -> Any:
        nonlocal refusals
        if refusals < 4:
            refusals += 1
            raise DatabaseUnavailableError("The database does not answer.")
        return await append(*arguments, **more)

    async def reached(step: Step) -> None:
        here.blocks.down = step == "answered" or here.blocks.down

    monkeypatch.setattr("tasks.vault.append_pair", append_or_not)
    async with here.refresher(reached=reached) as refresher:
        found = await refresher.fresh("acme")
    assert refusals == 4
    assert works(kommo, found.pair)
    here.blocks.down = False
    assert (await here.held()).fingerprint == found.pair.fingerprint


@pytest.mark.parametrize("kind", ["500", "502", "401", "429_html", "403_html", "reset", "truncate"])
async def test_t4_temporary_faults_never_end_a_connection(
    here: Installation, kommo: Sandbox, kind: str
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    kommo.world.faults.add(kind=kind, rate=1.0, path="/oauth2/", retry_after=0.01)
    async with here.refresher() as refresher:
        with pytest.raises(RefreshFailedError):
            await refresher.fresh("acme")
    state, code = await state_of(here)
    assert state in {"degraded", "outcome_unknown"}
    assert code
    kommo.world.faults.rules.clear()
    async with here.refresher() as refresher:
        found = await refresher.fresh("acme")
    assert works(kommo, found.pair)
    assert await state_of(here) == ("connected", None)
    assert [one.type for one in await list_outbox(here.database)] == ["kommo.connection.refreshed"]


async def test_r2_a_refresh_that_was_too_fast_waits_and_is_done_in_the_same_run(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    kommo.world.log.entries.clear()
    kommo.world.faults.add(kind="429", times=1, path="/oauth2/access_token", retry_after=0.2)
    async with here.refresher() as refresher:
        found = await refresher.fresh("acme")
    assert works(kommo, found.pair)
    assert token_calls(kommo) == [429, 200]


async def test_t4_a_revoked_token_asks_for_a_person_once(here: Installation, kommo: Sandbox) -> None:
    account = await connected(here, kommo)
    assert account.account_id is not None
    a_day_passes(kommo, here)
    kommo.world.oauth.revoke(account.account_id)
    heard: list[str] = []
    for _ in range(2):
        async with here.refresher(announce=lambda event, *_: heard.append(event)) as refresher:
            with pytest.raises(ReauthorizationRequiredError, match="Authorize the account again"):
                await refresher.fresh("acme")
    assert await state_of(here) == ("reauthorization_required", "token_refused")
    told = await list_outbox(here.database, org="acme")
    assert [(one.type, one.payload["reason"]) for one in told] == [
        ("integration_error", "token_refused"),
        ("kommo.connection.reauthorization_required", "token_refused"),
    ]
    assert heard[0] == "kommo.connection.reauthorization_required"


async def test_t4_wrong_settings_of_ours_kill_no_connection(here: Installation, kommo: Sandbox) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    right = here.app
    here.app = right.model_copy(update={"client_secret": SecretStr("wrong"), "sealing_keys": SecretStr("")})
    # The key of the journal is derived from the secret; the pair is in the block, so it is not needed here.
    async with here.refresher() as refresher:
        with pytest.raises(RefreshFailedError):
            await refresher.fresh("acme")
    assert await state_of(here) == ("degraded", "app_misconfigured")
    here.app = right
    async with here.refresher() as refresher:
        assert (await refresher.fresh("acme")).called


async def test_a_moved_account_is_followed(here: Installation, kommo: Sandbox) -> None:
    before = await connected(here, kommo)
    a_day_passes(kommo, here)
    kommo.world.rename(kommo.account("acme"), "acme-new")
    heard: list[tuple[str, str, dict[str, object]]] = []
    async with here.refresher(announce=lambda *told: heard.append(told)) as refresher:
        found = await refresher.fresh("acme")
    after = await get_connection(here.database, "acme")
    assert found.moved_from == before.host
    assert (
        after.host
        == found.pair.host
        == parse_host(before.host.replace("acme.", "acme-new."), allow_loopback=True).name
    )
    assert after.state == "connected"
    assert ("kommo.connection.moved", "acme") in [(event, org) for event, org, _ in heard]
    told = await list_outbox(here.database, org="acme")
    assert [one.type for one in told] == ["kommo.connection.moved", "kommo.connection.refreshed"]
    assert told[0].payload["moved_from"] != told[0].payload["host"] == told[1].payload["host"]
    assert works(kommo, found.pair)


async def test_t3_the_next_process_repeats_a_call_whose_answer_nobody_saw(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    states: list[str] = []

    async def die(step: Step) -> None:
        if step == "answered":
            raise DeathError

    with pytest.raises(DeathError):
        async with here.refresher(reached=die, claim_seconds=0.3) as refresher:
            await refresher.fresh("acme")

    async def note(_: Step) -> None:
        states.append((await state_of(here))[0])

    async with here.refresher(reached=note) as refresher:
        found = await refresher.fresh("acme")
    assert "outcome_unknown" in states
    assert found.called
    assert works(kommo, found.pair)
    assert await state_of(here) == ("connected", None)


async def test_t3_where_the_old_token_is_dead_at_once_the_loss_is_named(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    kommo.world.oauth.mode = "dead"

    async def die(step: Step) -> None:
        if step == "answered":
            raise DeathError

    with pytest.raises(DeathError):
        async with here.refresher(reached=die, claim_seconds=0.3) as refresher:
            await refresher.fresh("acme")
    async with here.refresher() as refresher:
        with pytest.raises(ReauthorizationRequiredError, match="outcome_unknown"):
            await refresher.fresh("acme")
    assert await state_of(here) == ("reauthorization_required", "outcome_unknown")


async def test_a_spare_pair_saves_a_connection_whose_current_one_is_dead(
    here: Installation, kommo: Sandbox
) -> None:
    """A stalled process got a pair after another one had: Kommo honours only the younger of the two."""
    await connected(here, kommo)
    a_day_passes(kommo, here)
    connection = await get_connection(here.database, "acme")
    old = await here.held()
    async with here.refresher() as refresher:
        current = (await refresher.fresh("acme")).pair
        late = await refresher._caller.oauth.refresh(
            parse_host(old.host, allow_loopback=True), old.refresh_token
        )
    await here.vault.keep(connection, late, old.host)
    assert (await here.held()).fingerprint == current.fingerprint
    assert not works(kommo, current)
    a_day_passes(kommo, here)
    async with here.refresher() as refresher:
        found = await refresher.fresh("acme")
    assert works(kommo, found.pair)
    assert await state_of(here) == ("connected", None)
    assert (await here.held()).fingerprint == found.pair.fingerprint


async def test_a_process_that_was_held_up_before_the_call_sends_nothing(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    calls = len(token_calls(kommo))

    async def stall(step: Step) -> None:
        if step == "calling":
            await asyncio.sleep(0.4)

    async with here.refresher(reached=stall, claim_seconds=0.6) as refresher:
        with pytest.raises(ClaimLostError):
            await refresher.fresh("acme")
    assert len(token_calls(kommo)) == calls


async def test_a_block_that_was_overwritten_with_an_older_pair_is_put_right(
    here: Installation, kommo: Sandbox
) -> None:
    await connected(here, kommo)
    old = await here.blocks.load("acme")
    assert old is not None
    a_day_passes(kommo, here)
    async with here.refresher() as refresher:
        newest = (await refresher.fresh("acme")).pair
    await here.blocks.save("acme", old)
    async with here.refresher() as refresher:
        found = await refresher.fresh("acme")
    assert not found.called
    assert found.pair.fingerprint == newest.fingerprint
    block = await here.blocks.load("acme")
    assert block is not None
    assert block.refresh_token == newest.refresh_token


async def test_cancelling_a_run_does_not_throw_away_the_pair(here: Installation, kommo: Sandbox) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    answered = asyncio.Event()

    async def reached(step: Step) -> None:
        if step == "answered":
            answered.set()
            await asyncio.sleep(0.05)

    async with here.refresher(reached=reached) as refresher:
        wish = asyncio.ensure_future(refresher.fresh("acme"))
        await answered.wait()
        wish.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wish
    assert works(kommo, await here.held())
    async with here.refresher() as refresher:
        assert not (await refresher.fresh("acme")).called


async def test_who_waits_too_long_for_another_process_is_told(here: Installation, kommo: Sandbox) -> None:
    await connected(here, kommo)
    a_day_passes(kommo, here)
    assert await take_claim(here.database, "acme", "somebody else", 30) is not None
    async with here.refresher() as refresher:
        with pytest.raises(RefreshFailedError, match="Another process is refreshing"):
            await refresher.fresh("acme", patience=0.2)


async def test_only_prefect_has_it_and_prefect_is_down(here: Installation, kommo: Sandbox) -> None:
    await connected(here, kommo)
    connection = await get_connection(here.database, "acme")
    from store.token_journal import forget

    await forget(here.database, "acme")
    here.blocks.down = True
    with pytest.raises(BlocksUnavailableError):
        await here.vault.held(connection)
    here.blocks.down = False
    assert (await here.vault.held(connection)).in_block
    await here.blocks.delete("acme")
    with pytest.raises(NotConnectedError):
        await here.vault.held(connection)


class TestTheTokenOfAClient:
    async def test_it_is_refreshed_before_its_end(self, here: Installation, kommo: Sandbox) -> None:
        await connected(here, kommo)
        old = await here.held()
        here.clock.seconds += timedelta(hours=23, minutes=55).total_seconds()
        kommo.world.clock_offset = here.clock.seconds
        async with here.refresher() as refresher:
            source = RefreshingToken(refresher, "acme", old, here.clock)
            tokens = await asyncio.gather(*(source.current() for _ in range(5)))
        assert len(set(tokens)) == 1
        assert tokens[0] != old.access_token

    async def test_while_it_is_good_a_failing_refresh_stops_nobody(
        self, here: Installation, kommo: Sandbox
    ) -> None:
        await connected(here, kommo)
        old = await here.held()
        here.clock.seconds += timedelta(hours=23, minutes=55).total_seconds()
        kommo.world.clock_offset = here.clock.seconds
        kommo.world.faults.add(kind="500", rate=1.0, path="/oauth2/access_token")
        async with here.refresher() as refresher:
            assert await RefreshingToken(refresher, "acme", old, here.clock).current() == old.access_token
            here.clock.seconds += 300
            with pytest.raises(RefreshUnknownError):
                await RefreshingToken(refresher, "acme", old, here.clock).current()

    async def test_a_401_brings_a_newer_one_for_all_who_met_it(
        self, here: Installation, kommo: Sandbox
    ) -> None:
        await connected(here, kommo)
        old = await here.held()
        kommo.world.log.entries.clear()
        async with here.refresher() as refresher:
            source = RefreshingToken(refresher, "acme", old, here.clock)
            newer = await asyncio.gather(*(source.refused(old.access_token) for _ in range(5)))
        assert len(set(newer)) == 1
        assert newer[0] not in {None, old.access_token}
        assert token_calls(kommo) == [200]
