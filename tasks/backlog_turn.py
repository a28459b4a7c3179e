"""One turn: the pending events of one org are read, written and settled, by the one worker that holds the turn.

Two kinds of trouble (W3). One that an event is to blame for counts as an attempt of that event: it is tried again ever
later, and after the last attempt it is a dead letter with its reason. One that nobody's event is to blame for (a limit,
an outage, credentials) lets the whole org rest for a while and counts for no event.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kommo import tracing
from kommo.client import KommoClient
from kommo.clock import Clock
from store.backlog import Failure, Turn, fail_events, keep_turn, pending_events
from store.connections import PAIR
from store.database import Database
from store.errors import DatabaseForbiddenError, DatabaseUnavailableError
from store.inbox import StoredEvent
from store.mirror import some_record
from tasks.backlog_clients import Clients
from tasks.backlog_plan import CHUNK, Group, Plan, batches, chunks, plan
from tasks.backlog_read import read_records
from tasks.backlog_trouble import SlowReadError, Trouble, note_trouble, note_well, trouble_of
from tasks.backlog_write import Batch, Finding, TurnLostError, write_batch
from tasks.effects import Source
from tasks.logs import followed
from tasks.session import find_connection

_log = logging.getLogger(__name__)
_HELD_BACK_TURNS = 8
"""Turns in a row for which a kind with few ids waits for more; then it is read all the same."""
_SMALLEST = 10
"""Ids in one reading of an org that is slow; once slow, it is asked for few until the run ends."""
_IDS_SHOWN = 100
_READING = 0.8
"""Share of a turn that one reading may take, so that what was read can be written yet."""


@dataclass(frozen=True)
class Options:
    """How the backlog is worked.

    Attributes:
        turn_seconds: How long a turn lasts unless it is renewed: a worker that was killed holds its org up for so long.
        turn_events: At most about so many events are taken in one turn, so that every org gets one.
        batch_events: At most about so many are written in one transaction, so that the intake need not wait long.
        attempts: So many times an event is tried.
        backoff: Seconds before the second attempt; four times as many before each next one.
        poll: Seconds between two looks while there is nothing to do.
    """

    turn_seconds: float = 30.0
    turn_events: int = 2000
    batch_events: int = 500
    attempts: int = 5
    backoff: float = 5.0
    poll: float = 0.3


@dataclass
class Told:
    """How often something was told in one turn, and of which entities."""

    count: int = 0
    ids: list[int | str] = field(default_factory=list)


@dataclass
class TurnReport:
    """What one turn came to.

    Attributes:
        org: The product's tenant.
        account_id: Kommo's id of its account.
        taken: How many events there were.
        done: How many of them were settled.
        told: What was written into the outbox, by its type.
        failed: How many could not be worked this time.
        dead: How many of these were given up.
        trouble: Why the org has to rest, if it has to.
        lost: Another worker took over before the end.
        serial: The long-lived token that it was worked with, as the connection numbers it; None for a pair.
    """

    org: str
    account_id: int | None = None
    taken: int = 0
    done: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    failed: int = 0
    dead: int = 0
    trouble: Trouble | None = None
    lost: bool = False
    serial: int | None = None


class TurnWorker:
    """Works turns; several coroutines may share one.

    Args:
        database: The store.
        clients: Where clients come from.
        clock: Source of time.
        options: How the backlog is worked.
    """

    def __init__(self, database: Database, clients: Clients, clock: Clock, options: Options) -> None:
        self._database = database
        self._clients = clients
        self._clock = clock
        self._options = options
        self._held_back: dict[str, int] = {}
        self._rests: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    async def work(self, turn: Turn) -> TurnReport:
        """Work one turn as far as it goes; what stands in the way is in the report.

        Raises:
            DatabaseUnavailableError: nothing can be written; the turn ends by itself.
            DatabaseForbiddenError: likewise.
        """
        with tracing.span("webhook.turn", {"kommo.org": turn.org}) as span:
            report = await self._worked(turn)
            span.note({"kommo.events": report.taken, "kommo.events.done": report.done})
            if report.lost or report.trouble is not None:
                span.failed("turn lost" if report.lost else "trouble")
        return report

    async def _worked(self, turn: Turn) -> TurnReport:
        report, begun = TurnReport(turn.org), self._clock.monotonic()
        try:
            await self._work(turn, report, begun)
        except TurnLostError:
            report.lost = True
        except (DatabaseUnavailableError, DatabaseForbiddenError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the other orgs' events go on
            before = self._rests.get(turn.org, 0)
            self._rests[turn.org] = before + 1
            report.trouble = trouble_of(error, before)
            await note_trouble(self._database, turn.org, error, self._clock, serial=report.serial)
        return report

    async def _work(self, turn: Turn, report: TurnReport, begun: float) -> None:
        limit = self._options.turn_events
        events = await pending_events(self._database, turn, limit, now=self._seconds)
        report.taken = len(events)
        if not events:
            return
        connection = await find_connection(self._database, turn.org)
        report.account_id = connection.account_id
        report.serial = None if connection.token_kind == PAIR else connection.token_serial
        made = self._planned(turn.org, events, full=len(events) >= limit)
        source = Source(turn.org, connection.account_id)
        work = _Work(turn, source, report, turn.until - self._options.turn_seconds, begun)
        await self._fail(work, [(group.events, reason) for group, reason in made.unfit])
        for batch in batches(made.plain, self._options.batch_events):
            await self._write(work, [Finding(group) for group in batch], self._clock.now())
        if made.read:
            async with self._clients.use(connection) as client:
                for entity, groups in made.read.items():
                    for chunk in chunks(groups, self._sizes.get(turn.org, CHUNK)):
                        await self._read(work, client, entity, chunk)
            await note_well(self._database, connection, self._clock)
        self._rests.pop(turn.org, None)

    def _planned(self, org: str, events: Sequence[StoredEvent], *, full: bool) -> Plan:
        waited = self._held_back.get(org, 0)
        made = plan(events, more=full and waited < _HELD_BACK_TURNS)
        if made.held_back:
            self._held_back[org] = waited + 1
        else:
            self._held_back.pop(org, None)
        return made

    async def _read(self, work: "_Work", client: KommoClient, entity: str, chunk: Sequence[Group]) -> None:
        """Read the entities of one request's worth of groups, and write what was read."""
        seconds = self._options.turn_seconds
        kept = await keep_turn(self._database, work.turn, seconds, now=self._seconds)
        if kept is None:
            raise TurnLostError

        async def known(of: str, ids: Sequence[int]) -> int | None:
            return await some_record(self._database, work.turn.org, of, besides=ids)

        # By the shared clock: machines whose clocks differ must agree on which of two readings was the later one.
        read_at = datetime.fromtimestamp(kept.until - seconds, UTC)
        ids = [group.record_id for group in chunk]
        try:
            # A client waits for as long as Kommo asks everybody to; a turn does not last so long.
            async with asyncio.timeout(_READING * seconds):
                reading = await read_records(client, entity, ids, known)
        except TimeoutError:
            # Some accounts answer one id at a time only (`read_by_ids` says why); so many do not fit into a turn.
            self._sizes[work.turn.org] = max(_SMALLEST, len(chunk) // 2)
            raise SlowReadError(
                f"{entity.capitalize()} could not be read in time: Kommo is slow, or it has asked for fewer requests "
                "(`kommo budget show` says so). They are tried again by themselves."
            ) from None
        answered = [group for group in chunk if group.record_id in reading.answered]
        for batch in batches(answered, self._options.batch_events):
            findings = [
                Finding(group, read=True, record=reading.records.get(group.record_id)) for group in batch
            ]
            await self._write(work, findings, read_at)
        blamed = [(group.events, reading.blamed.get(group.record_id)) for group in chunk]
        await self._fail(work, [(events, reason) for events, reason in blamed if reason is not None])

    async def _write(self, work: "_Work", findings: Sequence[Finding], read_at: datetime) -> None:
        batch, since = Batch(work.turn, work.source, findings, read_at), time.time_ns()
        written = await write_batch(self._database, batch, self._clock)
        work.report.done += len(written.outcomes)
        for event in written.told:
            told = work.report.told.setdefault(event.type, Told())
            told.count += 1
            if len(told.ids) < _IDS_SHOWN:
                told.ids.append(event.payload["id"])
        events = {event.id: event for finding in findings for event in finding.group.events}
        if tracing.is_on() or _log.isEnabledFor(logging.INFO):
            _tell_settled(work.turn.org, [events[number] for number, _ in written.outcomes], since)
        await self._fail(work, [((events[number],), reason) for number, reason in written.failures])

    async def _fail(self, work: "_Work", failed: Iterable[tuple[Sequence[StoredEvent], str]]) -> None:
        """Count an attempt of each of these events; after the last one it is a dead letter.

        One that was not due yet, and was worked only because another one of its entity was, has had no attempt of its
        own: else an entity that changes every second would use up in seconds what should last for minutes.
        """
        now, failures = work.begun_at + self._clock.monotonic() - work.begun, []
        for events, reason in failed:
            for event in events:
                if event.due_at > work.begun_at:
                    continue
                dead = event.attempts + 1 >= self._options.attempts
                retry_at = None if dead else now + self._options.backoff * 4.0**event.attempts
                failures.append(Failure(event.id, reason, retry_at))
        if not failures:
            return
        if not await fail_events(self._database, work.turn, failures, now=self._clock.now()):
            raise TurnLostError
        work.report.failed += len(failures)
        work.report.dead += sum(failure.retry_at is None for failure in failures)

    def _seconds(self) -> float:
        return self._clock.now().timestamp()


def _tell_settled(org: str, events: Iterable[StoredEvent], since: int) -> None:
    """One line, and one span, for each delivery: by its request's id it is found from the gateway to the product."""
    settled = Counter((one.delivery_id, one.reference) for one in events)
    for (delivery, reference), count in settled.items():
        _log.info(
            "%d %s settled",
            count,
            "event" if count == 1 else "events",
            extra=followed(org, reference, delivery=delivery),
        )
    tracing.told(
        "webhook.effect",
        [(reference, _known(org, reference, one, count)) for (one, reference), count in settled.items()],
        since=since,
    )


def _known(org: str, reference: str | None, delivery: str, count: int) -> tracing.Values:
    return {
        "kommo.org": org,
        "kommo.reference": reference,
        "kommo.delivery": delivery,
        "kommo.events": count,
    }


@dataclass(frozen=True)
class _Work:
    turn: Turn
    source: Source
    report: TurnReport
    begun_at: float
    """When the turn began, by the shared clock that says what is due."""
    begun: float
    """The same by the monotonic clock."""
