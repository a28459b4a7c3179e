"""Who does what at the same moment: two set-ups, a set-up and a disconnection, comparisons with a gap between them."""

import asyncio
from datetime import timedelta
from typing import Any, Self

import pytest

from blocks.settings import Settings
from kommo.clock import SystemClock
from kommo.subscriptions import subscribe
from store.completeness import latest_completeness
from store.connections import get_connection, put_connection
from store.database import Database
from store.mirror import record_states
from store.purge import purge_org
from store.subscriptions import get_subscription
from store.webhook_keys import find_key, hash_of_key, list_keys
from tasks import disconnect, reconcile, subscription
from tasks.disconnect import confirm_uninstall
from tasks.errors import NotConnectedError
from tasks.reconcile import where_to_begin
from tasks.subscription import KEY_KNOWN_SECONDS
from tests.reconcile.support import Office, opened
from tests.webhooks.backlog_support import deliver, happening, inbox

QUIET = timedelta(0)


@pytest.fixture(autouse=True)
def no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens to Prefect's events here."""
    monkeypatch.setattr(disconnect, "emit_org_event", lambda *_: None)


async def ended(office: Office) -> None:
    """A person disconnects the org, as far as the store goes."""
    await disconnect._end(office.database, "acme", "A person did it.", "disconnected_here", office.clock)


async def good_hooks(office: Office) -> list[bool]:
    """For each subscription at Kommo whether its deliveries would be taken in."""
    return [
        await find_key(office.database, hash_of_key(hook["destination"].rpartition("/")[2])) is not None
        for hook in office.hooks
    ]


