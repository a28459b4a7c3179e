"""R1 and R2: who may send when."""

import math
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kommo.budget import (
    HORIZONS,
    LATE_TOLERANCE,
    LOOSE,
    RESERVE,
    InProcessBudget,
    Lane,
    Slot,
    wait_for_turn,
)
from kommo.errors import ErrorKind, KommoError
from tests.kommo_api.support import InstantClock, SimulatedClock

SPACING = RESERVE / 7
LANES = list(Lane)
KEYS = [("account:1", "egress:default"), ("account:2", "egress:default"), ("account:3", "egress:other")]


def shortest_span_of_eight(starts: list[float]) -> float:
    starts = sorted(starts)
    return min((b - a for a, b in zip(starts, starts[7:], strict=False)), default=math.inf)


async def starts_of(
    jobs: list[tuple[float, Lane, tuple[str, ...]]], clock: SimulatedClock, budget: InProcessBudget
) -> dict[str, list[float]]:
    starts: dict[str, list[float]] = {}

    async def one(after: float, lane: Lane, keys: tuple[str, ...]) -> None:
        await clock.sleep(after)
        try:
            await wait_for_turn(budget, keys, lane, clock)
        except KommoError as error:
            if error.kind is not ErrorKind.TOO_BUSY:
                raise
            return
        for key in keys:
            starts.setdefault(key, []).append(clock.time)

    await clock.run(*(one(*job) for job in jobs))
    return starts


jobs_of_any_kind = st.lists(
    st.tuples(st.floats(0, 3), st.sampled_from(LANES), st.sampled_from(KEYS)), min_size=8, max_size=40
)


@settings(max_examples=60, deadline=None)
@given(
    jobs=jobs_of_any_kind, oversleep=st.sampled_from([0.0, 0.01, 0.02, 0.1, 0.4]), seed=st.integers(0, 999)
)
async def test_r1_no_eight_starts_in_any_second_whoever_comes_and_however_late_they_wake(
    jobs: list[tuple[float, Lane, tuple[str, ...]]], oversleep: float, seed: int
) -> None:
    dice = random.Random(seed)
    clock = SimulatedClock(late=lambda: dice.random() * oversleep, seed=seed)
    starts = await starts_of(jobs, clock, InProcessBudget(None, clock))
    for times in starts.values():
        assert shortest_span_of_eight(times) > 1.0


async def test_r1_keeps_its_margin_for_the_network_while_sleepers_are_a_little_late() -> None:
    dice = random.Random(5)
    clock = SimulatedClock(late=lambda: dice.random() * LATE_TOLERANCE)
    starts = (await starts_of([(0.0, Lane.SYNC, KEYS[0])] * 60, clock, InProcessBudget(None, clock)))[
        "account:1"
    ]
    assert len(starts) == 60
    assert shortest_span_of_eight(starts) >= 7 * SPACING - LATE_TOLERANCE - 1e-9 > 1.019


async def test_a_busy_account_is_used_to_the_full() -> None:
    clock = SimulatedClock()
    begun = clock.time
    await starts_of([(0.0, Lane.SYNC, KEYS[0])] * 141, clock, InProcessBudget(None, clock))
    assert (clock.time - begun) / (140 / 7) < 1.05


async def test_accounts_on_different_addresses_do_not_wait_for_each_other() -> None:
    clock = SimulatedClock()
    begun = clock.time
    await starts_of(
        [(0.0, Lane.SYNC, KEYS[0]), (0.0, Lane.SYNC, KEYS[2])], clock, InProcessBudget(None, clock)
    )
    assert clock.time == begun


async def test_a_process_that_is_always_a_little_too_late_still_gets_its_turns() -> None:
    clock = SimulatedClock(late=lambda: 0.05)
    starts = await starts_of([(0.0, Lane.SYNC, KEYS[0])] * 12, clock, InProcessBudget(None, clock))
    assert len(starts["account:1"]) == 12
    assert shortest_span_of_eight(starts["account:1"]) > 1.0


async def test_a_process_that_is_hopelessly_late_is_told_so_instead_of_breaking_the_limit() -> None:
    class Crowded(InProcessBudget):
        async def reserve(self, keys: Sequence[str], lane: str, *, instead_of: float | None = None) -> Slot:  # noqa: ARG002 - the protocol
            return Slot(granted=True, wait=0.1)

    clock = SimulatedClock(late=lambda: 0.5)
    budget = Crowded(None, clock)
    with pytest.raises(KommoError) as caught:
        await clock.run(wait_for_turn(budget, KEYS[0], Lane.SYNC, clock))
    assert caught.value.kind is ErrorKind.TOO_BUSY
    assert caught.value.retryable


