"""The request budget (R1): who may send when, so that nobody at Kommo gets more than the limit in a second.

Facts: kommo-api.md §2.4: 7 requests in a second, "for IP" in Kommo's words, per integration in amoCRM's; so
both the account and the address are counted. Repeated 429s end in a block of the address.

The arithmetic has two halves. The *window* is the promise: a key remembers its last places, and the eighth of
any eight lies at least ``RESERVE`` seconds behind the first, so that they do not meet in one second even if
the first is 30 ms late on its way. ``LATE_TOLERANCE`` may use 10 of these, the network has the other 20. The
*pace* is GCRA (virtual scheduling): places lie one spacing apart. A key that was not used for a moment, because
its database or its waiters were busy, makes up for it; the window holds all the same.
"""

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

from kommo.clock import Clock
from kommo.errors import ErrorKind, KommoError

RESERVE = 1.03
"""Seconds in which no more requests than the limit of one second start."""
CREDIT = 0.6
"""Seconds of unused time that are made up for; a key that was idle for longer begins anew, at its pace."""
LATE_TOLERANCE = 0.010
"""Seconds after its moment at which a request may still go out."""
WIDE_SLOT = 1.0
"""Seconds kept free behind a slot for a process that has been late again and again."""
WIDE_TOLERANCE = 0.25
"""Seconds after its moment at which a request with a wide slot may still go out."""
DEFAULT_LIMITS: Mapping[str, float] = {"account": 7.0, "egress": 7.0}
"""Requests per second by the prefix of a key [D K/limitations]; 0: such keys are not counted, only ever stopped."""

LOOSE = 0.4
"""Seconds by which a request of a run through many accounts may be late, where only the account counts."""

_GIVE_UPS_BEFORE_WIDE = 4
_GIVE_UPS_AT_ALL = 10
_SHORTEST_NAP = 0.005


class Lane(StrEnum):
    """How urgent a request is."""

    ACTION = "action"
    WEBHOOK = "webhook"
    SYNC = "sync"
    BACKFILL = "backfill"


HORIZONS: Mapping[str, float] = {
    Lane.ACTION: math.inf,
    Lane.WEBHOOK: 0.12,
    Lane.SYNC: 0.06,
    Lane.BACKFILL: 0.03,
}
"""How many seconds ahead a lane may reserve. All but actions stop booking at theirs, less than a spacing at Kommo's own
limit: so an action lets one request at most go before it, and a sync stands in front of a backfill."""


class Reservation(Protocol):
    """What ``RateBudget.reserve`` answers."""

    @property
    def granted(self) -> bool:
        """A moment was taken for this request."""
        ...

    @property
    def wait(self) -> float:
        """Seconds from now until the request may start, or, if not granted, until it pays to ask again."""
        ...

    @property
    def place(self) -> float | None:
        """Names the moment, so that it can be handed back; None if none was granted."""
        ...

    @property
    def blocked_reason(self) -> str | None:
        """Why the key is stopped, if it is."""
        ...

    @property
    def blocked_for(self) -> float:
        """Seconds until the stop ends."""
        ...


