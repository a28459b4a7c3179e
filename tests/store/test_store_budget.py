"""R1 and R2: the request budget over processes, lanes, stops. Real time and real processes where it matters."""

import asyncio
import json
import time
from itertools import pairwise

import pytest
from sqlalchemy import update

from store.budget import HORIZONS, MOST_IDLE, RESERVE, DatabaseBudget
from store.database import Database
from store.tables import metadata
from tests.store.builders import run_processes
from tests.turns import measured

pytestmark = pytest.mark.timing

ACCOUNT, EGRESS = "account:1", "egress:default"
T = RESERVE / 7


async def _hammer(place: tuple[str, str], seconds: float, *lanes_and_keys: list[str]) -> list[list[float]]:
    begin = str(time.time() + 1.0)  # the processes need a moment to start
    commands = [("hammer", *place, begin, str(seconds), *one) for one in lanes_and_keys]
    return [json.loads(output) for output in await run_processes(*commands)]


def _most_in_a_second(starts: list[float]) -> int:
    ordered = sorted(starts)
    return max(sum(first <= start < first + 1.0 for start in ordered) for first in ordered)


@pytest.mark.usefixtures("db")
@pytest.mark.seconds(5)
@pytest.mark.usefixtures("quick")
async def test_r1_four_processes_on_one_key_use_the_whole_budget_and_never_more(
    migrated_place: tuple[str, str],
) -> None:
    granted = await _hammer(migrated_place, 2.0, *([["sync", ACCOUNT, EGRESS]] * 4))
    starts = sorted(start for one in granted for start in one)
    assert _most_in_a_second(starts) <= 7
    # A busy machine loses some; how much of the budget an idle one uses is proved in tests/proofs/test_processes.py.
    with measured():
        assert (len(starts) - 1) / (starts[-1] - starts[0]) >= 4.5
        assert all(granted), "every process got some"