@pytest.mark.parametrize("crowd", [Lane.WEBHOOK, Lane.SYNC, Lane.BACKFILL])
async def test_an_action_overtakes_any_amount_of_other_work(crowd: Lane) -> None:
    clock = SimulatedClock()
    budget = InProcessBudget(None, clock)
    waited = math.inf

    async def action() -> None:
        nonlocal waited
        await clock.sleep(1.0)
        asked = clock.time
        await wait_for_turn(budget, KEYS[0], Lane.ACTION, clock)
        waited = clock.time - asked

    async def background() -> None:
        await wait_for_turn(budget, KEYS[0], crowd, clock)

    await clock.run(action(), *(background() for _ in range(60)))
    assert waited <= HORIZONS[crowd] + SPACING + 1e-9


async def test_a_sync_stands_in_front_of_a_backfill() -> None:
    clock = SimulatedClock()
    budget = InProcessBudget(None, clock)
    order: list[Lane] = []

    async def job(lane: Lane) -> None:
        await wait_for_turn(budget, KEYS[0], lane, clock)
        order.append(lane)

    await clock.run(*(job(Lane.BACKFILL) for _ in range(20)), *(job(Lane.SYNC) for _ in range(20)))
    assert order[:24].count(Lane.SYNC) >= 18


steps = st.lists(
    st.tuples(st.floats(0, 0.5), st.sampled_from(LANES), st.sampled_from(KEYS), st.booleans()),
    min_size=1,
    max_size=60,
)


@given(steps=steps, limit=st.floats(1, 50))
async def test_r1_granted_moments_keep_the_window_and_stay_inside_the_horizon(
    steps: list[tuple[float, Lane, tuple[str, ...], bool]], limit: float
) -> None:
    clock = InstantClock()
    budget = InProcessBudget({"account": limit, "egress": limit}, clock)
    starts: dict[str, list[float]] = {}
    missed: dict[tuple[str, ...], float | None] = {}
    for pause, lane, keys, misses in steps:
        clock.time += pause
        back = missed.pop(keys, None)
        slot = await budget.reserve(keys, lane, instead_of=back)
        assert slot.wait >= 0
        if slot.granted and misses:
            missed[keys] = slot.place  # not used, and handed back with the next wish
            continue
        if not slot.granted:
            assert slot.wait > 0
            continue
        assert slot.wait <= HORIZONS[lane]
        for key in keys:
            starts.setdefault(key, []).append(clock.time + slot.wait)
    places = int(limit)
    for times in starts.values():
        assert all(b - a >= RESERVE - 1e-9 for a, b in zip(times, times[places:], strict=False))


@given(
    steps=st.lists(st.tuples(st.floats(0, 0.5), st.booleans(), st.floats(0, 1)), min_size=8, max_size=60),
    limit=st.floats(2, 50),
    seconds=st.floats(0.02, 0.9),
)
async def test_r1_whenever_a_loose_request_starts_in_its_time_the_window_holds(
    steps: list[tuple[float, bool, float]], limit: float, seconds: float
) -> None:
    clock = InstantClock()
    budget = InProcessBudget({"account": limit, "egress": 0}, clock)
    starts: list[float] = []
    for pause, loose, late in steps:
        clock.time += pause
        slot = (
            await budget.reserve_loosely(KEYS[0], Lane.ACTION, seconds)
            if loose
            else await budget.reserve(KEYS[0], Lane.ACTION)
        )
        starts.append(clock.time + slot.wait + (late * seconds if loose else 0.0))
    starts.sort()
    assert all(b - a >= RESERVE - 1e-9 for a, b in zip(starts, starts[int(limit) :], strict=False))


async def test_r1_a_process_that_is_late_every_time_sends_at_once_where_it_may_be_late() -> None:
    clock = SimulatedClock(late=lambda: 0.3)
    budget, begun = InProcessBudget({"account": 7, "egress": 0}, clock), clock.time
    for _ in range(10):
        await clock.run(wait_for_turn(budget, KEYS[0], Lane.SYNC, clock, loose=LOOSE))
    assert clock.time - begun < 10 * (LOOSE + SPACING + 0.35)