class RateBudget(Protocol):
    """A budget over any number of processes. Keys are ``account:<id or host>`` and ``egress:<name>``."""

    async def reserve(
        self, keys: Sequence[str], lane: str, *, instead_of: float | None = None
    ) -> Reservation:
        """Take the next moment at which a request that counts on all these keys may start.

        Args:
            keys: What the request counts on.
            lane: How urgent it is, see ``Lane``.
            instead_of: The place of an earlier reservation on the same keys that was missed. It is handed back, so
                that it is not lost to the others; whatever comes of this reservation.
        """
        ...

    async def reserve_loosely(self, keys: Sequence[str], lane: str, seconds: float) -> Reservation:
        """Take a moment at which a request may start, or up to so many seconds later; it counts twice on each key.

        Args:
            keys: What the request counts on.
            lane: How urgent it is, see ``Lane``.
            seconds: How much later it may start, less than a second.
        """
        ...

    def counts(self, key: str) -> bool:
        """Whether requests count on this key. On one that has no limit nobody is slowed down either; it can be stopped.

        Raises:
            ValueError: nothing is known of such keys.
        """
        ...

    async def slow_down(self, keys: Sequence[str], seconds: float) -> None:
        """Let nobody start on these keys, as far as they count, for so many seconds from now (after a 429)."""
        ...

    async def block(self, keys: Sequence[str], seconds: float, reason: str) -> None:
        """Stop these keys for so many seconds: reservations are refused with the reason (after a 403)."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """The reservation that ``InProcessBudget`` gives."""

    granted: bool
    wait: float
    place: float | None = None
    blocked_reason: str | None = None
    blocked_for: float = 0.0


@dataclass(slots=True)
class _Key:
    """One key: the limit as so many places in a window, the pace, and the last places (see the module)."""

    places: int
    window: float
    next_at: float = -math.inf
    recent: list[float] = field(default_factory=list)
    blocked_until: float = -math.inf
    blocked_reason: str = ""

    @classmethod
    def limited_to(cls, limit: float) -> Self:
        places = 1 if limit == math.inf else max(1, math.floor(limit))
        return cls(places, RESERVE * max(1.0, 1 / limit))

    @property
    def spacing(self) -> float:
        return self.window / self.places

    def free_at(self, loose: float = 0.0) -> float:
        """The earliest moment that pace and window allow; never before a place that was granted already.

        With ``loose`` seconds there must be room for a second place, so much later.
        """
        last = self.recent[-1] if self.recent else -math.inf
        full = self.recent[-self.places] + self.window if len(self.recent) >= self.places else -math.inf
        if loose and len(self.recent) >= self.places - 1:
            full = max(full, self.recent[1 - self.places] + self.window - loose)
        return max(self.next_at, last, full)

    def take(self, start: float, now: float) -> None:
        behind = now - self.next_at
        self.next_at = start - (behind if 0 < behind <= CREDIT else 0.0) + self.spacing
        # More than the window needs: a place that is handed back must not make an older one forgotten.
        self.recent = [*self.recent, start][-3 * self.places :]

    def hand_back(self, place: float) -> None:
        if place in self.recent:
            # What lies beyond the pace is a quiet that Kommo asked for (R2), or a wide slot: nobody's to give away.
            paced = self.next_at <= self.recent[-1] + self.spacing
            self.recent.remove(place)
            self.next_at -= self.spacing if paced else 0.0


class InProcessBudget:
    """A budget for one process: for scripts, and as the reference of the arithmetic.

    Args:
        limits: Requests per second by the prefix of a key (what stands before the colon).
        clock: Where the time comes from.
    """

    def __init__(self, limits: Mapping[str, float] | None, clock: Clock) -> None:
        self._limits = dict(limits or DEFAULT_LIMITS)
        self._clock = clock
        self._keys: dict[str, _Key] = {}

    async def reserve(self, keys: Sequence[str], lane: str, *, instead_of: float | None = None) -> Slot:
        """Take the next moment at which a request that counts on all these keys may start."""
        return self._reserve(keys, lane, instead_of, loose=0.0)

    async def reserve_loosely(self, keys: Sequence[str], lane: str, seconds: float) -> Slot:
        """Take a moment at which a request may start, or up to so many seconds later; it counts twice."""
        return self._reserve(keys, lane, None, loose=seconds)

    def _reserve(self, keys: Sequence[str], lane: str, instead_of: float | None, *, loose: float) -> Slot:
        now = self._clock.monotonic()
        states = [self._state(key) for key in keys if self.counts(key)]
        if instead_of is not None:
            for state in states:
                state.hand_back(instead_of)
        stopped = max((self._state(key) for key in keys), key=lambda state: state.blocked_until)
        if stopped.blocked_until > now:
            left = stopped.blocked_until - now
            return Slot(granted=False, wait=left, blocked_reason=stopped.blocked_reason, blocked_for=left)
        if min((state.places for state in states), default=2) < 2:
            loose = 0.0
        start = max([now, *(state.free_at(loose) for state in states)])
        too_far = start - now - HORIZONS[lane]
        if too_far > 0:
            return Slot(granted=False, wait=too_far)
        for state in states:
            state.take(start, now)
            if loose:
                state.take(start + loose, now)
        return Slot(granted=True, wait=start - now, place=start)

    async def slow_down(self, keys: Sequence[str], seconds: float) -> None:
        """Let nobody start on these keys for so many seconds from now."""
        until = self._clock.monotonic() + seconds
        for state in map(self._state, filter(self.counts, keys)):
            state.next_at = max(state.next_at, until)

    async def block(self, keys: Sequence[str], seconds: float, reason: str) -> None:
        """Stop these keys for so many seconds."""
        until = self._clock.monotonic() + seconds
        for state in map(self._state, keys):
            if until > state.blocked_until:
                state.blocked_until, state.blocked_reason = until, reason

    def counts(self, key: str) -> bool:
        """Whether requests count on this key."""
        return self._limit(key) > 0

    def _limit(self, key: str) -> float:
        prefix = key.partition(":")[0]
        if prefix not in self._limits:
            raise ValueError(f"No limit is known for budget keys that begin with {prefix!r}.")
        return self._limits[prefix]

    def _state(self, key: str) -> _Key:
        if key not in self._keys:
            self._keys[key] = _Key.limited_to(self._limit(key) or math.inf)
        return self._keys[key]


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to put one request on the wire now.

    Attributes:
        start: The granted moment, on the clock's ``monotonic()``.
        tolerance: Seconds after it at which the request may still go out.
    """

    start: float
    tolerance: float = LATE_TOLERANCE

    def is_late(self, clock: Clock) -> bool:
        """Whether the moment has passed by more than the tolerance: then the turn must not be used."""
        return clock.monotonic() - self.start > self.tolerance


