"""W2, W3: an org's events are worked off by one worker at a time, in order, and no org starves."""

import json
import time
from collections import Counter

import pytest

from store.backlog import (
    LONGEST_TURN,
    Failure,
    Turn,
    backlog_counts,
    dead_letters,
    end_pause,
    end_turn,
    fail_events,
    get_event,
    is_left_lying,
    keep_turn,
    pending_events,
    replay,
    settle,
    take_turn,
)
from store.database import Database
from store.inbox import save_deliveries
from store.purge import purge_org
from tests.store.builders import START, run_many
from tests.store.hooks import arrive, change, delivery, moment


async def _turn(db: Database, owner: str = "one", seconds: float = 60.0) -> Turn:
    turn = await take_turn(db, owner, seconds)
    assert turn is not None
    return turn


async def _done(db: Database, turn: Turn, *ids: int) -> bool:
    async with db.begin() as connection:
        settled = await settle(connection, turn, [(one, "fine") for one in ids], now=moment(9))
        if not settled:
            await connection.rollback()
        return settled


async def test_w2_an_org_is_taken_by_one_worker_and_free_after_its_end(db: Database) -> None:
    assert await take_turn(db, "one", 60.0) is None, "there is nothing to do"
    await arrive(db, "a")
    turn = await _turn(db)
    assert (turn.org, turn.serial) == ("acme", 1)
    assert turn.until - time.time() == pytest.approx(60, abs=5)
    assert await take_turn(db, "two", 60.0) is None
    assert await end_turn(db, turn)
    assert not await end_turn(db, Turn("acme", "other", turn.serial, turn.until))
    again = await _turn(db, "two")
    assert again.serial == 2


async def test_w2_the_events_of_a_turn_are_those_that_are_due_and_all_of_the_same_entities_in_order(
    db: Database,
) -> None:
    await arrive(db, "z1", "a1", entity_id="1", at=2)
    await arrive(db, "b1", entity_id="2", at=1)
    await arrive(db, "c1", entity_id="3", at=3)
    await arrive(db, "d1", entity_id="1", org="beta")
    await arrive(db, "z2", entity_id="1", at=0)
    turn = await take_turn(db, "one", 60.0, orgs=["acme"])
    assert turn is not None
    assert [one.unique_key for one in await pending_events(db, turn, 100)] == ["z2", "b1", "z1", "a1", "c1"]
    one = await pending_events(db, turn, 1)
    assert [one.unique_key for one in one] == ["z2", "z1", "a1"], "of the entity that is due first"
    later = [Failure(event.id, "later", time.time() + 60) for event in one if event.unique_key == "z1"]
    assert await fail_events(db, turn, later, now=START)
    assert [one.unique_key for one in await pending_events(db, turn, 1)] == ["z2", "z1", "a1"], (
        "one that waits goes with the others of its entity, or it would come after them"
    )
    assert [len(await pending_events(db, turn, limit)) for limit in (1, 2, 3)] == [3, 4, 5]


async def test_w2_what_is_settled_is_done_once_and_with_its_outcome(db: Database) -> None:
    await arrive(db, "a", "b")
    turn = await _turn(db)
    first, second = await pending_events(db, turn, 10)
    assert await _done(db, turn, first.id)
    settled = await get_event(db, first.id)
    assert settled is not None
    assert (settled.state, settled.outcome, settled.settled_at) == ("done", "fine", moment(9))
    assert not await _done(db, turn, first.id, second.id), "one of them was settled before"
    assert [one.id for one in await pending_events(db, turn, 10)] == [second.id], "nothing was half done"
    assert (await arrive(db, "a")).duplicates == 1, "a repetition of what is done"


@pytest.mark.parametrize("how", ["taken by another", "purged"])
async def test_w2_a_worker_that_has_lost_its_turn_changes_nothing(db: Database, how: str) -> None:
    await arrive(db, "a", "b")
    lost = await _turn(db, "slow", 0.01)
    events = await pending_events(db, lost, 10)
    if how == "purged":
        await purge_org(db, "acme", now=START)
        await arrive(db, "a", "b")
    newer = await take_turn(db, "quick", 60.0, now=lambda: time.time() + 1)
    while newer is None:
        newer = await take_turn(db, "quick", 60.0)
    assert not await _done(db, lost, events[0].id)
    assert not await fail_events(db, lost, [Failure(events[0].id, "x", None)], now=START)
    assert await keep_turn(db, lost, 60.0) is None
    assert not await end_turn(db, lost, pause=100, reason="x")
    assert len(await pending_events(db, newer, 10)) == 2
    assert await keep_turn(db, newer, 60.0) is not None


