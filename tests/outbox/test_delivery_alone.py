"""One event, one subject or one clock that misbehaves harms nobody else, and not for ever."""

import asyncio
import contextlib
import time

import pytest
from sqlalchemy import select

from store.database import Database
from store.tables import OutboxTurnRow, table_of
from tasks.deliver import deliver
from tasks.delivery_slots import Slots
from tests.outbox.receiver import Received, Receiver, Reply
from tests.outbox.support import hurry, outbox, run, session_of, states, tell


@pytest.mark.parametrize(
    "refusal",
    [Reply(503), Reply(503, {"retry-after": "3600"}), Reply(302, {"location": "/login"})],
    ids=["503", "503-retry-after", "redirect"],
)
async def test_an_event_that_always_gets_the_answer_of_an_outage_while_others_are_taken_ends_as_a_dead_letter(
    sqlite_database: Database, product: Receiver, refusal: Reply
) -> None:
    def behave(received: Received) -> Reply:
        return refusal if received.event["subject"] == "lead:1" and received.number == 0 else Reply()

    product.behave = behave
    await tell(sqlite_database, "acme", "lead:1", 0, 1)
    running = asyncio.create_task(run(sqlite_database, product.url, linger=1.0, attempts=3))
    for number in range(8):
        await tell(sqlite_database, "acme", "lead:2", number)
        async with asyncio.timeout(5):
            while ("lead:2", number) not in [(one.event["subject"], one.number) for one in product.taken]:
                await hurry(sqlite_database)
                await asyncio.sleep(0.05)
    await running
    assert product.first_times() == {
        ("/kommo/acme", "lead:1"): [1],
        ("/kommo/acme", "lead:2"): list(range(8)),
    }
    assert await states(sqlite_database) == {"dead": 1, "delivered": 9}
    report = await run(sqlite_database, product.url)
    assert report.state == "well", "only its first failure may stop the others"


async def test_the_outage_that_begins_after_much_was_taken_counts_for_no_event(
    sqlite_database: Database, product: Receiver
) -> None:
    product.behave = lambda received: Reply(503 if received.number else 200)
    for number in range(20):
        await tell(sqlite_database, "acme", f"lead:{number}", 0, 1)
    report = await run(sqlite_database, product.url)
    assert report.state == "resting"
    assert report.failed >= 5
    assert {event.attempts for event in await outbox(sqlite_database) if event.state == "pending"} == {0}


async def test_an_address_that_has_rested_is_not_tried_with_the_event_that_had_failed(
    sqlite_database: Database, product: Receiver
) -> None:
    product.behave = lambda _received: Reply(503, {"retry-after": "120"})
    await tell(sqlite_database, "acme", "lead:1", 0)
    await run(sqlite_database, product.url)
    await tell(sqlite_database, "acme", "lead:2", 0)
    await hurry(sqlite_database)
    product.behave = lambda received: Reply(503 if received.event["subject"] == "lead:1" else 200)
    report = await run(sqlite_database, product.url)
    assert (report.state, report.delivered) == ("well", 1)
    [held, _] = await outbox(sqlite_database)
    assert held.attempts == 1, "now that others are taken, it is this event's own failure"


async def test_a_slow_subject_with_many_events_holds_up_no_other_one_and_its_turn_ends(
    sqlite_database: Database, product: Receiver
) -> None:
    product.behave = lambda received: Reply(seconds=0.4 if received.event["subject"] == "slow" else 0.0)
    await tell(sqlite_database, "acme", "slow", *range(300))
    await tell(sqlite_database, "acme", "lead:1", 0)
    begun = time.monotonic()
    running = asyncio.create_task(run(sqlite_database, product.url, turn_longest=0.2))
    try:
        await product.comes(1)
        assert time.monotonic() - begun < 30.0  # all of the slow ones would take two minutes
        assert product.taken[0].event["subject"] == "lead:1"
        serial = 0
        while serial < 2:
            assert time.monotonic() - begun < 60.0, "its turn goes on and on"
            await asyncio.sleep(0.05)
            async with sqlite_database.read() as connection:
                serial = (await connection.execute(select(table_of(OutboxTurnRow).c.serial))).scalar_one()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    numbers = product.first_times()["/kommo/acme", "slow"]
    assert numbers == list(range(len(numbers)))


async def test_an_org_to_which_the_product_answers_slowly_holds_up_no_other_org(
    sqlite_database: Database, product: Receiver
) -> None:
    product.behave = lambda received: Reply(seconds=0.3 if received.event["source"] == "/kommo/a" else 0.0)
    for number in range(60):
        await tell(sqlite_database, "a", f"lead:{number}", 0)
    running = asyncio.create_task(deliver(session_of(sqlite_database, product.url), 0.0, concurrency=4))
    try:
        await product.comes(1)
        begun = time.monotonic()
        await tell(sqlite_database, "b", "lead:1", 0, 1)
        async with asyncio.timeout(10):
            while "/kommo/b" not in {source for source, _ in product.first_times()}:
                product.news.clear()
                await product.news.wait()
        assert time.monotonic() - begun < 1.5
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_slot_that_is_given_to_who_does_not_want_it_any_more_is_given_on() -> None:
    slots, held = Slots(1), asyncio.Event()

    async def hold(org: str) -> str:
        async with slots.of(org):
            await held.wait()
            return org

    first = asyncio.create_task(hold("a"))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(hold(org)) for org in ("a", "a", "b", "a")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    held.set()
    await first
    waiting[1].cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert ended[2:] == ["b", "a"]
    async with asyncio.timeout(1), slots.of("c"):
        pass