async def test_r1_an_address_that_does_not_count_holds_nobody_up_but_can_be_stopped() -> None:
    clock = InstantClock()
    budget = InProcessBudget({"account": 7, "egress": 0}, clock)
    for number in range(100):
        assert (await budget.reserve([f"account:{number}", "egress:default"], Lane.SYNC)).wait == 0
    await budget.slow_down(["account:1", "egress:default"], 30.0)
    assert (await budget.reserve(["account:2", "egress:default"], Lane.ACTION)).wait < 1
    assert (await budget.reserve(["account:1", "egress:default"], Lane.ACTION)).wait > 29
    await budget.block(["egress:default"], 900.0, "blocked by Kommo")
    assert (await budget.reserve(["account:3", "egress:default"], Lane.ACTION)).blocked_reason


async def test_places_lie_one_spacing_apart_after_a_rest_and_a_short_stall_is_made_up_for() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    at = []
    for pause in (0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 60.0, 0.0):
        clock.time += pause
        slot = await budget.reserve(KEYS[0], Lane.ACTION)
        clock.time += slot.wait
        at.append(clock.time)
    gaps = [b - a for a, b in pairwise(at)]
    assert gaps[:3] == pytest.approx([SPACING] * 3)
    # After half a second of stall two follow at once, as many as the window has room for; then the old pace.
    assert sum(gaps[3:8]) == pytest.approx(max(0.5 + SPACING, 5 * SPACING), abs=SPACING)
    assert min(gaps[4:8]) < SPACING / 2
    assert gaps[9] == pytest.approx(SPACING)


async def test_a_place_that_is_handed_back_goes_to_the_next_one() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    first = await budget.reserve(KEYS[0], Lane.ACTION)
    second = await budget.reserve(KEYS[0], Lane.ACTION)
    again = await budget.reserve(KEYS[0], Lane.ACTION, instead_of=second.place)
    assert (first.wait, again.wait) == (0.0, second.wait)
    unknown = await budget.reserve(KEYS[0], Lane.ACTION, instead_of=-1.0)
    assert unknown.wait == pytest.approx(2 * SPACING)


@given(st.integers(1, 40))
async def test_who_is_turned_away_and_comes_back_when_told_is_served(crowd: int) -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    for _ in range(crowd):
        await budget.reserve(KEYS[0], Lane.ACTION)
    slot = await budget.reserve(KEYS[0], Lane.BACKFILL)
    if not slot.granted:
        clock.time += slot.wait + 1e-9
        assert (await budget.reserve(KEYS[0], Lane.BACKFILL)).granted


async def test_r2_after_a_429_nobody_starts_until_the_quiet_is_over() -> None:
    clock = SimulatedClock()
    budget = InProcessBudget(None, clock)
    await budget.slow_down(KEYS[0], 30.0)
    begun = clock.time
    starts = await starts_of([(0.0, lane, KEYS[0]) for lane in LANES], clock, budget)
    assert min(starts["account:1"]) >= begun + 30.0


async def test_r2_a_slow_down_never_shortens_an_earlier_one() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    await budget.slow_down(KEYS[0], 300.0)
    await budget.slow_down(KEYS[0], 1.0)
    assert (await budget.reserve(KEYS[0], Lane.ACTION)).wait == pytest.approx(300.0)


async def test_r2_places_that_are_handed_back_do_not_shorten_a_slow_down() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    missed = [(await budget.reserve(KEYS[0], Lane.ACTION)).place for _ in range(7)]
    await budget.slow_down(KEYS[0], 5.0)
    for place in missed:
        assert not (await budget.reserve(KEYS[0], Lane.BACKFILL, instead_of=place)).granted
    assert (await budget.reserve(KEYS[0], Lane.ACTION)).wait == pytest.approx(5.0)


async def test_r2_a_block_stops_every_lane_says_why_and_ends() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    await budget.block(["egress:default"], 900.0, "blocked by Kommo")
    await budget.block(["egress:default"], 10.0, "a shorter one")
    for lane in LANES:
        slot = await budget.reserve(KEYS[1], lane)
        assert slot == Slot(granted=False, wait=900.0, blocked_reason="blocked by Kommo", blocked_for=900.0)
    with pytest.raises(KommoError, match="blocked by Kommo") as caught:
        await wait_for_turn(budget, KEYS[1], Lane.ACTION, clock)
    assert caught.value.kind is ErrorKind.BUDGET_BLOCKED
    assert caught.value.retry_after == 900.0
    assert (await budget.reserve(KEYS[2], Lane.SYNC)).granted
    clock.time += 901.0
    assert (await budget.reserve(KEYS[1], Lane.SYNC)).granted


async def test_a_key_without_a_limit_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="No limit is known"):
        await InProcessBudget(None, InstantClock()).reserve(["galaxy:1"], Lane.SYNC)
