"""Machines whose clocks differ, and clocks that are set back: no event and no address waits for that."""

from datetime import UTC, datetime, timedelta

import pytest

from store.database import Database
from store.endpoint import claim_probe, endpoint_state, rest_endpoint
from store.outbox import PENDING
from store.outbox_turns import Mark, due_outbox, mark_outbox, take_outbox_turns
from tests.outbox.support import outbox, tell

DAY = timedelta(days=1)


async def _fails(database: Database, on_its_clock: datetime, seconds: float) -> datetime:
    """An event fails on a machine with this clock and is to be tried after so long; when that is."""
    await tell(database, "acme", "lead:1", 0)
    [event] = await outbox(database)
    [turn] = await take_outbox_turns(database, "mine", 30.0, limit=1, moment=on_its_clock)
    mark = Mark(event.id, "acme", PENDING, retry_at=on_its_clock + timedelta(seconds=seconds), reason="no")
    await mark_outbox(database, "mine", [turn], [mark], 30.0, moment=on_its_clock)
    [event] = await outbox(database)
    assert event.next_attempt_at is not None
    return event.next_attempt_at


@pytest.mark.parametrize("ahead", [DAY, -DAY])
async def test_an_event_that_failed_on_a_machine_with_a_wrong_clock_is_tried_when_it_was_meant_to_be(
    database: Database, ahead: timedelta
) -> None:
    now = datetime.now(UTC)
    tried_at = await _fails(database, now + ahead, 900.0)
    due = await due_outbox(database, "acme", limit=10, moment=now)
    if database.dialect == "postgresql":
        assert abs(tried_at - now - timedelta(seconds=900)) < timedelta(seconds=30)
        assert due == []
        assert await due_outbox(database, "acme", limit=10, moment=now + DAY) == []
    else:
        # One machine, whose clock was put right meanwhile.
        assert [event.subject for event in due] == ["lead:1"]


async def test_a_rest_from_before_the_clock_was_set_back_is_over(sqlite_database: Database) -> None:
    now = datetime.now(UTC)

    async def rest(at: datetime, seconds: float) -> float:
        await rest_endpoint(sqlite_database, "e", "app", seconds, "no", moment=at, now=at.timestamp)
        found = await endpoint_state(sqlite_database, "e", now=now.timestamp)
        assert found is not None
        return found.seconds

    assert await rest(now + DAY, 60.0) == 0.0
    assert await claim_probe(sqlite_database, "e", 15.0, now=now.timestamp)
    assert await rest(now, 60.0) == pytest.approx(60.0)
    assert not await claim_probe(sqlite_database, "e", 15.0, now=now.timestamp)