async def wait_for_turn(
    budget: RateBudget,
    keys: Sequence[str],
    lane: str,
    clock: Clock,
    asking: asyncio.Lock | None = None,
    *,
    patience: float = math.inf,
    loose: float = 0.0,
) -> Turn:
    """Wait until one request may go out on all these keys; send it right after this returns.

    A granted moment is only good if it is kept. A process that wakes up late (another task held its loop, the
    machine swapped) and sends all the same stands close to the request behind it, which is kept on time by
    somebody else: eight in a second. So a turn that is late by more than ``LATE_TOLERANCE`` is given up: its
    place is handed back, and the next one is reserved in the same call. That costs the late one a little time, and
    nobody the limit.

    A process that is late every time would go on like this for ever. Sending late is safe only if nobody else
    has a place just behind, and a budget answers with our own place alone. So after a few give-ups the place
    is made wide: right after the reservation the keys are moved on by ``WIDE_SLOT`` (the same call that a 429
    makes), which leaves the second behind our place empty, and the request may be up to ``WIDE_TOLERANCE``
    late. Others can slip in only between these two calls. The window of a second that begins with our late
    request then holds: our own one, those who slipped in, and what starts in the ``WIDE_TOLERANCE`` after the
    empty second, which is at most 2 at 7 a second. So it takes five who slip in within milliseconds to break
    the limit. A process that is too late even for that says so.

    Args:
        budget: Where to reserve.
        keys: All keys that the request counts on.
        lane: How urgent it is, see ``Lane``.
        clock: For the time, the waiting, and a little chance that keeps waiters from asking in step.
        asking: Held while this waiter asks. Those who want the same keys in the same lane share one: then one of
            them asks for all, in the order of their coming, instead of everybody asking again and again, which
            costs the loop the very milliseconds that a turn may be late.
        patience: Whoever would have to wait for longer than so many seconds is told so at once.
        loose: Seconds by which it may be late; more than ``LATE_TOLERANCE`` costs a second place on each key.

    Raises:
        KommoError: ``budget_blocked`` if a key is stopped, ``too_busy`` if this process cannot keep its
            moments, ``rate_limited`` if it would take longer than ``patience``.
    """
    given_up, missed = 0, None
    while given_up < _GIVE_UPS_AT_ALL:
        async with asking or contextlib.nullcontext():
            got = await _granted(budget, keys, lane, clock, missed, patience=patience, loose=loose)
            answered = clock.monotonic()
        turn = Turn(answered + got.wait, max(loose, LATE_TOLERANCE))
        if given_up >= _GIVE_UPS_BEFORE_WIDE:
            await budget.slow_down(keys, got.wait + WIDE_SLOT)
            turn = Turn(turn.start, max(loose, WIDE_TOLERANCE))
        while (left := turn.start - clock.monotonic()) > 0:
            await clock.sleep(left)
        if not turn.is_late(clock):
            return turn
        given_up, missed = given_up + 1, got.place
    raise KommoError(ErrorKind.TOO_BUSY)


def too_long(seconds: float) -> KommoError:
    """The error of somebody who would have to wait for so many seconds, and does not."""
    return KommoError(
        ErrorKind.RATE_LIMITED,
        retry_after=seconds,
        detail=f"its quiet ends in {math.ceil(seconds)} s",
    )


async def _granted(
    budget: RateBudget,
    keys: Sequence[str],
    lane: str,
    clock: Clock,
    missed: float | None,
    *,
    patience: float,
    loose: float,
) -> Reservation:
    """Ask until a moment is granted."""
    while True:
        if loose:  # one that was missed all the same is not handed back: nobody is in need of it
            got = await budget.reserve_loosely(keys, lane, loose)
        else:
            got = await budget.reserve(keys, lane, instead_of=missed)
        missed = None
        if got.blocked_reason is not None:
            raise KommoError(
                ErrorKind.BUDGET_BLOCKED,
                retry_after=got.blocked_for,
                detail=f"the reason is: {got.blocked_reason}; it ends in {math.ceil(got.blocked_for)} s",
            )
        if got.wait > patience:
            raise too_long(got.wait)
        if got.granted:
            return got
        await clock.sleep(max(got.wait, _SHORTEST_NAP) + clock.random() * LATE_TOLERANCE)