async def test_w2_an_event_lies_when_it_is_due_for_a_while_and_nobody_has_its_orgs_turn(db: Database) -> None:
    assert not await is_left_lying(db, 0.0)
    await arrive(db, "a")
    assert await is_left_lying(db, 0.0)
    assert not await is_left_lying(db, 60.0), "it came a moment ago"
    turn = await _turn(db)
    (event,) = await pending_events(db, turn, 10)
    assert not await is_left_lying(db, 0.0), "somebody is at it"
    later = Failure(event.id, "later", time.time() + 60)
    assert await fail_events(db, turn, [later], now=START)
    assert await end_turn(db, turn, pause=0.0, reason=None)
    assert not await is_left_lying(db, 0.0), "it waits for its next attempt"


async def test_a_turn_whose_time_is_over_still_counts_while_nobody_else_took_it(db: Database) -> None:
    await arrive(db, "a")
    turn = await _turn(db, "slow", 0.001)
    (event,) = await pending_events(db, turn, 10)
    assert await _done(db, turn, event.id)


@pytest.mark.parametrize("seconds", [0.0, -1.0, LONGEST_TURN + 1])
async def test_a_turn_of_an_odd_length_is_refused(db: Database, seconds: float) -> None:
    with pytest.raises(ValueError, match="A turn lasts"):
        await take_turn(db, "one", seconds)


async def test_a_turn_from_before_the_clock_was_set_back_does_not_last_for_ever(db: Database) -> None:
    if db.dialect == "postgresql":
        pytest.skip("there it is the server's clock")
    await arrive(db, "a")
    assert await take_turn(db, "one", 60.0, now=lambda: time.time() + 100_000) is not None
    assert await take_turn(db, "two", 60.0) is not None


async def test_w3_the_org_that_was_served_longest_ago_comes_first(db: Database) -> None:
    await save_deliveries(db, [delivery(*(change(f"flood-{number}") for number in range(300)))])
    for org in ("beta", "gamma"):
        await arrive(db, "a", org=org)
    served = []
    for _ in range(6):
        turn = await _turn(db)
        served.append(turn.org)
        ids = [one.id for one in (await pending_events(db, turn, 1))[:1]]
        assert await _done(db, turn, *ids)
        assert await end_turn(db, turn)
    assert served == ["acme", "beta", "gamma", "acme", "acme", "acme"]
    await arrive(db, "b", org="gamma")
    assert (await _turn(db)).org == "gamma", "the flood does not starve it"


async def test_w3_an_event_fails_waits_and_dies_and_a_replay_makes_it_pending_again(db: Database) -> None:
    await arrive(db, "bad", entity_id="1")
    await arrive(db, "good", entity_id="2")
    turn = await _turn(db)
    bad, good = await pending_events(db, turn, 10)
    assert await fail_events(db, turn, [Failure(bad.id, "not yet", time.time() + 60)], now=START)
    assert [one.id for one in await pending_events(db, turn, 10)] == [good.id], "it does not block others"
    assert await _done(db, turn, good.id)
    assert await end_turn(db, turn)
    assert await take_turn(db, "two", 60.0) is None, "nothing is due"
    failed = await get_event(db, bad.id)
    assert failed is not None
    assert (failed.attempts, failed.state, failed.reason, failed.settled_at) == (
        1,
        "pending",
        "not yet",
        None,
    )
    assert await replay(db) == 0
    await arrive(db, "other", entity_id="3", at=1)
    turn = await _turn(db)
    assert await fail_events(db, turn, [Failure(bad.id, "no such id", None)], now=moment(5))
    (dead,) = await dead_letters(db, "acme")
    assert (dead.id, dead.attempts, dead.state, dead.reason) == (bad.id, 2, "dead", "no such id")
    assert dead.settled_at == moment(5)
    assert await dead_letters(db, "beta") == []
    assert await dead_letters(db, after=dead.id) == []
    assert (await arrive(db, "bad")).duplicates == 1, "a repetition does not bring it back"
    assert await replay(db, reason="else") == await replay(db, org="beta") == await replay(db, ids=[]) == 0
    assert await replay(db, since=moment(1)) == 0
    assert await replay(db, ids=[bad.id, 10**9], org="acme", reason="no such id", since=START) == 1
    assert await replay(db, ids=[bad.id]) == 0, "it is not dead any more"
    first = (await pending_events(db, turn, 10))[0]
    assert (first.id, first.attempts, first.state) == (bad.id, 0, "pending")