async def test_w5_of_two_that_set_the_webhooks_up_at_once_one_subscription_is_left_and_works(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = asyncio.Barrier(2)

    async def together(*given: Any, **more: Any) -> Any:
        await both.wait()
        made = await subscribe(*given, **more)
        await both.wait()
        return made

    monkeypatch.setattr(subscription, "subscribe", together)
    async with opened(db) as office:
        (one, _), (other, _) = await asyncio.gather(office.subscribe(), office.subscribe())
        assert await good_hooks(office) == [True]
        assert one.key_hash == other.key_hash
        known = await get_subscription(db, "acme")
        assert known is not None
        assert (known.state, known.key_hash) == ("on", one.key_hash)


@pytest.mark.parametrize("when", ["before Kommo is told", "after Kommo was told"])
async def test_w5_a_disconnection_in_the_middle_leaves_neither_a_key_nor_a_subscription(
    db: Database, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with opened(db) as office:

        async def interrupted(*given: Any, **more: Any) -> Any:
            if when == "before Kommo is told":
                await ended(office)
            made = await subscribe(*given, **more)
            if when == "after Kommo was told":
                await ended(office)
            return made

        monkeypatch.setattr(subscription, "subscribe", interrupted)
        with pytest.raises(NotConnectedError):
            await office.subscribe()
        assert office.hooks == []
        assert all(key.revoked_at is not None for key in await list_keys(db, "acme"))
        known = await get_subscription(db, "acme")
        assert known is not None
        assert (known.state, known.key_hash) == ("off", None)


async def test_w5_nothing_is_set_up_for_a_connection_that_was_ended_before(db: Database) -> None:
    async with opened(db) as office:
        await ended(office)
        with pytest.raises(NotConnectedError):
            await office.subscribe()
        assert office.hooks == []
        assert await list_keys(db, "acme") == []


async def test_an_uninstall_of_the_former_consent_does_not_end_the_new_one(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(db) as office:

        async def meanwhile(*_: object) -> bool:
            await put_connection(
                db,
                org="acme",
                block_name="acme",
                host=office.connection.host,
                account_id=office.connection.account_id,
                token_kind="long_lived",
                now=office.clock.now(),
            )
            await office.subscribe()
            return False  # Kommo took the former token no more

        monkeypatch.setattr(disconnect, "_still_works", meanwhile)
        assert not await confirm_uninstall("acme", Settings(), database=db, clock=office.clock)
        assert (await get_connection(db, "acme")).state == "connected"
        assert await good_hooks(office) == [True]


async def test_w5_a_comparison_of_the_last_hour_does_not_hide_what_was_missed_before_it(
    db: Database,
) -> None:
    async with opened(db) as office:
        await office.subscribe()
        await office.pass_time(600)
        begin = await where_to_begin(db, "acme", office.clock.now())
        await office.reconcile(begin, grace=QUIET)
        await office.pass_time(600)
        missed = office.ids("leads")[0]
        office.rename("leads", missed, "unseen")
        await office.lose()
        await office.pass_time(7200)
        # Somebody looks at the last hour only.
        await office.reconcile(office.clock.now() - timedelta(hours=1), grace=QUIET)
        health = await office.check(compare_after=timedelta(minutes=30))
        assert health.orgs[0].reconciled is not None
        assert health.orgs[0].reconciled.total("changes") == 1
        await office.assert_level("leads", [missed])
        # The gap is closed: the next one begins where this one ended.
        begin = await where_to_begin(db, "acme", office.clock.now())
        assert begin > office.clock.now() - timedelta(minutes=5)


async def test_w5_the_first_comparison_of_an_org_may_not_leave_out_its_beginning_either(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        begun = await where_to_begin(db, "acme", office.clock.now())
        await office.pass_time(7200)
        await office.reconcile(office.clock.now() - timedelta(hours=1), grace=QUIET)
        assert await where_to_begin(db, "acme", office.clock.now()) == begun


async def test_w5_what_was_told_and_given_up_is_brought_level_all_the_same(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        since, number = office.clock.now() - timedelta(seconds=1), office.ids("leads")[0]
        office.rename("leads", number, "given up")
        await office.take_in()
        await office.give_up()
        report = await office.reconcile(since, grace=QUIET)
        assert [report.total(name) for name in ("changes", "arrived", "repaired")] == [1, 1, 1]
        await office.assert_level("leads", [number])
        assert report.told == {"kommo.lead.updated": 1}
        again = await office.reconcile(since, grace=QUIET)
        assert (again.total("repaired"), again.told) == (0, {})


async def test_w5_a_record_that_cannot_be_read_does_not_stop_the_comparison_and_is_said(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        since, (odd, other) = office.clock.now() - timedelta(seconds=1), office.ids("leads")[:2]
        office.rename("leads", other, "unseen")
        office.rename("leads", odd, "odd")
        office.change("patch", kind="leads", id=odd, values={"responsible_user_id": "nobody"})
        await office.lose()
        report = await office.reconcile(since, grace=QUIET)
        assert [report.total(name) for name in ("changes", "arrived", "repaired")] == [2, 0, 1]
        assert "1 records could not be read" in report.notes[0]
        assert "nobody" not in report.notes[0]
        measured = (await latest_completeness(db))["acme"]
        assert (measured.share, measured.whole) == (0.0, False)
        await office.pass_time(5)
        again = await office.reconcile(office.clock.now(), grace=QUIET)
        assert again.notes == []
        assert (await latest_completeness(db))["acme"].whole
        await office.assert_level("leads", [other])


async def test_w5_a_comparison_by_a_clock_that_was_fast_hides_nothing(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        await office.pass_time(600)
        await office.reconcile(await where_to_begin(db, "acme", office.clock.now()), grace=QUIET)
        begin = await where_to_begin(db, "acme", office.clock.now())
        tomorrow = timedelta(days=1)
        await office.reconcile(begin, grace=-tomorrow)  # as if it were tomorrow already
        assert await where_to_begin(db, "acme", office.clock.now()) == begin


class NoBlocks:
    """Stands in for Prefect's blocks: there are none."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def delete(self, org: str) -> None:
        del org


async def test_a_purge_also_removes_what_a_gateway_took_in_before_it_knew(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(disconnect, "PrefectBlocks", NoBlocks)
    monkeypatch.setattr(disconnect, "unsubscribe_leaving", nothing)
    slept: list[float] = []

    class Sleeping(SystemClock):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            await deliver(db, "acme", happening("leads", "update", 1))

    async with opened(db) as office:
        await office.subscribe()
        await disconnect.disconnect("acme", Settings(), database=db, purge=True, clock=Sleeping())
    assert slept[0] > KEY_KNOWN_SECONDS
    assert await inbox(db, "acme") == []


async def test_w5_a_comparison_that_is_under_way_leaves_nothing_of_a_connection_that_was_ended(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(db) as office:
        since, number = office.clock.now() - timedelta(seconds=1), office.ids("leads")[0]
        office.rename("leads", number, "unseen")

        async def purged(*given: Any, **more: Any) -> Any:
            await ended(office)
            await purge_org(db, "acme", now=office.clock.now())
            return await record_states(*given, **more)

        monkeypatch.setattr(reconcile, "record_states", purged)
        with pytest.raises(NotConnectedError):
            await office.reconcile(since, grace=QUIET)
        assert await record_states(db, "acme", "leads") == {}
        assert await office.told() == [
            one for one in await office.told() if one.type.startswith("integration")
        ]
