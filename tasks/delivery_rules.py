"""What an attempt comes to, when the next one is, and when an address has to rest. Pure.

Two kinds of failure. One that an event may be to blame for (an answer that refuses it, no answer in time) counts as an
attempt of that event: it is tried again ever later, and after its last attempt it is a dead letter. One that says that
the address does not do at the moment (nobody there, 429, 503, a redirect) counts for no event; but the second 503 or
redirect for one event, while others are taken, is that event's own (`tasks.deliver_org`). Both count for the address:
after some in a row it rests, and then a single event tries it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from store.outbox import DEAD, DELIVERED, PENDING, OutboxRecord
from store.outbox_turns import Mark
from tasks.posting import Outcome, Posted

FIRST_BACKOFF, LONGEST_BACKOFF = 5.0, 3600.0
"""Seconds before the second attempt of an event, and the longest time between two; three times as long each time."""
FIRST_REST, LONGEST_REST = 5.0, 60.0
"""Seconds of an address's first rest, and of the longest one; twice as long each time it still does not do."""
LONGEST_ASKED = 3600.0
"""Seconds for which `Retry-After` is obeyed at most."""
GONE_REST = 10 * 365 * 86_400.0

Dice = Callable[[], float]
"""A random number in [0, 1)."""


class Verdict(StrEnum):
    """What an attempt says: the event was taken; it failed and may be to blame; the address does not do; it is gone."""

    TAKEN = "taken"
    REFUSED = "refused"
    UNWELL = "unwell"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why, and for how many seconds the product asks not to be called."""

    verdict: Verdict
    reason: str | None = None
    asked: float | None = None


_UNANSWERED = {
    Outcome.UNREACHABLE: Judgement(Verdict.UNWELL, "The product cannot be reached."),
    Outcome.TIMEOUT: Judgement(Verdict.REFUSED, "The product did not answer in time."),
    Outcome.BROKEN: Judgement(Verdict.REFUSED, "The product broke the connection off."),
}


def judge(posted: Posted) -> Judgement:
    """What an attempt says about its event and about the address."""
    if posted.status is None:
        return _UNANSWERED[posted.outcome]
    return _judge_status(posted.status, posted.retry_after)


def _judge_status(status: int, retry_after: float | None) -> Judgement:
    if 200 <= status < 300:
        return Judgement(Verdict.TAKEN)
    if status == 410:
        return Judgement(Verdict.GONE, "The product says that this address is gone (410).")
    if status in {429, 503}:
        asked = None if retry_after is None else min(retry_after, LONGEST_ASKED)
        return Judgement(Verdict.UNWELL, f"The product asks to be called later ({status}).", asked)
    if status < 400:
        return Judgement(
            Verdict.UNWELL, f"The product answered with a redirect ({status}); none is followed."
        )
    return Judgement(Verdict.REFUSED, f"The product answered {status}.")


def mark_of(
    event: OutboxRecord,
    judgement: Judgement,
    *,
    attempts: int,
    now: datetime,
    dice: Dice,
    rest_seconds: float = 0.0,
) -> Mark:
    """What is written down of an attempt.

    Args:
        event: As it was before.
        judgement: Of the attempt.
        attempts: So many times an event is tried.
        now: The present time.
        dice: Chance, so that not all come back at the same moment.
        rest_seconds: For how long the address rests because of this attempt. The event waits for a little longer, so
            that the next one to try the address is another, if there is one.
    """
    verdict = judgement.verdict
    shortest = max(rest_seconds, judgement.asked or 0.0) + 1.0 + 2.0 * dice()
    if verdict is Verdict.TAKEN:
        return Mark(event.id, event.org, DELIVERED)
    if verdict is not Verdict.REFUSED:
        # The address's rest says when; the event itself need not wait for long.
        pause = 0.0 if verdict is Verdict.GONE else shortest
        retry_at = now + timedelta(seconds=pause)
        return Mark(event.id, event.org, PENDING, counted=False, retry_at=retry_at, reason=judgement.reason)
    if event.attempts + 1 >= attempts:
        return Mark(event.id, event.org, DEAD, reason=judgement.reason)
    retry_at = now + timedelta(seconds=max(shortest, backoff(event.attempts, dice)))
    return Mark(event.id, event.org, PENDING, retry_at=retry_at, reason=judgement.reason)


def backoff(failed_before: int, dice: Dice) -> float:
    """Seconds until the next attempt: between half of the span and all of it.

    Args:
        failed_before: How many attempts of this event had failed before this one.
        dice: Chance.
    """
    return _spread(min(LONGEST_BACKOFF, FIRST_BACKOFF * 3.0 ** min(failed_before, 20)), dice)


def rest(judgement: Judgement, rests_before: int, dice: Dice) -> float:
    """Seconds for which an address rests: for as long as it asks, else twice as long each time.

    Args:
        judgement: What made it rest.
        rests_before: How many rests in a row it has had before this one.
        dice: Chance.
    """
    if judgement.verdict is Verdict.GONE:
        return GONE_REST
    own = _spread(min(LONGEST_REST, FIRST_REST * 2.0 ** min(rests_before, 20)), dice)
    obeys = judgement.verdict is Verdict.UNWELL and judgement.asked is not None
    return max(1.0, judgement.asked or 0.0) if obeys else own


def _spread(seconds: float, dice: Dice) -> float:
    return seconds * (0.5 + 0.5 * dice())


class Breaker:
    """Notices that an address does not do: after some failures in a row, or at once if it says so itself.

    Args:
        threshold: So many failures in a row.

    Attributes:
        tripped: What made it so; nothing more is sent then.
    """

    def __init__(self, threshold: int = 5) -> None:
        self._threshold = threshold
        self._in_a_row = 0
        self.tripped: Judgement | None = None

    def note(self, judgement: Judgement) -> None:
        """Count one attempt. What was under way when it tripped changes nothing any more."""
        if self.tripped is not None:
            return
        if judgement.verdict is Verdict.TAKEN:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        unwell = judgement.verdict is Verdict.UNWELL
        says_so = judgement.verdict is Verdict.GONE or (unwell and judgement.asked is not None)
        if says_so or self._in_a_row >= self._threshold:
            self.tripped = judgement