async def test_w3_an_org_pauses_for_a_reason_and_until_its_time_or_the_end_of_its_cause(db: Database) -> None:
    await arrive(db, "a", at=3)
    await arrive(db, "b", org="beta", at=5)
    turn = await _turn(db)
    assert turn.org == "acme"
    assert await end_turn(db, turn, pause=3600, reason="Kommo answers 402.")
    acme, beta = await backlog_counts(db)
    assert (acme.pending, acme.oldest_received_at, acme.dead, acme.reason) == (
        1,
        moment(3),
        0,
        "Kommo answers 402.",
    )
    assert acme.paused_until - time.time() == pytest.approx(3600, abs=5)
    assert (beta.pending, beta.paused_until, beta.reason) == (1, 0.0, None)
    assert (await _turn(db)).org == "beta"
    assert await take_turn(db, "two", 60.0) is None
    assert await end_pause(db, "acme")
    assert not await end_pause(db, "acme")
    assert (await _turn(db)).org == "acme"
    assert [(one.org, one.reason) for one in await backlog_counts(db)] == [("acme", None), ("beta", None)]


async def test_w3_a_pause_ends_by_itself(db: Database) -> None:
    await arrive(db, "a")
    turn = await _turn(db)
    assert await end_turn(db, turn, pause=0.05, reason="slow")
    while (again := await take_turn(db, "two", 60.0)) is None:
        pass
    assert again.until > turn.until - 60


async def test_the_counts_name_the_dead_and_the_unreadable(db: Database) -> None:
    await save_deliveries(
        db,
        [
            delivery(change("a"), change("b")),
            delivery(reason="not UTF-8"),
            delivery(reason="no org has this account", org=""),
        ],
    )
    turn = await take_turn(db, "one", 60.0, orgs=["acme"])
    assert turn is not None
    first, _ = await pending_events(db, turn, 10)
    await fail_events(db, turn, [Failure(first.id, "x", None)], now=START)
    nobody, acme = await backlog_counts(db)
    assert (acme.pending, acme.dead, acme.unreadable) == (1, 1, 1)
    assert (nobody.org, nobody.pending, nobody.unreadable, nobody.oldest_received_at) == ("", 0, 1, None)


async def test_only_the_named_orgs_or_those_of_a_part_are_taken(db: Database) -> None:
    orgs = [f"org-{number}" for number in range(40)]
    await save_deliveries(db, [delivery(change("a"), org=org) for org in orgs])
    assert await take_turn(db, "one", 60.0, orgs=["other"]) is None
    chosen = await take_turn(db, "one", 60.0, orgs=["org-7", "other"])
    assert chosen is not None
    assert chosen.org == "org-7"
    parts = []
    for part in range(3):
        mine = set()
        while (turn := await take_turn(db, "one", 60.0, shard=(part, 3))) is not None:
            mine.add(turn.org)
        assert mine
        parts.append(mine)
    assert sorted(org for part in parts for org in part) == sorted(set(orgs) - {"org-7"})


@pytest.mark.usefixtures("quick")
async def test_w2_of_four_processes_each_event_is_settled_by_exactly_one_and_in_order(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    orgs, events = 6, 30
    for org in range(orgs):
        batch = [
            delivery(change(f"{number:03}", str(number % 5)), org=f"org-{org}", at=number)
            for number in range(events)
        ]
        await save_deliveries(db, batch)
    lines = [json.loads(line) for line in await run_many(4, "work_off", *migrated_place)]
    worked = [tuple(one) for line in lines for one in line]
    assert len(worked) == orgs * events
    assert set(Counter(worked).values()) == {1}, "none twice"
    assert await take_turn(db, "late", 60.0) is None
    assert await backlog_counts(db) == []
