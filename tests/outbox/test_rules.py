"""The bookkeeping of attempts, backoff and rests, for every sequence of answers."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from store.outbox import DEAD, DELIVERED, PENDING, OutboxRecord
from tasks.delivery_rules import (
    FIRST_BACKOFF,
    FIRST_REST,
    LONGEST_ASKED,
    LONGEST_BACKOFF,
    LONGEST_REST,
    Breaker,
    Judgement,
    Verdict,
    backoff,
    judge,
    mark_of,
    rest,
)
from tasks.posting import Outcome, Posted

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DICE = st.floats(0, 1, exclude_max=True)
POSTED = st.one_of(
    st.builds(Posted, st.sampled_from([Outcome.TIMEOUT, Outcome.BROKEN, Outcome.UNREACHABLE])),
    st.builds(
        Posted,
        st.just(Outcome.ANSWERED),
        st.integers(100, 599),
        st.one_of(st.none(), st.floats(0, 1e9)),
    ),
)


def event(number: int, subject: str, attempts: int = 0) -> OutboxRecord:
    return OutboxRecord(
        id=number,
        event_id=str(number),
        type="test",
        org="acme",
        subject=subject,
        payload={},
        created_at=NOW,
        state=PENDING,
        attempts=attempts,
        next_attempt_at=None,
        delivered_at=None,
        last_error=None,
    )


@given(POSTED)
def test_only_a_2xx_is_taken_and_every_failure_has_a_reason(posted: Posted) -> None:
    judgement = judge(posted)
    is_good = posted.status is not None and 200 <= posted.status < 300
    assert (judgement.verdict is Verdict.TAKEN) == is_good
    assert (judgement.reason is None) == is_good
    assert (judgement.verdict is Verdict.GONE) == (posted.status == 410)
    if judgement.asked is not None:
        assert posted.status in {429, 503}
        assert 0 <= judgement.asked <= LONGEST_ASKED


@given(st.integers(0, 200), DICE)
def test_backoff_grows_up_to_an_hour_and_never_by_the_same_step_for_all(failed: int, roll: float) -> None:
    span = backoff(failed, lambda: 1.0)
    assert FIRST_BACKOFF <= span <= LONGEST_BACKOFF
    assert span <= backoff(failed + 1, lambda: 1.0)
    assert span / 2 <= backoff(failed, lambda: roll) <= span
    assert backoff(failed, lambda: 0.0) < backoff(failed, lambda: 0.9)


@given(POSTED, st.integers(0, 200), DICE)
def test_an_address_rests_for_as_long_as_it_asks_or_a_minute_at_most(
    posted: Posted, before: int, roll: float
) -> None:
    judgement = judge(posted)
    seconds = rest(judgement, before, lambda: roll)
    if judgement.asked is not None:
        assert seconds == max(1.0, judgement.asked)
    elif judgement.verdict is not Verdict.GONE:
        assert FIRST_REST / 2 <= seconds <= LONGEST_REST


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 6))
def test_the_breaker_trips_exactly_after_so_many_failures_in_a_row(well: list[bool], threshold: int) -> None:
    breaker, in_a_row, tripped = Breaker(threshold), 0, False
    for good in well:
        breaker.note(Judgement(Verdict.TAKEN) if good else Judgement(Verdict.REFUSED, "no"))
        in_a_row = 0 if good else in_a_row + 1
        tripped = tripped or in_a_row >= threshold
        assert (breaker.tripped is not None) == tripped


@given(st.lists(POSTED, min_size=1, max_size=60), st.integers(1, 6), DICE)
def test_an_event_is_dead_exactly_after_its_last_attempt_that_counts(
    answers: list[Posted], attempts: int, roll: float
) -> None:
    counted, state = 0, PENDING
    for posted in answers:
        judgement = judge(posted)
        mark = mark_of(event(1, "lead:1", counted), judgement, attempts=attempts, now=NOW, dice=lambda: roll)
        counted += mark.counted
        state = mark.state
        assert (state == DELIVERED) == (judgement.verdict is Verdict.TAKEN)
        assert (state == DEAD) == (judgement.verdict is Verdict.REFUSED and counted >= attempts)
        assert (mark.retry_at is not None) == (state == PENDING)
        longest = 3.0 + max(LONGEST_BACKOFF, LONGEST_ASKED)
        assert mark.retry_at is None or NOW <= mark.retry_at <= NOW + timedelta(seconds=longest)
        if state != PENDING:
            break
    assert counted <= attempts
