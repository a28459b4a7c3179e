"""One org's turn: its subjects side by side, the events of each one after the other.

Of a subject the next event is sent when the product has taken the one before. After a failure the rest of the subject
waits; what comes next of it, and when, is what the mark says. A subject that is slow holds up no other one: while it is
under way, the org's events are looked for again and again.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter

from kommo import tracing
from kommo.clock import Clock
from store.database import Database
from store.errors import DatabaseUnavailableError
from store.outbox import DEAD, OutboxRecord
from store.outbox_turns import due_outbox
from tasks.delivery_marks import HeldTurn, Marker
from tasks.delivery_rules import Breaker, Judgement, Verdict, judge, mark_of, rest
from tasks.delivery_slots import Slots
from tasks.logs import followed
from tasks.posting import Outcome, Posted, Poster
from tasks.signing import CONTENT_TYPE, Signer, cloud_event
from tasks.waiting import set_or_after

_LOOKING = 3
_SHARE = 8
"""One subject counts for at most this part of what is looked at together, however many of its events there are."""
_WELL_SECONDS = 120.0
"""For so long after the product has taken an event, its second 503 or redirect for another one is about that one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How events are delivered.

    Attributes:
        turn_seconds: How long a turn lasts unless it is kept up: a run that was killed holds its orgs up for so long.
        turn_longest: After so many seconds of one turn the other orgs have theirs.
        at_a_time: At most so many of an org's events are looked at together.
        attempts: So many times an event is tried.
        threshold: After so many failures in a row the address rests.
        timeout: Seconds for one attempt.
        poll: Seconds between two looks while there is nothing to do.
    """

    turn_seconds: float = 30.0
    turn_longest: float = 30.0
    at_a_time: int = 200
    attempts: int = 15
    threshold: int = 5
    timeout: float = 10.0
    poll: float = 0.3


@dataclass
class Counts:
    """What came of the attempts of a run."""

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    posts: int = 0
    lost_turns: int = 0
    failures: dict[str, int] = field(default_factory=dict)


class Sending:
    """What the orgs of a run share: the address, how many may be sent to it at a time, and whether it does.

    Args:
        poster: The address.
        signer: Signs.
        clock: Source of time.
        options: How events are delivered.
        counts: What came of it.
        concurrency: At most so many attempts at a time.
    """

    def __init__(
        self,
        poster: Poster,
        signer: Signer,
        clock: Clock,
        options: Options,
        counts: Counts,
        *,
        concurrency: int,
    ) -> None:
        self.options = options
        self.clock = clock
        self.counts = counts
        self.breaker = Breaker(options.threshold)
        self.stopped = False
        self._poster = poster
        self._signer = signer
        self._slots = Slots(concurrency)
        self._well_until = float("-inf")
        # Only a few look into the database at a time: more connections than are kept cost more than a wait.
        self.looking = asyncio.Semaphore(_LOOKING)

    @property
    def may_send(self) -> bool:
        """Whether anything may be sent at the moment."""
        return not self.stopped and self.breaker.tripped is None

    async def send(self, event: OutboxRecord, turn: HeldTurn) -> Judgement | None:
        """One attempt; None if nothing was sent, because the address rests or the turn may have ended."""
        async with self._slots.of(event.org):
            if not self.may_send or turn.lost or self.clock.monotonic() > turn.good_until:
                return None
            self.counts.posts += 1
            begun = self.clock.monotonic()
            posted = await self._traced(event)
        judgement = self._judge(event, posted)
        held_up = self.clock.monotonic() - begun > 2 * self.options.timeout
        if held_up and judgement.verdict is not Verdict.TAKEN:
            return None  # this process was stopped meanwhile: neither the event nor the address is to blame
        self.breaker.note(judgement)
        return judgement

    def _judge(self, event: OutboxRecord, posted: Posted) -> Judgement:
        """The verdict on an attempt, in the light of what came of others.

        One event that gets a 503 or a redirect again and again, while others are taken, would else be tried for ever:
        it would block its subject, and the whole address each time that it makes it rest.
        """
        judgement, now = judge(posted), self.clock.monotonic()
        if judgement.verdict is Verdict.TAKEN:
            self._well_until = now + _WELL_SECONDS
        failed_before = event.last_error is not None and now < self._well_until
        if failed_before and judgement.verdict is Verdict.UNWELL and posted.status not in {None, 429}:
            return replace(judgement, verdict=Verdict.REFUSED)
        return judgement

    async def _traced(self, event: OutboxRecord) -> Posted:
        """One attempt as a span of the request that the event comes of."""
        known = {
            "kommo.org": event.org,
            "kommo.reference": event.reference,
            "kommo.event": event.event_id,
            "kommo.event.type": event.type,
            "kommo.attempt": event.attempts + 1,
        }
        with tracing.span(
            "outbox.deliver", known, kind=tracing.Kind.CLIENT, reference=event.reference
        ) as span:
            posted = await self._post(event)
            span.note({"http.response.status_code": posted.status})
            if posted.status is None or not 200 <= posted.status < 300:
                span.failed(posted.outcome.value if posted.status is None else str(posted.status))
        return posted

    async def _post(self, event: OutboxRecord) -> Posted:
        try:
            body = cloud_event(event)
            headers = self._signer.headers(event.event_id, int(self.clock.now().timestamp()), body)
            if event.reference is not None:
                headers["x-request-id"] = event.reference
            more = {"content-type": CONTENT_TYPE, **tracing.headers()}
            return await self._poster.post({**more, **headers}, body)
        except Exception as error:  # noqa: BLE001 - whatever this one event does to us, the others go on
            _log.error("Event %s could not be sent (%s).", event.event_id, type(error).__name__)
            return Posted(Outcome.BROKEN)


class OrgDelivery:
    """Delivers the events of one org that was taken.

    Args:
        database: The store.
        held: The turn.
        marker: Writes down what came of it.
        sending: What all orgs share.
    """

    def __init__(self, database: Database, held: HeldTurn, marker: Marker, sending: Sending) -> None:
        self._database = database
        self._held = held
        self._marker = marker
        self._sending = sending
        self._busy: dict[str, int] = {}
        self._changed = asyncio.Event()

    async def work(self) -> None:
        """Deliver what is due, until there is no more or the turn has lasted long enough."""
        options, clock = self._sending.options, self._sending.clock
        until = clock.monotonic() + options.turn_longest
        async with asyncio.TaskGroup() as group:
            while True:
                goes_on = self._goes_on and clock.monotonic() < until
                share = max(1, options.at_a_time // _SHARE)
                room = options.at_a_time - sum(min(count, share) for count in self._busy.values())
                if goes_on and room >= options.at_a_time // 4:
                    for subject, events in self._subjects(await self._due(room)):
                        self._busy[subject] = len(events)
                        group.create_task(self._tell(subject, events, until))
                if not self._busy:
                    return
                # A subject may be done, or new events may have come.
                await set_or_after(self._changed, clock, options.poll)

    async def one(self, rests_before: int) -> tuple[Judgement, float] | None:
        """Deliver a single event, to see whether the address does; None if there is none.

        One that has not failed yet, if there is any: an event that the product never takes tells little about the
        address.

        Args:
            rests_before: How many rests in a row the address has had.

        Returns:
            What came of it, and for how many seconds the address has to rest if it failed.
        """
        firsts: dict[str, OutboxRecord] = {}
        for event in await self._due(self._sending.options.at_a_time):
            firsts.setdefault(event.subject, event)
        if not firsts:
            return None
        event = min(firsts.values(), key=lambda one: (one.last_error is not None, one.id))
        judgement = await self._sending.send(event, self._held)
        if judgement is None:
            return None
        seconds = rest(judgement, rests_before, self._sending.clock.random)
        await self._note(event, judgement, rest_seconds=seconds)
        return judgement, seconds

    @property
    def _goes_on(self) -> bool:
        return self._sending.may_send and not self._held.lost

    async def _due(self, limit: int) -> list[OutboxRecord]:
        try:
            async with self._sending.looking:
                return await due_outbox(
                    self._database,
                    self._held.turn.org,
                    limit=limit,
                    busy=self._busy,
                    moment=self._sending.clock.now(),
                )
        except DatabaseUnavailableError:
            return []  # whoever writes the marks waits for it, and says so

    @staticmethod
    def _subjects(events: list[OutboxRecord]) -> Iterable[tuple[str, list[OutboxRecord]]]:
        """The events by their subjects, first the subject whose first event is the oldest."""
        first: dict[str, int] = {}
        for event in events:
            first.setdefault(event.subject, event.id)
        ordered = sorted(events, key=lambda event: (first[event.subject], event.id))
        return [(subject, list(found)) for subject, found in groupby(ordered, key=attrgetter("subject"))]

    async def _tell(self, subject: str, events: list[OutboxRecord], until: float) -> None:
        """Tell one subject's events, in their order, until one fails or the turn has lasted long enough."""
        marks: list[asyncio.Future[bool]] = []
        try:
            for event in events:
                if self._sending.clock.monotonic() >= until:
                    break
                judgement = await self._sending.send(event, self._held)
                if judgement is None:
                    break
                marks.append(self._note(event, judgement))
                self._busy[subject] -= 1
                if judgement.verdict is not Verdict.TAKEN:
                    break
            # Nobody may look for this subject's events before these are marked: they would be sent once more.
            await asyncio.gather(*marks)
        finally:
            del self._busy[subject]
            self._changed.set()

    def _note(
        self, event: OutboxRecord, judgement: Judgement, *, rest_seconds: float = 0.0
    ) -> "asyncio.Future[bool]":
        sending = self._sending
        mark = mark_of(
            event,
            judgement,
            attempts=sending.options.attempts,
            now=sending.clock.now(),
            dice=sending.clock.random,
            rest_seconds=rest_seconds,
        )
        counts = sending.counts
        if judgement.verdict is Verdict.TAKEN:
            counts.delivered += 1
            if _log.isEnabledFor(logging.INFO):
                _log.info(
                    "told: %s", event.type, extra=followed(event.org, event.reference, event=event.event_id)
                )
        else:
            counts.failed += 1
            counts.dead += mark.state == DEAD
            reason = judgement.reason or ""
            counts.failures[reason] = counts.failures.get(reason, 0) + 1
        return self._marker.mark(mark)
