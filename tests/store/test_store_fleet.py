"""A fleet in the store: shards, turns, what is left to be synced, pairs read ahead, a budget without an address."""

import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from store.budget import DatabaseBudget, Reservation
from store.connections import due_connections, mark_attempt_failed, put_connection, set_state
from store.database import Database
from store.fleet import RETRY_AFTER, Round, count_due, end_turns, keep_turns, pointed_pairs, take_orgs
from store.runs import begin_run, finish_run, note_sync
from store.shards import SLOTS, is_in, slot_of
from store.token_journal import append_pair, mark_dead
from tests.store.builders import START, minutes

ALL = ("all",)


async def _connect(db: Database, *orgs: str, **facts: Any) -> None:
    for org in orgs:
        given: dict[str, Any] = {
            "block_name": org,
            "host": f"{org}.kommo.com",
            "token_kind": "pair",
            "now": START,
        }
        await put_connection(db, org=org, **(given | facts))


async def _take(db: Database, todo: Round, owner: str = "me", at: float = 0, **more: Any) -> list[str]:
    given: dict[str, Any] = {"limit": 100, "moment": minutes(at)}
    return [one.org for one in await take_orgs(db, owner, 60, todo, **(given | more))]


async def _sync(db: Database, org: str, at: float, state: str = "completed", scope: str = "all") -> None:
    run_id = await begin_run(db, org, scope, now=minutes(at))
    await finish_run(db, run_id, state, now=minutes(at))
    if state == "completed":
        await note_sync(db, org, run_id, now=minutes(at))