@pytest.mark.usefixtures("quick")
async def test_r1_keys_in_opposite_orders_do_not_deadlock_and_an_action_overtakes(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    others = asyncio.create_task(
        _hammer(
            migrated_place, 1.5, ["sync", ACCOUNT, EGRESS], ["backfill", EGRESS, ACCOUNT], ["webhook", EGRESS]
        )
    )
    budget, waits, deadline = DatabaseBudget(db), [], time.time() + 2.2
    while time.time() < deadline:
        asked = time.monotonic()
        # Refused is who would leave the idle key idle for long; whoever comes back gets its turn none the later.
        while not (reservation := await budget.reserve([EGRESS, ACCOUNT], "action")).granted:  # noqa: ASYNC110 - a row
            await asyncio.sleep(reservation.wait)
        waits.append(time.monotonic() - asked + reservation.wait)
        await asyncio.sleep(0.4)
    granted = await asyncio.wait_for(others, 20)
    assert _most_in_a_second([start for one in granted for start in one]) <= 7
    with measured():
        assert max(waits) <= HORIZONS["webhook"] + 3 * T


@pytest.mark.parametrize("lane", ["backfill", "sync", "webhook"])
async def test_a_lane_reserves_only_as_far_ahead_as_its_horizon(db: Database, lane: str) -> None:
    budget = DatabaseBudget(db)
    while (action := await budget.reserve([ACCOUNT], "action")).wait < 2 * T:
        assert action.granted
    answered = time.monotonic()
    refused = await budget.reserve([ACCOUNT], lane)
    assert not refused.granted
    # The clock runs on while the machine does something else: whatever passed since is not missing.
    farthest = action.wait + T - HORIZONS[lane] + 0.02
    assert refused.wait <= farthest
    with measured():
        assert refused.wait > farthest - 0.04 - (time.monotonic() - answered)
    while not refused.granted:
        await asyncio.sleep(refused.wait)
        refused = await budget.reserve([ACCOUNT], lane)
    assert refused.wait <= HORIZONS[lane]


async def test_the_wait_of_the_refused_is_when_their_turn_could_come(db: Database) -> None:
    budget = DatabaseBudget(db)
    while (refused := await budget.reserve([ACCOUNT], "sync")).granted:
        pass
    await asyncio.sleep(refused.wait)
    assert (await budget.reserve([ACCOUNT], "sync")).granted


async def test_slots_are_one_spacing_apart_on_the_clock(db: Database) -> None:
    budget = DatabaseBudget(db)
    starts = []
    for _ in range(20):
        reservation = await budget.reserve([ACCOUNT], "action")
        starts.append(time.monotonic() + reservation.wait)
    with measured():
        assert [later - earlier for earlier, later in pairwise(starts)] == pytest.approx([T] * 19, abs=0.1)


async def test_r2_slow_down_block_and_unblock_are_seen_by_everyone(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    mine = DatabaseBudget(db)
    async with Database.open(*migrated_place) as other_db:
        theirs = DatabaseBudget(other_db)
        await mine.slow_down([ACCOUNT], 5.0)
        waiting = await theirs.reserve([ACCOUNT], "sync")
        assert not waiting.granted
        assert waiting.wait <= 5.0 - HORIZONS["sync"]
        with measured():
            assert waiting.wait > 3.0
        assert waiting.blocked_reason is None
        await mine.slow_down([ACCOUNT], 1.0)  # does not shorten what Kommo asked for before
        next_in = (await theirs.status())[0].next_in
        assert next_in <= 5.0
        with measured():
            assert next_in > 3.0

        await mine.block([EGRESS], 900, "Kommo blocks this address.")
        await mine.block([EGRESS], 5, "a shorter stop")
        stopped = await theirs.reserve([ACCOUNT, EGRESS], "action")
        assert not stopped.granted
        assert stopped.blocked_reason == "Kommo blocks this address."
        assert 800 < stopped.blocked_for <= 900
        assert [(status.key, status.blocked_reason) for status in await theirs.status()] == [
            (ACCOUNT, None),
            (EGRESS, "Kommo blocks this address."),
        ]
        assert (await theirs.reserve(["account:2"], "sync")).granted

        await theirs.unblock(EGRESS)
        assert (await mine.reserve([EGRESS], "sync")).granted
        assert {status.blocked_reason for status in await mine.status()} == {None}


async def test_a_stop_ends_by_itself(db: Database) -> None:
    budget = DatabaseBudget(db)
    await budget.block([ACCOUNT], 1.0, "short")
    with measured():
        assert not (await budget.reserve([ACCOUNT], "action")).granted
    await asyncio.sleep(1.02)
    assert (await budget.reserve([ACCOUNT], "action")).granted
    assert (await budget.status())[0].blocked_reason is None


async def test_an_account_that_was_slowed_down_does_not_hold_up_the_others(db: Database) -> None:
    budget = DatabaseBudget(db)
    await budget.slow_down([ACCOUNT], 30.0)
    slowed = await budget.reserve([ACCOUNT, EGRESS], "action")
    assert not slowed.granted
    assert slowed.wait <= 30.0 - MOST_IDLE
    with measured():
        assert slowed.wait > 28.0
    other = await budget.reserve(["account:2", EGRESS], "sync")
    assert other.granted
    assert other.wait <= MOST_IDLE


async def test_the_time_is_taken_after_the_lock_and_not_before_the_wait_for_it(db: Database) -> None:
    """Another transaction holds the rows for a while: the slot must lie after that, not before."""
    budget = DatabaseBudget(db)
    await budget.reserve([ACCOUNT], "action")
    await asyncio.sleep(T)
    async with db.begin() as connection:
        await connection.execute(update(metadata.tables["rate_budget"]).values(blocked_until=0.0))
        asked = asyncio.create_task(budget.reserve([ACCOUNT], "action"))
        await asyncio.sleep(0.8)  # longer than what is made up for
        released = time.monotonic()
    assert (await asked).granted
    following = await budget.reserve([ACCOUNT], "action")
    assert time.monotonic() + following.wait >= released + T - 0.02


async def test_a_slot_that_is_over_before_it_can_be_used_is_given_up(db: Database) -> None:
    """Each look at the clock says that 50 ms have passed, as if the commit were slow."""
    ticks = iter(range(1000))
    slow = DatabaseBudget(db, monotonic=lambda: next(ticks) * 0.05)
    reservation = await slow.reserve([ACCOUNT], "action")
    assert reservation.granted
    assert reservation.wait > 0


async def test_a_slot_that_is_handed_back_goes_to_the_next_one(db: Database) -> None:
    budget = DatabaseBudget(db)
    places = [(await budget.reserve([ACCOUNT, EGRESS], "action")).place for _ in range(3)]
    again = await budget.reserve([ACCOUNT, EGRESS], "action", instead_of=places[2])
    assert again.place == pytest.approx(places[2])
    # Handed back, although there is no place for this lane now.
    refused = await budget.reserve([ACCOUNT, EGRESS], "backfill", instead_of=again.place)
    assert not refused.granted or refused.place == pytest.approx(places[2])


async def test_r2_places_that_are_handed_back_do_not_shorten_a_slow_down(db: Database) -> None:
    budget = DatabaseBudget(db)
    missed = [(await budget.reserve([ACCOUNT, EGRESS], "action")).place for _ in range(7)]
    await budget.slow_down([ACCOUNT, EGRESS], 5.0)
    slowed = time.monotonic()
    for place in missed:
        assert not (await budget.reserve([ACCOUNT, EGRESS], "backfill", instead_of=place)).granted
    left = (await budget.reserve([ACCOUNT, EGRESS], "action")).wait
    with measured():
        assert left + time.monotonic() - slowed > 4.9


async def test_r1_what_a_stall_left_unused_is_made_up_for_within_the_window(db: Database) -> None:
    budget = DatabaseBudget(db)
    starts = []
    for number in range(16):
        reservation = await budget.reserve([ACCOUNT], "action")
        starts.append(time.monotonic() + reservation.wait)
        await asyncio.sleep(max(0.0, reservation.wait) + (0.4 if number == 8 else 0.0))
    with measured():
        assert all(
            later - earlier >= RESERVE - 0.005 for earlier, later in zip(starts, starts[7:], strict=False)
        )
        assert min(later - earlier for earlier, later in pairwise(starts[9:])) < T / 2


@pytest.mark.parametrize("seconds", [120, 86_400])
async def test_a_clock_that_was_set_back_stops_nobody_for_long(
    tmp_path_factory: pytest.TempPathFactory, seconds: float
) -> None:
    now = [2_000_000_000.0]
    async with Database.open(f"sqlite:///{tmp_path_factory.mktemp('clock')}/store.db") as db:
        await db.ensure()
        budget = DatabaseBudget(db, now=lambda: now[0])
        assert (await budget.reserve([ACCOUNT], "action")).granted
        now[0] -= seconds
        with measured():
            assert (await budget.reserve([ACCOUNT], "action")).wait == pytest.approx(1.0, abs=0.05)


async def test_what_nobody_set_a_limit_for_is_refused(db: Database) -> None:
    budget = DatabaseBudget(db, limits={"account": 2.0})
    with pytest.raises(ValueError, match="No limit is set"):
        await budget.reserve(["egress:default"], "sync")
    with pytest.raises(ValueError, match="no lane"):
        await budget.reserve([ACCOUNT], "urgent")
    with measured():
        assert (await budget.reserve([ACCOUNT], "sync")).wait == pytest.approx(0.0, abs=0.02)
        assert (await budget.reserve([ACCOUNT], "action")).wait == pytest.approx(RESERVE / 2, abs=0.05)
