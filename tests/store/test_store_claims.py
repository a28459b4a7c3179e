"""T1: of all processes exactly one holds the claim on an org's refresh, and a lost claim changes nothing."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from store.claims import LONGEST_CLAIM, Claim, holder, note_step, release, take_claim
from store.database import Database
from store.tables import RefreshClaimRow, table_of
from tests.store.builders import run_many, start_process

PROCESSES, ROUNDS = 20, 3


async def _taken(db: Database, owner: str = "one", seconds: float = 60.0) -> Claim:
    claim = await take_claim(db, "acme", owner, seconds)
    assert claim is not None
    return claim


async def _row(db: Database) -> dict[str, Any]:
    async with db.read() as connection:
        return dict((await connection.execute(select(table_of(RefreshClaimRow)))).mappings().one())


async def test_t1_a_held_claim_is_refused_to_all_others_and_free_after_its_release(db: Database) -> None:
    assert await holder(db, "acme") == 0.0
    claim = await _taken(db)
    assert (claim.serial, claim.previous_step, claim.previous_used) == (1, "idle", None)
    assert await take_claim(db, "acme", "two", 60.0) is None
    assert await take_claim(db, "acme", "one", 60.0) is None, "not even to the same owner"
    assert 50.0 < await holder(db, "acme") <= 60.0
    assert await take_claim(db, "beta", "two", 60.0) is not None, "another org's is another one"
    assert await release(db, claim)
    assert await holder(db, "acme") == 0.0
    assert (await _taken(db, "two")).serial == 2


async def test_the_step_of_a_holder_that_vanished_is_handed_on_until_somebody_notes_another(
    db: Database,
) -> None:
    first = await _taken(db, "one", 0.05)
    assert await note_step(db, first, "calling", "fp-1")
    assert await note_step(db, first, "answered"), "what it uses up need not be said again"
    await asyncio.sleep(0.06)
    second = await _taken(db, "two", 0.05)
    assert (second.previous_step, second.previous_used) == ("answered", "fp-1")
    await asyncio.sleep(0.06)
    third = await _taken(db, "three")
    assert (third.previous_step, third.previous_used, third.serial) == ("answered", "fp-1", 3)
    assert await release(db, third, "unsettled")
    fourth = await _taken(db, "four")
    assert (fourth.previous_step, fourth.previous_used) == ("unsettled", "fp-1")
    assert await release(db, fourth)
    fifth = await _taken(db, "five")
    assert (fifth.previous_step, fifth.previous_used) == ("idle", None)


_LATE: list[Callable[[Database, Claim], Coroutine[Any, Any, bool]]] = [
    lambda db, claim: note_step(db, claim, "late", "late"),
    lambda db, claim: note_step(db, claim, "late", seconds=0.0),
    release,
    lambda db, claim: release(db, claim, "late"),
]


@pytest.mark.parametrize("late", _LATE)
@pytest.mark.parametrize("owner", ["two", "one"])
@pytest.mark.parametrize("held", [True, False])
async def test_t1_whoever_lost_the_claim_is_told_so_and_changes_nothing(
    db: Database, late: Callable[[Database, Claim], Coroutine[Any, Any, bool]], owner: str, held: bool
) -> None:
    """The next holder may be another one or the same again, and may be done already."""
    lost = await _taken(db, "one", 0.02)
    await asyncio.sleep(0.03)
    following = await _taken(db, owner)
    assert await note_step(db, following, "calling", "fp-2")
    if not held:
        assert await release(db, following, "unsettled")
    before = await _row(db)
    assert not await late(db, lost)
    assert await _row(db) == before


async def test_t1_the_gate_is_open_only_while_enough_of_the_claim_is_left(db: Database) -> None:
    claim = await _taken(db, seconds=30.0)
    assert await note_step(db, claim, "calling", "fp-1", seconds=20.0)
    assert not await note_step(db, claim, "too late", seconds=30.0)
    assert (await _row(db))["step"] == "calling"
    assert await release(db, claim)
    assert not await note_step(db, claim, "too late", seconds=0.0)


async def test_after_its_end_a_claim_that_nobody_took_opens_no_gate_but_still_says_how_it_ended(
    db: Database,
) -> None:
    claim = await _taken(db, seconds=0.05)
    await asyncio.sleep(0.06)
    assert not await note_step(db, claim, "calling", seconds=0.0)
    assert await note_step(db, claim, "answered", "fp-1")
    assert await release(db, claim)
    assert (await _taken(db, "two")).previous_step == "idle"


@pytest.mark.parametrize("seconds", [0.0, -1.0, LONGEST_CLAIM + 1, float("nan"), float("inf")])
async def test_a_claim_without_an_end_in_sight_is_refused(db: Database, seconds: float) -> None:
    with pytest.raises(ValueError, match="A claim lasts"):
        await take_claim(db, "acme", "one", seconds)


async def test_a_clock_that_was_set_back_locks_nobody_out(db: Database) -> None:
    if db.dialect == "postgresql":
        pytest.skip("PostgreSQL's own clock is used there, which no test can turn")
    clock = [2_000_000_000.0]
    first = await take_claim(db, "acme", "one", 60.0, now=lambda: clock[0])
    clock[0] += 59.0
    assert await take_claim(db, "acme", "two", 60.0, now=lambda: clock[0]) is None
    assert await holder(db, "acme", now=lambda: clock[0]) == 1.0
    clock[0] -= 86_400
    assert await holder(db, "acme", now=lambda: clock[0]) == 0.0
    assert await take_claim(db, "acme", "two", 60.0, now=lambda: clock[0]) is not None
    assert first is not None
    assert not await note_step(db, first, "late", now=lambda: clock[0])


async def test_the_clock_of_a_process_does_not_count_on_postgresql(db: Database) -> None:
    if db.dialect == "sqlite":
        pytest.skip("on SQLite all processes have the machine's clock")
    claim = await take_claim(db, "acme", "one", 60.0, now=lambda: 0.0)
    assert claim is not None
    assert abs(claim.until - time.time() - 60.0) < 10.0
    assert await take_claim(db, "acme", "two", 60.0, now=lambda: 9e9) is None
    assert await note_step(db, claim, "calling", seconds=0.0, now=lambda: 9e9)


async def test_t1_of_many_tasks_that_want_it_at_once_one_gets_it(db: Database) -> None:
    claims = await asyncio.gather(*(take_claim(db, "acme", f"task-{n}", 60.0) for n in range(20)))
    assert len([claim for claim in claims if claim is not None]) == 1


@pytest.mark.whole_service
@pytest.mark.usefixtures("db")
@pytest.mark.usefixtures("quick")
async def test_t1_of_twenty_processes_at_any_time_exactly_one_holds_the_claim(
    migrated_place: tuple[str, str],
) -> None:
    outputs = await run_many(PROCESSES, "hold_claims", *migrated_place, "acme", str(ROUNDS))
    holds = sorted(hold for output in outputs for hold in json.loads(output))
    assert [serial for serial, _, _ in holds] == list(range(1, PROCESSES * ROUNDS + 1))
    assert all(end <= begin for (_, _, end), (_, begin, _) in pairwise(holds)), "two held it at once"


async def test_t3_a_holder_killed_with_9_leaves_the_claim_free_at_its_end_and_says_how_far_it_came(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    process = await start_process("hold_and_hang", *migrated_place, "acme", "2.0")
    assert process.stdout is not None
    taken = json.loads(await process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await take_claim(db, "acme", "next", 60.0) is None
    await asyncio.sleep(await holder(db, "acme") + 0.01)
    claim = await _taken(db, "next")
    assert (claim.serial, claim.previous_step, claim.previous_used) == (
        taken["serial"] + 1,
        "calling",
        "fp-1",
    )


async def test_t3_a_stopped_holder_that_wakes_up_after_its_end_finds_the_claim_lost(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    process = await start_process("hold_and_wake", *migrated_place, "acme", "0.5")
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"ready\n", "it holds the claim"
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(await holder(db, "acme") + 0.01)
    following = await _taken(db, "next")
    process.send_signal(signal.SIGCONT)
    output, errors = await process.communicate(b"go on\n")
    assert json.loads(output) == {"ours": False, "noted": False, "released": False}, errors.decode()
    assert await note_step(db, following, "calling", seconds=0.0)
