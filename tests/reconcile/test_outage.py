"""W5: a gateway that was down for so long that Kommo switched its webhooks off: noticed, switched on, the gap read."""

from datetime import timedelta

from store.database import Database
from store.subscriptions import get_subscription
from tests.reconcile.support import Office, opened

CHANGES = 120
"""More than a hundred bad answers: Kommo switches the subscription off."""
HOUR = 3_600.0


async def _day_before(office: Office) -> None:
    """An org whose webhooks arrive, and that has been compared."""
    await office.subscribe()
    for number in office.ids("leads")[:3]:
        office.rename("leads", number, "before")
    await office.take_in()
    await office.work()
    await office.pass_time(HOUR)
    health = await office.check(compare_after=timedelta(hours=6))
    (one,) = health.orgs
    assert (one.found, one.state) == ("good", "on")
    assert one.reconciled is not None
    assert (one.reconciled.total("changes"), one.reconciled.total("arrived")) == (3, 3)


async def test_w5_an_outage_that_ends_the_subscription_leaves_no_gap(db: Database) -> None:
    async with opened(db) as office:
        await _day_before(office)
        leads, contacts = office.ids("leads"), office.ids("contacts")
        office.receiver.status = 503
        for number in range(CHANGES):
            office.rename("leads", leads[number % len(leads)], f"down {number}")
        gone = contacts[0]
        office.change("delete_record", entity="contacts", id=gone)
        new = office.change("add_record", entity="companies", values={"name": "Down"})["id"]
        await office.lose()
        await office.pass_time(HOUR)
        await office.lose()
        assert office.hooks[0]["disabled"]
        office.receiver.status = 200
        office.rename("leads", leads[0], "up, but switched off")
        await office.sent()
        assert await office.take_in() == 0
        await office.pass_time(600)

        health = await office.check(compare_after=timedelta(hours=6))
        (one,) = health.orgs
        assert (one.found, one.state) == ("disabled", "on")
        assert not office.hooks[0]["disabled"]
        report = one.reconciled
        assert report is not None
        assert report.total("changes") == len(leads) + 2
        assert report.total("arrived") == 0
        assert report.total("repaired") >= len(leads) + 1
        await office.assert_level("leads", leads)
        await office.assert_level("companies", [new])
        await office.assert_level("contacts", [gone])
        assert [name for name, _, _ in office.announced if name.startswith("kommo.webhooks")][-2:] == [
            "kommo.webhooks.disabled",
            "kommo.webhooks.reconciled",
        ]
        stored = await get_subscription(db, "acme")
        assert stored is not None
        assert stored.disabled_seen_at is not None

        office.rename("leads", leads[1], "up again")
        assert await office.take_in() == 1
        await office.work()
        await office.pass_time(600)
        (after,) = (await office.check(compare_after=timedelta(0))).orgs
        assert after.reconciled is not None
        assert (after.reconciled.total("changes"), after.reconciled.share) == (1, 1.0)


async def test_w5_a_short_outage_is_bridged_by_kommos_repetitions(db: Database) -> None:
    async with opened(db) as office:
        await _day_before(office)
        leads = office.ids("leads")
        office.receiver.status = 503
        for number in leads:
            office.rename("leads", number, "down")
        await office.lose()
        office.receiver.status = 200
        await office.pass_time(HOUR)
        assert await office.take_in() == len(leads)
        await office.work()
        (one,) = (await office.check(compare_after=timedelta(minutes=30))).orgs
        assert one.reconciled is not None
        assert (one.reconciled.total("changes"), one.reconciled.share) == (len(leads), 1.0)
        await office.assert_level("leads", leads)


async def test_w5_a_subscription_that_is_gone_is_made_anew_and_its_gap_read(db: Database) -> None:
    async with opened(db) as office:
        await _day_before(office)
        office.sandbox.account("acme").webhooks.remove(office.hooks[0]["id"])
        number = office.ids("leads")[0]
        office.rename("leads", number, "nobody hears")
        await office.pass_time(HOUR)
        (one,) = (await office.check(compare_after=timedelta(days=1))).orgs
        assert (one.found, one.state, len(office.hooks)) == ("missing", "on", 1)
        assert one.reconciled is not None
        assert (one.reconciled.total("changes"), one.reconciled.total("repaired")) == (1, 1)
        await office.assert_level("leads", [number])


async def test_w5_an_account_that_may_not_have_webhooks_is_compared_all_the_more(db: Database) -> None:
    async with opened(db, admin=False) as office:
        office.rename("leads", office.ids("leads")[0], "nobody hears")
        await office.pass_time(HOUR)
        health = await office.check(compare_after=timedelta(hours=6))
        (one,) = health.orgs
        assert (one.found, one.state) == ("unknown", "off")
        assert one.reconciled is not None
        assert one.reconciled.total("repaired") >= 1
        assert "0 of 1 subscriptions are on" in health.summary()


async def test_an_org_that_fails_is_named_and_its_subscription_is_looked_after(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        await office.pass_time(HOUR)
        office.sandbox.world.faults.add(kind="502", path="/leads")
        health = await office.check(compare_after=timedelta(hours=6))
        assert "gateway" in health.failed["acme"]
        assert [(one.org, one.state, one.reconciled) for one in health.orgs] == [("acme", "on", None)]
        assert "1 of 1 subscriptions are on" in health.summary()
        assert "1 failed" in health.summary()
