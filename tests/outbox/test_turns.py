"""Turns of the outbox: one run has an org at a time, and who has lost it marks nothing."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from store.database import Database
from store.endpoint import claim_probe, end_probe, endpoint_does, endpoint_state, rest_endpoint
from store.outbox import DEAD, DELIVERED, PENDING
from store.outbox_turns import (
    Mark,
    OutboxTurn,
    due_outbox,
    end_outbox_turns,
    mark_outbox,
    take_outbox_turns,
)
from tests.outbox.support import outbox, states, tell

ENDPOINT = "e" * 32


def now() -> datetime:
    return datetime.now(UTC)


async def take(database: Database, owner: str, seconds: float = 30.0, limit: int = 10) -> list[OutboxTurn]:
    turns = await take_outbox_turns(database, owner, seconds, limit=limit, moment=now())
    return sorted(turns, key=lambda turn: turn.org)


async def test_an_org_is_taken_by_one_run_until_it_is_given_back_or_its_time_is_over(
    database: Database,
) -> None:
    for org in ("a", "b", "c"):
        await tell(database, org, "lead:1", 0)
    mine = await take(database, "mine", limit=2)
    assert [turn.org for turn in mine] == ["a", "b"]
    assert [turn.org for turn in await take(database, "yours")] == ["c"]
    assert await take(database, "theirs") == []
    await end_outbox_turns(database, "mine", mine[:1])
    again = await take(database, "theirs", 0.05)
    assert again == [OutboxTurn("a", 2)]
    deadline = time.monotonic() + 5
    while not (taken := await take(database, "last")):
        assert time.monotonic() < deadline
    assert taken == [OutboxTurn("a", 3)]


async def test_who_has_lost_an_org_marks_nothing_of_it_and_does_not_end_the_others_turn(
    database: Database,
) -> None:
    for org in ("a", "b"):
        await tell(database, org, "lead:1", 0)
    rows = {event.org: event.id for event in await outbox(database)}
    [a, b] = await take(database, "mine", 0.01)
    await asyncio.sleep(0.05)
    [theirs] = await take(database, "theirs", limit=1)
    assert theirs.org == "a"
    marks = [Mark(rows[org], org, DELIVERED) for org in ("a", "b")]
    assert await mark_outbox(database, "mine", [a, b], marks, 30.0, moment=now()) == {"b"}
    assert {event.org: event.state for event in await outbox(database)} == {"a": PENDING, "b": DELIVERED}
    await end_outbox_turns(database, "mine", [a])
    assert await take(database, "others") == []
    assert await mark_outbox(database, "theirs", [theirs], marks[:1], 30.0, moment=now()) == {"a"}
    assert await states(database) == {DELIVERED: 2}


async def test_what_is_due_is_the_beginning_of_every_subject_that_is_not_held_back(
    database: Database,
) -> None:
    await tell(database, "a", "lead:1", 0, 1)
    await tell(database, "a", "lead:2", 0)
    await tell(database, "b", "lead:1", 0)
    [turn] = await take(database, "mine", limit=1)
    first = (await outbox(database))[0]

    async def due(**more: object) -> list[tuple[str, int]]:
        found = await due_outbox(database, "a", limit=10, moment=now(), **more)  # type: ignore[arg-type]  # as given
        return [(event.subject, event.payload["n"]) for event in found]

    assert await due() == [("lead:1", 0), ("lead:1", 1), ("lead:2", 0)]
    assert await due(busy={"lead:2"}) == [("lead:1", 0), ("lead:1", 1)]
    later = now() + timedelta(hours=1)
    held = Mark(first.id, "a", PENDING, retry_at=later, reason="no")
    await mark_outbox(database, "mine", [turn], [held], 30.0, moment=now())
    assert await due() == [("lead:2", 0)]
    await mark_outbox(database, "mine", [turn], [Mark(first.id, "a", DEAD, reason="no")], 30.0, moment=now())
    assert await due() == [("lead:1", 1), ("lead:2", 0)]
    [dead] = [event for event in await outbox(database) if event.state == DEAD]
    assert (dead.attempts, dead.last_error, dead.next_attempt_at) == (2, "no", None)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 601.0])
async def test_a_turn_has_a_sensible_length(database: Database, seconds: float) -> None:
    with pytest.raises(ValueError, match="A turn lasts"):
        await take(database, "mine", seconds)


async def test_an_address_that_rests_is_tried_by_one_run_and_what_is_gone_by_none(
    database: Database,
) -> None:
    async def rest(seconds: float, *, gone: bool = False) -> None:
        await rest_endpoint(database, ENDPOINT, "app", seconds, "no", gone=gone, moment=now())

    assert await endpoint_state(database, ENDPOINT) is None
    assert not await claim_probe(database, ENDPOINT, 10.0)
    await rest(30.0)
    await rest(0.0)
    found = await endpoint_state(database, ENDPOINT)
    assert found is not None
    assert (found.state, found.failures, 25 < found.seconds <= 30) == ("resting", 2, True)
    assert not await claim_probe(database, ENDPOINT, 10.0)
    assert await endpoint_does(database, ENDPOINT)
    await rest(-1.0)
    assert [await claim_probe(database, ENDPOINT, 10.0) for _ in range(2)] == [True, False]
    await end_probe(database, ENDPOINT)
    assert await claim_probe(database, ENDPOINT, 10.0)
    await rest(-1.0, gone=True)
    await rest(-1.0)
    assert not await claim_probe(database, ENDPOINT, 10.0)
    found = await endpoint_state(database, ENDPOINT)
    assert found is not None
    assert found.state == "gone"
