"""Delivery to a product that is down, refuses, hangs, is slow: nothing is lost, order per subject is kept."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from store import outbox_letters
from store.database import Database
from store.endpoint import endpoint_state
from store.errors import DatabaseUnavailableError
from store.outbox import OutboxRecord
from store.outbox_letters import outbox_counts, replay_outbox
from store.outbox_turns import mark_outbox
from tasks import deliver_org, delivery_marks
from tasks.deliver import deliver
from tasks.signing import cloud_event
from tests.outbox.receiver import CUT, HANG, Received, Receiver, Reply, running_receiver
from tests.outbox.support import hurry, outbox, round_of, run, session_of, states, tell, tell_all

SUBJECTS = [f"lead:{number}" for number in range(8)]


def in_order(receiver: Receiver) -> bool:
    return all(numbers == sorted(numbers) for numbers in receiver.first_times().values())


async def fill(database: Database, orgs: int = 2, each: int = 5) -> int:
    events = [event for number in range(each) for event in round_of(number, orgs, SUBJECTS)]
    return len(await tell_all(database, events))


async def test_everything_is_told_once_in_the_order_of_each_subject(
    database: Database, product: Receiver
) -> None:
    count = await fill(database)
    report = await run(database, product.url)
    assert (report.delivered, report.posts, report.failed, report.outbox) == (count, count, 0, [])
    assert await states(database) == {"delivered": count}
    assert product.first_times() == {
        (f"/kommo/org-{org}", subject): list(range(5)) for org in range(2) for subject in SUBJECTS
    }
    assert product.doubles() == 0
    assert all(event.delivered_at is not None and event.attempts == 1 for event in await outbox(database))
    assert (await run(database, product.url)).posts == 0


async def test_an_event_that_the_product_refuses_holds_its_subject_and_no_other(
    database: Database, product: Receiver
) -> None:
    refused = True

    def behave(received: Received) -> Reply:
        event = received.event
        return Reply(500 if refused and event["subject"] == "lead:1" and received.number == 1 else 200)

    product.behave = behave
    await tell(database, "acme", "lead:1", 0, 1, 2)
    await tell(database, "acme", "lead:2", 0, 1, 2)
    report = await run(database, product.url)
    assert (report.delivered, report.failed) == (4, 1)
    assert product.first_times() == {
        ("/kommo/acme", "lead:1"): [0],
        ("/kommo/acme", "lead:2"): [0, 1, 2],
    }
    [row] = report.outbox
    assert (row.pending, row.held, row.dead) == (2, 1, 0)
    held = [event for event in await outbox(database) if event.next_attempt_at is not None]
    assert [(one.attempts, one.last_error) for one in held] == [(1, "The product answered 500.")]
    await tell(database, "acme", "lead:1", 3)
    assert (await run(database, product.url)).posts == 0
    refused = False
    await hurry(database)
    assert (await run(database, product.url)).delivered == 3
    assert product.first_times()["/kommo/acme", "lead:1"] == [0, 1, 2, 3]


async def test_after_its_last_attempt_an_event_is_a_dead_letter_that_unblocks_its_subject_and_can_be_replayed(
    database: Database, product: Receiver
) -> None:
    refused = True
    product.behave = lambda received: Reply(400 if refused and received.number == 0 else 200)
    [poison, *_] = await tell(database, "acme", "lead:1", 0, 1, 2)
    for attempt in range(3):
        assert product.taken == []
        report = await run(database, product.url, attempts=3)
        assert report.dead == (attempt == 2)
        await hurry(database)
    assert [received.number for received in product.taken] == [1, 2]
    [one] = await outbox_counts(database)
    assert (one.pending, one.dead) == (0, 1)
    [letter] = [event for event in await outbox(database) if event.state == "dead"]
    assert (letter.event_id, letter.attempts, letter.last_error) == (poison, 3, "The product answered 400.")
    refused = False
    assert await replay_outbox(database, dead_only=True, org="other") == 0
    assert await replay_outbox(database, dead_only=True) == 1
    await run(database, product.url)
    assert product.taken[-1].headers["webhook-id"] == poison
    assert await states(database) == {"delivered": 3}


async def test_what_was_told_can_be_told_again_under_the_same_ids(
    database: Database, product: Receiver
) -> None:
    ids = await tell(database, "acme", "lead:1", 0, 1, 2)
    await tell(database, "acme", "lead:2", 0, kind="other")
    await run(database, product.url)
    since = (await outbox(database))[0].created_at
    assert await replay_outbox(database, ids=ids[1:2]) == 1
    assert await replay_outbox(database, type="other") == 1
    assert await replay_outbox(database, since=since) == 2
    assert await replay_outbox(database, since=since) == 0
    await run(database, product.url)
    assert [one.headers["webhook-id"] for one in product.taken if one.event["subject"] == "lead:1"] == ids * 2
    assert product.doubles() == 4


async def test_much_is_told_again_in_parts(
    database: Database, product: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_letters, "_AT_ONCE", 4)
    ids = await tell(database, "acme", "lead:1", *range(9))
    await tell(database, "other", "lead:1", 0)
    await run(database, product.url)
    assert await replay_outbox(database, org="acme") == 9
    assert await states(database) == {"pending": 9, "delivered": 1}
    await run(database, product.url)
    told = [one.headers["webhook-id"] for one in product.taken if one.event["source"] == "/kommo/acme"]
    assert told == ids * 2


@pytest.mark.parametrize("answer", [500, HANG, CUT, 503])
@pytest.mark.seconds(3)
async def test_a_product_that_does_not_do_is_left_alone_for_a_while_and_nothing_is_lost(
    sqlite_database: Database, product: Receiver, answer: int
) -> None:
    count = await fill(sqlite_database, each=3)
    product.behave = lambda _received: Reply(answer)
    report = await run(sqlite_database, product.url, timeout=0.3)
    assert report.state == "resting"
    assert report.delivered == 0
    assert report.posts < 60, "it goes on knocking at a closed door"
    before = len(product.requests)
    assert (await run(sqlite_database, product.url)).posts == 0
    await hurry(sqlite_database)
    assert (await run(sqlite_database, product.url, timeout=0.3)).posts == 1, "a single event tries it"
    assert len(product.requests) == before + 1
    found = await endpoint_state(sqlite_database, session_of(sqlite_database, product.url).endpoint.key)
    assert found is not None
    assert found.failures == 2
    product.behave = lambda _received: Reply()
    while (await states(sqlite_database)).get("pending"):
        await hurry(sqlite_database)
        report = await run(sqlite_database, product.url)
    assert report.state == "well"
    assert await states(sqlite_database) == {"delivered": count}
    assert in_order(product)
    assert len(product.taken) == count


@pytest.mark.seconds(6)
async def test_a_product_that_is_down_is_found_again_by_a_run_that_lingers(database: Database) -> None:
    async with running_receiver() as gone:
        port = gone.port
    count = await fill(database, each=2)
    url = gone.url
    # Long enough for a machine that is busy: who has ended finds nobody again.
    running = asyncio.create_task(run(database, url, linger=5.0))
    await asyncio.sleep(0.4)
    assert (await states(database)) == {"pending": count}
    assert {event.attempts for event in await outbox(database)} == {0}, "an outage counts for no event"
    async with running_receiver(port) as back:
        await hurry(database)
        await back.comes(1)
        # What had failed by then waits for a few seconds more.
        while (await states(database)).get("pending"):
            await hurry(database)
            await asyncio.sleep(0.05)
        report = await running
        assert back.doubles() == 0
        assert in_order(back)
    assert (report.delivered, report.state) == (count, "well")


@pytest.mark.parametrize(("status", "as_date"), [(429, False), (503, True)])
async def test_retry_after_is_obeyed(
    sqlite_database: Database, product: Receiver, status: int, as_date: bool
) -> None:
    await tell(sqlite_database, "acme", "lead:1", 0, 1)
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    product.behave = lambda _received: Reply(status, {"retry-after": moment if as_date else "120"})
    report = await run(sqlite_database, product.url)
    assert (report.posts, report.state) == (1, "resting")
    found = await endpoint_state(sqlite_database, session_of(sqlite_database, product.url).endpoint.key)
    assert found is not None
    assert 100 < found.seconds <= 120
    [first, _] = await outbox(sqlite_database)
    assert first.attempts == 0


async def test_an_address_that_is_gone_is_left_for_good(sqlite_database: Database, product: Receiver) -> None:
    await tell(sqlite_database, "acme", "lead:1", 0)
    product.behave = lambda _received: Reply(410)
    report = await run(sqlite_database, product.url, linger=30.0)
    assert (report.posts, report.state) == (1, "gone")
    await hurry(sqlite_database)
    product.behave = lambda _received: Reply()
    assert (await run(sqlite_database, product.url, linger=30.0)).posts == 0
    # Another address is another matter.
    assert (await run(sqlite_database, f"{product.url}&v=2")).delivered == 1


async def test_a_redirect_is_not_followed(sqlite_database: Database, product: Receiver) -> None:
    async with running_receiver() as elsewhere:
        product.behave = lambda _received: Reply(307, {"location": elsewhere.url})
        await tell(sqlite_database, "acme", "lead:1", 0)
        report = await run(sqlite_database, product.url)
        assert (report.failed, elsewhere.requests) == (1, [])
    assert report.failures == {"The product answered with a redirect (307); none is followed.": 1}


async def test_a_slow_subject_holds_up_no_other_one_even_of_its_org(
    sqlite_database: Database, product: Receiver
) -> None:
    product.behave = lambda received: Reply(seconds=1.0 if received.event["subject"] == "slow" else 0.0)
    await tell(sqlite_database, "acme", "slow", 0, 1)
    running = asyncio.create_task(run(sqlite_database, product.url))
    await asyncio.sleep(0.3)
    begun = time.monotonic()
    await tell(sqlite_database, "acme", "lead:1", 0, 1, 2)
    await product.comes(3)
    assert time.monotonic() - begun < 0.5
    assert {received.event["subject"] for received in product.taken} == {"lead:1"}
    await running
    assert product.first_times()["/kommo/acme", "slow"] == [0, 1]


async def test_a_new_event_is_told_within_a_second_while_a_run_lingers(
    sqlite_database: Database, product: Receiver
) -> None:
    running = asyncio.create_task(deliver(session_of(sqlite_database, product.url, poll=0.3), 1.5))
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    await tell(sqlite_database, "acme", "lead:1", 0)
    await product.comes(1)
    assert time.monotonic() - begun < 1.0
    assert (await running).delivered == 1


async def test_several_runs_at_once_tell_everything_in_order_and_next_to_nothing_twice(
    database: Database, product: Receiver
) -> None:
    dice, done = random.Random(7), asyncio.Event()
    product.behave = lambda _received: Reply(seconds=dice.random() * 0.01)

    async def write() -> int:
        count = 0
        for number in range(20):
            count += len(await tell_all(database, round_of(number, 3, SUBJECTS)))
            await asyncio.sleep(0.01)
        done.set()
        return count

    async def deliverer() -> None:
        while True:
            ended = done.is_set()
            await run(database, product.url, linger=0.1)
            if ended:
                return

    count, *_ = await asyncio.gather(write(), *(deliverer() for _ in range(3)))
    assert await states(database) == {"delivered": count}
    assert in_order(product)
    assert len(product.first_times()) == 3 * len(SUBJECTS)
    assert product.doubles() == 0


async def test_only_the_orgs_and_the_shard_that_were_asked_for_are_told(
    database: Database, product: Receiver
) -> None:
    await fill(database, orgs=6, each=1)
    assert (await deliver(session_of(database, product.url), 0.0, orgs=["org-1"])).delivered == len(SUBJECTS)
    assert {received.event["source"] for received in product.taken} == {"/kommo/org-1"}
    parts = [await deliver(session_of(database, product.url), 0.0, shard=(number, 2)) for number in range(2)]
    assert sum(part.delivered for part in parts) == 5 * len(SUBJECTS)
    assert all(part.delivered for part in parts)


async def test_a_run_that_is_cancelled_marks_what_was_taken_and_gives_its_turns_back(
    database: Database, product: Receiver
) -> None:
    product.behave = lambda _received: Reply(seconds=0.02)
    count = await fill(database, each=20)
    running = asyncio.create_task(run(database, product.url))
    await product.comes(100)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await states(database))["delivered"] >= 80
    left = (await states(database))["pending"]
    assert (await run(database, product.url)).delivered == left, "its turns are not free"
    assert await states(database) == {"delivered": count}
    assert in_order(product)
    assert product.doubles() <= 16, "more than what was under way"


async def test_while_the_database_is_away_nothing_is_lost_and_nothing_is_told_out_of_order(
    database: Database, product: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, write = 3, mark_outbox

    async def failing(*given: Any, **more: Any) -> set[str]:
        nonlocal away
        if product.taken and away:
            away -= 1
            raise DatabaseUnavailableError("away")
        return await write(*given, **more)

    monkeypatch.setattr(delivery_marks, "mark_outbox", failing)
    monkeypatch.setattr(delivery_marks, "_AGAIN", 0.05)
    count = await fill(database)
    report = await run(database, product.url)
    assert (away, report.delivered) == (0, count)
    assert await states(database) == {"delivered": count}
    assert in_order(product)
    assert product.doubles() == 0


async def test_an_event_that_cannot_even_be_written_down_stops_no_other_one(
    sqlite_database: Database, product: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(event: OutboxRecord) -> bytes:
        if event.subject == "lead:1":
            raise ValueError(f"canary {event.payload}")
        return cloud_event(event)

    monkeypatch.setattr(deliver_org, "cloud_event", failing)
    for subject in ("lead:1", "lead:2"):
        await tell(sqlite_database, "acme", subject, 0)
    report = await run(sqlite_database, product.url, attempts=1)
    assert (report.delivered, report.dead) == (1, 1)