def test_shards_are_a_partition_and_hold_about_as_much_each() -> None:
    orgs = [f"org-{number}" for number in range(4000)]
    shards = [[org for org in orgs if is_in((number, 8), org)] for number in range(8)]
    assert sorted(org for shard in shards for org in shard) == sorted(orgs)
    assert all(400 < len(shard) < 600 for shard in shards)
    assert slot_of("acme") == 0x5C4BA3E, "written into the store: it must never change"
    # The moment of the night says nothing about the shard.
    early = [org for org in orgs if slot_of(org) < SLOTS // 2]
    assert 200 < sum(is_in((0, 8), org) for org in early) < 300


async def test_two_processes_never_take_the_same_org_and_an_ended_turn_is_free(db: Database) -> None:
    await _connect(db, *(f"org-{number}" for number in range(7)))
    todo = Round(ALL, START)
    mine, theirs = await _take(db, todo, "me", limit=4), await _take(db, todo, "they")
    assert (len(mine), len(theirs), set(mine) & set(theirs)) == (4, 3, set())
    assert await _take(db, todo, "others") == []
    assert await count_due(db, todo, moment=START) == 7
    await end_turns(db, "they", mine)  # not theirs to give back
    assert await _take(db, todo, "others") == []
    await end_turns(db, "me", mine)
    assert sorted(await _take(db, todo, "others")) == sorted(mine)


async def test_a_killed_holder_is_followed_at_its_deadline_and_one_that_keeps_its_turn_is_not(
    db: Database,
) -> None:
    if db.dialect != "sqlite":
        pytest.skip("the server's clock cannot be turned; the statement is the same")
    await _connect(db, "acme", "globex")
    todo, now = Round(ALL, START), time.time()
    assert sorted(await _take(db, todo, "killed", now=lambda: now)) == ["acme", "globex"]
    await keep_turns(db, "killed", ["globex"], 120, now=lambda: now)
    assert await _take(db, todo, "next", now=lambda: now + 59) == []
    assert await _take(db, todo, "next", now=lambda: now + 61) == ["acme"]


async def test_what_was_synced_since_is_done_and_what_failed_is_tried_again_after_a_while(
    db: Database,
) -> None:
    await _connect(db, "done", "failed", "killed", "earlier", "in-part")
    await _connect(db, "gone")
    await set_state(db, "gone", "disconnected", now=START)
    await _sync(db, "earlier", -1)
    await _sync(db, "done", 1)
    await _sync(db, "failed", 1, "failed")
    await _sync(db, "in-part", 1, scope="funnels")
    await begin_run(db, "killed", "all", now=minutes(1))
    todo = Round(ALL, START)
    # Never synced come first, then who was synced longest ago.
    assert await _take(db, todo, at=2) == ["killed", "earlier", "in-part"]
    await end_turns(db, "me", ["killed", "earlier", "in-part"])
    assert "failed" in await _take(db, todo, at=2 + RETRY_AFTER / timedelta(minutes=1))
    # A sync of everything counts for a part of it, not the other way round.
    assert await count_due(db, Round(("funnels", "all"), START), moment=minutes(2)) == 2


async def test_an_org_waits_for_its_minute_of_the_night_unless_it_drifted(db: Database) -> None:
    orgs = [f"org-{number}" for number in range(12)]
    await _connect(db, *orgs)
    early = sorted(org for org in orgs if slot_of(org) < SLOTS // 2)
    late = next(org for org in orgs if org not in early)
    run_id = await begin_run(db, late, "all", now=minutes(-60))
    await finish_run(db, run_id, "completed", now=minutes(-60))
    await note_sync(db, late, run_id, breaking=True, now=minutes(-60))
    half = Round(ALL, START, passed=0.5, first_since=minutes(-600))
    found = await _take(db, half)
    assert (found[0], sorted(found[1:])) == (late, early)
    await end_turns(db, "me", found)
    mine = await _take(db, Round(ALL, START, shard=(1, 3)))
    assert sorted(mine) == sorted(org for org in orgs if is_in((1, 3), org))


async def test_of_a_shard_the_pair_that_ends_first_is_due_first(db: Database) -> None:
    orgs = [f"org-{number}" for number in range(9)]
    for number, org in enumerate(orgs):
        await _connect(db, org, token_fingerprint=org, expires_at=minutes(60 - number))
    await mark_attempt_failed(db, "org-3", next_refresh_at=minutes(5), reason="Not now.", now=START)
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await due_connections(
            db,
            before=minutes(90),
            idle_before=minutes(-90),
            now=minutes(1),
            shard=(0, 2),
            after=after or None,
            limit=2,
        )
        seen += [one.org for one in page.items]
        after = page.next_after
    assert seen == [org for org in reversed(orgs) if is_in((0, 2), org) and org != "org-3"]


async def test_a_pair_is_read_ahead_only_if_nothing_came_after_it(db: Database) -> None:
    async def pair(org: str, used: str, fingerprint: str, now: datetime = START) -> None:
        await append_pair(
            db,
            org=org,
            used=used,
            fingerprint=fingerprint,
            sealed="s",
            host="h",
            expires_at=minutes(9),
            now=now,
        )

    for org in ("plain", "followed", "dead", "empty"):
        await _connect(db, org, token_fingerprint=f"{org}-a")
        if org != "empty":
            await pair(org, "code:1", f"{org}-a")
    await pair("followed", "followed-a", "followed-b")
    await mark_dead(db, "dead", "dead-a", START)
    found = await pointed_pairs(db, ["plain", "followed", "dead", "empty", "nobody"])
    assert {org: row.fingerprint for org, row in found.items()} == {"plain": "plain-a"}


async def _granted(budget: DatabaseBudget, *keys: str) -> Reservation:
    """Asked again where a busy machine was too slow to use its place."""
    while not (found := await budget.reserve(keys, "action")).granted:
        assert found.blocked_reason is None
    return found


async def test_an_address_without_a_limit_is_not_counted_and_can_be_stopped(db: Database) -> None:
    budget = DatabaseBudget(db, {"account": 7, "egress": 0})
    keys = [(f"account:{number}", "egress:default") for number in range(20)]
    for one in keys:
        assert (await _granted(budget, *one)).wait < 1 / 7
    assert {row.key for row in await budget.status()} == {one[0] for one in keys}
    assert (await _granted(budget, "egress:default")).wait < 1 / 7
    await budget.slow_down(keys[0], 30)
    assert (await _granted(budget, *keys[1])).wait < 5
    assert (await budget.reserve(keys[0], "action")).wait > 20
    await budget.block(["egress:default"], 900, "Kommo blocked our address")
    for stopped in (list(keys[2]), ["egress:default"]):
        refused = await budget.reserve(stopped, "action")
        assert (refused.granted, refused.blocked_reason) == (False, "Kommo blocked our address")


async def test_a_loose_place_keeps_the_whole_of_its_time_free(db: Database) -> None:
    budget = DatabaseBudget(db, {"account": 7, "egress": 0})
    begun = time.monotonic()
    while not (await budget.reserve_loosely(["account:1", "egress:default"], "sync", 0.4)).granted:
        begun = time.monotonic()  # the machine is so busy that its place was over before it was answered
    second = await budget.reserve(["account:1"], "action")
    # Counted from the same moment, however long the database took to answer.
    assert time.monotonic() - begun + second.wait >= 0.4 + 1 / 7
