"""W5: what webhooks missed is found by comparing with the API, repaired, told once, and counted truthfully."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from kommo.errors import ErrorKind, KommoError
from store.completeness import latest_completeness, list_completeness
from store.database import Database
from store.mirror import record_states
from tasks import reconcile
from tasks.completeness import percent
from tasks.reconcile import ReconcileReport, where_to_begin
from tests.reconcile.support import Office, opened

ALL = ("leads", "contacts", "companies", "tasks")
QUIET = timedelta(0)
"""No grace: the tests' webhooks have arrived, or never will."""


def numbers(report: ReconcileReport, entity: str | None = None) -> tuple[int, ...]:
    names = ("changes", "arrived", "repaired")
    if entity is None:
        return tuple(report.total(name) for name in names)
    return tuple(getattr(report.by_entity[entity], name) for name in names)


async def arrived(office: Office, number: int, name: str, entity: str = "leads") -> None:
    office.rename(entity, number, name)
    await office.take_in()
    await office.work()


async def test_w5_what_was_lost_is_found_repaired_told_and_counted(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        await office.pass_time(60)
        since = office.clock.now()
        for entity in ALL:
            first, second = office.ids(entity)[:2]
            await arrived(office, first, "by webhook", entity)
            office.rename(entity, second, "unseen")
            await office.lose()
        new = office.change("add_record", entity="leads", values={"name": "New and unseen"})["id"]
        await office.lose()
        before = len(await office.told())
        report = await office.reconcile(since, grace=QUIET)
        assert numbers(report) == (9, 4, 5)
        assert numbers(report, "leads") == (3, 1, 2)
        assert report.share == pytest.approx(4 / 9)
        for entity in ALL:
            await office.assert_level(entity, office.ids(entity)[:2])
        await office.assert_level("leads", [new])
        told = (await office.told())[before:]
        assert sorted(event.type for event in told) == [
            "kommo.company.updated",
            "kommo.contact.updated",
            "kommo.lead.created",
            "kommo.lead.updated",
            "kommo.task.updated",
        ]
        assert all(event.payload["source"] == "reconcile" for event in told)
        assert report.told == {event.type: 1 for event in told}
        stored = (await latest_completeness(db))["acme"]
        assert (stored.changes, stored.arrived, stored.repaired) == (9, 4, 5)
        assert stored.by_entity["leads"] == {"changes": 3, "arrived": 1, "repaired": 2, "whole": True}


async def test_w5_deletions_and_restorations_are_compared_as_well(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        seen, unseen, back, both = office.ids("leads")[:4]
        for number in (seen, unseen, back, both):
            await arrived(office, number, "there")
        office.change("delete_record", entity="leads", id=back)
        await office.take_in()
        await office.work()
        await office.pass_time(3_600)
        since = office.clock.now()
        office.change("delete_record", entity="leads", id=seen)
        await office.take_in()
        await office.work()
        office.change("delete_record", entity="leads", id=unseen)
        office.change("restore_record", entity="leads", id=back)
        office.change("delete_record", entity="leads", id=both)
        office.change("restore_record", entity="leads", id=both)
        office.change("delete_record", entity="tasks", id=office.ids("tasks")[0])
        await office.lose()
        before = len(await office.told())
        report = await office.reconcile(since, grace=QUIET)
        states = await record_states(db, "acme", "leads", [seen, unseen, back, both])
        assert [states[number].state for number in (seen, unseen, back, both)] == [
            "deleted",
            "deleted",
            "present",
            "present",
        ]
        assert numbers(report, "leads")[:2] == (4, 1)
        assert numbers(report, "tasks")[:2] == (1, 0)
        told = [(event.type, event.payload["id"]) for event in (await office.told())[before:]]
        assert ("kommo.lead.deleted", unseen) in told
        assert ("kommo.lead.restored", back) in told
        assert not [one for one in told if one[1] == seen]
        assert ("kommo.lead.deleted", both) not in told


async def test_w5_a_second_comparison_finds_nothing_more(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        since = office.clock.now()
        for number in office.ids("leads"):
            office.rename("leads", number, "unseen")
        office.change("delete_record", entity="contacts", id=office.ids("contacts")[0])
        await office.lose()
        await office.reconcile(since, grace=QUIET)
        told = len(await office.told())
        again = await office.reconcile(since, grace=QUIET)
        assert numbers(again) == (9, 0, 0)
        assert len(await office.told()) == told
        await office.pass_time(600)
        begin = await where_to_begin(db, "acme", office.clock.now())
        following = await office.reconcile(begin, grace=QUIET)
        assert numbers(following) == (0, 0, 0)
        assert following.share == 1
        assert [one.changes for one in await list_completeness(db, "acme")] == [0, 9, 9]


async def test_w5_what_may_be_on_its_way_is_left_to_the_next_time(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        await office.pass_time(600)
        since, (number, other) = office.clock.now() - timedelta(seconds=300), office.ids("leads")[:2]
        office.rename("leads", number, "just now")
        office.change("delete_record", entity="leads", id=other)
        report = await office.reconcile(since, grace=timedelta(minutes=2))
        assert numbers(report) == (0, 0, 0)
        await office.pass_time(300)
        begin = await where_to_begin(db, "acme", office.clock.now())
        assert numbers(await office.reconcile(begin, grace=timedelta(minutes=2))) == (2, 0, 2)


async def test_a_comparison_that_comes_too_early_counts_nothing(db: Database) -> None:
    async with opened(db) as office:
        report = await office.reconcile(office.clock.now(), grace=timedelta(minutes=2))
        assert numbers(report) == (0, 0, 0)
        assert await list_completeness(db, "acme") == []


async def test_a_change_that_was_read_because_of_another_webhook_has_arrived(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        since, number = office.clock.now() - timedelta(seconds=1), office.ids("leads")[0]
        office.rename("leads", number, "first")
        await office.take_in()
        await office.pass_time(5)
        office.rename("leads", number, "second")
        await office.lose()
        await office.work()  # reads it as it is now
        report = await office.reconcile(since, grace=QUIET)
        assert numbers(report) == (1, 1, 0)


async def test_what_arrived_and_was_not_worked_off_yet_is_the_backlogs(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        since, number = office.clock.now() - timedelta(seconds=1), office.ids("leads")[0]
        office.rename("leads", number, "waits")
        await office.take_in()
        assert numbers(await office.reconcile(since, grace=QUIET)) == (1, 1, 0)
        assert await office.told() == []
        await office.work()
        assert [event.type for event in await office.told()] == ["kommo.lead.updated"]
        await office.assert_level("leads", [number])


async def test_an_event_list_that_may_not_be_read_is_said(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> AsyncIterator[None]:
        raise KommoError(ErrorKind.FORBIDDEN, method="GET", path="/api/v4/events")
        yield

    monkeypatch.setattr(reconcile, "read_events", refused)
    async with opened(db) as office:
        since = office.clock.now()
        office.rename("leads", office.ids("leads")[0], "unseen")
        report = await office.reconcile(since, grace=QUIET)
        assert numbers(report) == (1, 0, 1)
        assert "Deletions could not be compared" in report.notes[0]
        assert report.notes[0] in report.summary()
        assert not (await latest_completeness(db))["acme"].whole, "a full share would be a lie"


async def test_an_account_that_cannot_be_asked_is_not_counted(db: Database) -> None:
    async with opened(db) as office:
        office.sandbox.world.faults.add(kind="502", path="/contacts")
        with pytest.raises(KommoError):
            await office.reconcile(office.clock.now(), grace=QUIET)
        assert await list_completeness(db, "acme") == []


def test_only_what_is_whole_is_a_hundred_percent() -> None:
    assert [percent(share) for share in (1.0, 0.99999, 0.5, 0.0)] == ["100 %", "99.9 %", "50.0 %", "0.0 %"]
