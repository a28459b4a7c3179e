"""W1: deliveries and their events are written together, repetitions are kept and flagged."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import event, func, select

from store.database import Database
from store.errors import WriteRefusedError
from store.inbox import (
    EVENTS,
    delivery_events,
    get_delivery,
    get_event,
    heard_of,
    save_deliveries,
    save_parsed,
    unreadable_deliveries,
)
from store.purge import purge_org
from tests.store.builders import START, run_many
from tests.store.hooks import arrive, change, delivery, moment

ODD = {"text": "nul \x00 half \ud83d 👩‍👩‍👧", "number": "1", "nested": [{"": None}, ["1e5"]]}


async def test_w1_a_delivery_and_its_events_come_out_as_they_went_in(db: Database) -> None:
    body = bytes(range(256))
    one = change("k1", "15", payload=ODD, action="status", parent="contacts")
    two = change("k2", "uuid-\x00", entity="messages", occurred_at=None)
    given = delivery(one, two, body=body, request_id="r-1", account_id=None, headers={"user-agent": "é"})
    (saved,) = await save_deliveries(db, [given])
    assert (saved.delivery_id, saved.new, saved.duplicates) == (given.delivery_id, 2, 0)
    found = await get_delivery(db, given.delivery_id)
    assert found is not None
    assert (found.body, found.request_id, found.account_id) == (body, "r-1", None)
    assert (found.state, found.event_count, found.headers) == ("stored", 2, {"user-agent": "é"})
    assert found.received_at == START
    first, second = await delivery_events(db, given.delivery_id)
    assert first.payload == ODD
    assert (first.entity, first.action, first.entity_id, first.parent) == (
        "leads",
        "status",
        "15",
        "contacts",
    )
    assert (first.occurred_at, first.received_at, first.attempts, first.state) == (START, START, 0, "pending")
    assert (second.occurred_at, second.entity_id) == (None, "uuid-\ufffd")
    assert await get_event(db, second.id) == second
    assert await get_event(db, second.id + 1000) is None
    assert await get_delivery(db, "unknown") is None


async def test_w2_repetitions_are_kept_and_flagged_also_within_one_batch_and_one_delivery(
    db: Database,
) -> None:
    batch = [
        delivery(change("z"), change("a")),
        delivery(change("a"), change("b"), at=1),
        delivery(change("c"), change("c"), change("c"), at=2),
        delivery(change("a"), org="beta", at=3),
    ]
    saved = await save_deliveries(db, batch)
    assert [(one.new, one.duplicates) for one in saved] == [(2, 0), (1, 1), (1, 2), (1, 0)]
    states = [[one.state for one in await delivery_events(db, given.delivery_id)] for given in batch]
    assert states == [
        ["pending", "pending"],
        ["duplicate", "pending"],
        ["pending", "duplicate", "duplicate"],
        ["pending"],
    ]
    again = await save_deliveries(db, [delivery(change("c"), change("d"), at=9)])
    assert [(one.new, one.duplicates) for one in again] == [(1, 1)]


async def test_w1_nothing_of_a_batch_is_kept_if_one_delivery_is_refused(db: Database) -> None:
    good = delivery(change("k1"))
    await save_deliveries(db, [delivery(change("k0"), delivery_id="taken")])
    with pytest.raises(WriteRefusedError):
        await save_deliveries(db, [good, delivery(change("k2"), delivery_id="taken")])
    assert await get_delivery(db, good.delivery_id) is None
    assert (await arrive(db, "k1", "k2")).new == 2


@pytest.mark.usefixtures("quick")
async def test_w1_two_processes_and_many_tasks_that_write_the_same_events_leave_one_of_each(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    keys = [f"key-{number}" for number in range(30)]
    lines = await run_many(2, "write_deliveries", *migrated_place, "4", *keys)
    query = select(EVENTS.c.state, func.count(), func.count(EVENTS.c.unique_key.distinct())).group_by(
        EVENTS.c.state
    )
    async with db.read() as connection:
        found = {row[0]: (row[1], row[2]) for row in await connection.execute(query)}
    assert found == {"pending": (len(keys), len(keys)), "duplicate": (7 * len(keys), len(keys))}
    assert sum(int(line) for line in lines) == len(keys), "each new event was announced to one writer"


async def test_a_batch_costs_the_same_few_statements_however_large_it_is(db: Database) -> None:
    seen: list[str] = []
    event.listen(
        db.engine.sync_engine, "before_cursor_execute", lambda _c, _cur, statement, *_: seen.append(statement)
    )
    counts = []
    for size in (1, 50):
        seen.clear()
        await save_deliveries(db, [delivery(change(f"{size}-{number}")) for number in range(size)])
        counts.append(len([one for one in seen if "INSERT" in one]))
    assert counts == [2, 2]


async def test_w1_an_unreadable_body_is_kept_with_its_reason_and_can_be_read_later(db: Database) -> None:
    bad = [
        delivery(body=b"\xff", reason="The body is not UTF-8.", at=number, delivery_id=f"d{number}")
        for number in range(3)
    ]
    await save_deliveries(db, [*bad, delivery(change("good"))])
    page = await unreadable_deliveries(db, "acme", limit=2)
    assert [one.delivery_id for one in page] == ["d0", "d1"]
    rest = await unreadable_deliveries(db, "acme", after=(page[-1].received_at, page[-1].delivery_id))
    assert [(one.delivery_id, one.reason, one.body) for one in rest] == [
        ("d2", "The body is not UTF-8.", b"\xff")
    ]
    assert await unreadable_deliveries(db, "beta") == []
    assert [one.delivery_id for one in await unreadable_deliveries(db)] == ["d0", "d1", "d2"]
    saved = await save_parsed(db, "d1", [change("good"), change("better")], org="acme")
    assert saved is not None
    assert (saved.new, saved.duplicates) == (1, 1)
    mended = await get_delivery(db, "d1")
    assert mended is not None
    assert (mended.state, mended.reason, mended.event_count) == ("stored", None, 2)
    assert [one.received_at for one in await delivery_events(db, "d1")] == 2 * [moment(1)]
    assert await save_parsed(db, "d1", [change("twice")], org="acme") is None
    assert [one.delivery_id for one in await unreadable_deliveries(db, "acme")] == ["d0", "d2"]


async def test_w5_what_was_heard_of_an_entity_is_found_whatever_became_of_it(db: Database) -> None:
    later = START + timedelta(hours=1)
    await arrive(db, "a", entity_id="1")
    await arrive(db, "b", entity_id="1", occurred_at=later, at=7200)
    await arrive(db, "c", entity_id="2", occurred_at=None, at=60)
    await arrive(db, "d", entity_id="3", entity="contacts")
    await arrive(db, "e", entity_id="4", org="beta")
    heard = await heard_of(db, "acme", "leads", ["1", "2", "3", "4", "5"])
    assert set(heard) == {"1", "2"}
    assert (heard["1"].occurred_at, heard["1"].received_at) == (later, moment(7200))
    assert (heard["2"].occurred_at, heard["2"].received_at) == (None, moment(60))


async def test_a_purge_takes_the_bodies_along(db: Database) -> None:
    given = delivery(change("k1"))
    await save_deliveries(db, [given, delivery(change("k2"), org="beta")])
    removed = await purge_org(db, "acme", now=START)
    assert (removed["webhook_delivery"], removed["webhook_event"]) == (1, 1)
    assert await get_delivery(db, given.delivery_id) is None
    assert (await arrive(db, "k2", org="beta")).duplicates == 1


async def test_w1_a_cancelled_save_is_whole_or_not_there_and_leaves_no_lock_behind(db: Database) -> None:
    """Not even while somebody holds the exception, and with it a statement that was under way."""
    await arrive(db, "first")
    held: list[object] = []
    for delay in (number / 2000 for number in range(24)):
        given = delivery(*(change(f"{delay}-{number}") for number in range(20)))
        task = asyncio.create_task(save_deliveries(db, [given]))
        await asyncio.sleep(delay)
        task.cancel()
        held += await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            assert (await arrive(db, f"next-{delay}")).new == 1
        stored = await get_delivery(db, given.delivery_id)
        events = await delivery_events(db, given.delivery_id)
        assert len(events) == (0 if stored is None else 20)
    assert any(isinstance(one, asyncio.CancelledError) for one in held)
