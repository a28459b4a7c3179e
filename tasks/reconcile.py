"""What webhooks have missed: found by asking Kommo what changed, repaired, and counted (W5).

Two questions tell what changed: which records have a newer `updated_at`, and which deletions and restorations Kommo's
own list of events has. Each record counts once, with its last change; that is what the mirror is about. It *arrived* if
a webhook told of it: with a time that is not older, or so that the mirror was read at that state because of a webhook.
What did not arrive is written into the mirror and told to the product in one transaction, as the backlog does it; a
change that did arrive is the backlog's, as long as it waits there. What arrived, waits no more and is not in the mirror
all the same (its event was given up, or Kommo's answer was behind its webhook) is repaired as well.

Changes of the last moments are left to the next time: their webhooks may be on their way.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from kommo.client import KommoClient
from kommo.clock import Clock
from kommo.errors import ErrorKind, KommoError
from kommo.records import read_by_ids, read_changed, read_events
from store.completeness import Completeness, complete_until, save_completeness
from store.connections import ConnectionRecord, still_stands
from store.database import Database
from store.dbclock import shared_time
from store.heard import last_heard
from store.inbox import heard_of, still_waiting
from store.mirror import (
    Change,
    ChangeKind,
    Facts,
    NewRecord,
    RecordState,
    mark_gone,
    record_states,
    save_records,
)
from store.outbox import OutboxEvent, add_events
from store.webhook_keys import list_keys
from tasks.completeness import percent
from tasks.effects import Absent, Gone, Present, Source, effects_of_repair
from tasks.errors import NotConnectedError
from tasks.records import new_record

GRACE = timedelta(minutes=2)
"""So long a webhook may be on its way before its change counts as missed."""
DEFAULT_SPAN = timedelta(days=1)
"""What is compared of an org that nothing is known of."""
ENTITIES = ("leads", "contacts", "companies", "tasks")

_SKEW = timedelta(
    minutes=1
)  # between Kommo's clock, which dates a deletion, and ours, which dates what is heard of it
_SINGULAR: Mapping[str, str] = {
    "lead": "leads",
    "contact": "contacts",
    "company": "companies",
    "task": "tasks",
}
_TYPES = (
    *(f"{noun}_deleted" for noun in _SINGULAR),
    *(f"{noun}_restored" for noun in ("lead", "contact", "company")),
)
_NO_EVENTS = frozenset({ErrorKind.FORBIDDEN, ErrorKind.NOT_FOUND, ErrorKind.PAYMENT_REQUIRED})


class EntityCount(BaseModel):
    """How many changes there were of one kind of records."""

    changes: int = 0
    arrived: int = Field(default=0, description="Of these, what webhooks had told.")
    repaired: int = Field(default=0, description="Of these, what the mirror did not have yet.")
    whole: bool = Field(default=True, description="Whether all could be compared; if not, the notes say why.")


class ReconcileReport(BaseModel):
    """What one comparison of an org's webhooks with the API came to. Holds nothing of a customer's data."""

    org: str
    since: datetime
    until: datetime
    by_entity: dict[str, EntityCount] = Field(default_factory=dict)
    told: dict[str, int] = Field(default_factory=dict, description="Outbox events of the repairs, by type.")
    notes: list[str] = Field(default_factory=list, description="What could not be compared, and why.")
    requests: int = 0
    seconds: float = 0.0

    def total(self, name: str) -> int:
        """One of the three numbers over all kinds of records."""
        return sum(getattr(count, name) for count in self.by_entity.values())

    @property
    def share(self) -> float:
        """What part of the changes had come by webhook; 1 where nothing changed."""
        changes = self.total("changes")
        return self.total("arrived") / changes if changes else 1.0

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        changes, arrived, repaired = (self.total(name) for name in ("changes", "arrived", "repaired"))
        return (
            f"{self.org}: {arrived} of {changes} changes had come by webhook ({percent(self.share)}), "
            f"{repaired} repaired, {self.requests} requests in {self.seconds:.1f} s"
            f"{'; ' + ' '.join(self.notes) if self.notes else ''}"
        )


async def where_to_begin(database: Database, org: str, now: datetime) -> datetime:
    """The moment up to which an org's changes are known to be complete.

    That is the end of its last comparison without a gap before it; before the first one, the moment at which its first
    hook key was made.
    """
    first, last = await _first_key(database, org, now), await compared_until(database, org, now)
    if last is not None:
        # The whole second was compared; seconds are what Kommo counts in.
        return last + timedelta(seconds=1)
    return now - DEFAULT_SPAN if first is None else first


async def compared_until(database: Database, org: str, now: datetime) -> datetime | None:
    """The end of an org's comparisons without a gap, from its first hook key on; None if there is none."""
    return await complete_until(database, org, now, await _first_key(database, org, now))


async def _first_key(database: Database, org: str, now: datetime) -> datetime | None:
    known = (key.created_at for key in await list_keys(database, org) if key.created_at <= now)
    return min(known, default=None)


class Reconciler:
    """Compares one org's webhooks with the API, once.

    Args:
        database: The store.
        client: The account's client.
        connection: Whose account.
        clock: Source of time.
    """

    def __init__(
        self, database: Database, client: KommoClient, connection: ConnectionRecord, clock: Clock
    ) -> None:
        self._database = database
        self._client = client
        self._org = connection.org
        self._source = Source(connection.org, connection.account_id)
        self._clock = clock
        self._counts = {entity: EntityCount() for entity in ENTITIES}
        self._told: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._counted: set[tuple[str, int]] = set()

    async def run(self, since: datetime, *, grace: timedelta = GRACE) -> ReconcileReport:
        """Compare, repair, count, and write the count down.

        Args:
            since: From this moment on.
            grace: Changes younger than this are left to the next time.

        Raises:
            KommoError: Kommo could not be asked; what was repaired until then stays, nothing is counted.
        """
        begun, sent = self._clock.monotonic(), self._client.requests_sent
        # In whole seconds, as Kommo counts.
        since = since.replace(microsecond=0)
        until = (self._clock.now() - grace).replace(microsecond=0)
        report = ReconcileReport(org=self._org, since=since, until=until, by_entity=self._counts)
        if until < since:
            return report.model_copy(update={"until": since})  # too early to tell: nothing is counted
        for entity in ENTITIES:
            await self._changed(entity, since, until)
        try:
            await self._gone_and_back(since, until)
        except KommoError as error:
            if error.kind not in _NO_EVENTS:
                raise
            report.notes.append(f"Deletions could not be compared: {error}")
            for count in self._counts.values():
                count.whole = False
        report.notes += [f"{number} records could not be read. {why}" for why, number in self._unread.items()]
        report.by_entity = self._counts
        report.told = dict(self._told)
        report.requests = self._client.requests_sent - sent
        report.seconds = round(self._clock.monotonic() - begun, 3)
        async with self._writing() as transaction:
            await save_completeness(transaction, self._completeness(report))
        return report

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, if the connection still stands: what was read for another one or a purged one is not kept.

        Raises:
            NotConnectedError: it was ended meanwhile, or leads to another account.
        """
        async with self._database.begin() as transaction:
            if not await still_stands(transaction, self._org, self._source.account_id):
                raise NotConnectedError(f"'{self._org}' was disconnected, or connected to another account.")
            yield transaction

    def _completeness(self, report: ReconcileReport) -> Completeness:
        return Completeness(
            org=self._org,
            since=report.since,
            until=report.until,
            changes=report.total("changes"),
            arrived=report.total("arrived"),
            repaired=report.total("repaired"),
            by_entity={name: count.model_dump() for name, count in self._counts.items()},
            measured_at=self._clock.now(),
        )

    async def _changed(self, entity: str, since: datetime, until: datetime) -> None:
        read_at = await self._shared_time()
        async for page in read_changed(self._client, entity, since):
            records = self._readable(entity, [raw for raw in page if not raw.get("is_deleted")], read_at)
            records = [one for one in records if one.updated_at is not None and one.updated_at <= until]
            ids = [one.record_id for one in records]
            heard = await heard_of(self._database, self._org, entity, [str(number) for number in ids])
            mirror = await record_states(self._database, self._org, entity, ids)
            missed: list[NewRecord] = []
            behind: list[NewRecord] = []
            for one in records:
                told, known = heard.get(str(one.record_id)), mirror.get(one.record_id)
                arrived = _not_older(told.occurred_at if told else None, one) or _read_because(known, one)
                self._count(entity, one.record_id, arrived=arrived)
                if not arrived:
                    missed.append(one)
                elif not _has(known, one):
                    behind.append(one)
            missed += await self._left_behind(entity, behind)
            await self._repair(entity, missed, since)
            read_at = await self._shared_time()

    def _readable(
        self, entity: str, given: Sequence[Mapping[str, Any]], read_at: datetime
    ) -> list[NewRecord]:
        """What can be read of Kommo's answer; what cannot is a change that did not arrive, and stops no other."""
        records: list[NewRecord] = []
        for raw in given:
            try:
                records.append(new_record(raw, read_at=read_at))
            except ValueError as error:
                self._counts[entity].changes += 1
                self._counts[entity].whole = False
                self._unread[str(error)] += 1
        return records

    async def _left_behind(self, entity: str, behind: Sequence[NewRecord]) -> list[NewRecord]:
        """Those of which nothing waits in the backlog: nobody else will bring the mirror level."""
        if not behind:
            return []
        ids = [str(one.record_id) for one in behind]
        waiting = await still_waiting(self._database, self._org, entity, ids)
        return [one for one in behind if str(one.record_id) not in waiting]

    async def _shared_time(self) -> datetime:
        """The time by which readings are put in their order, whichever machine made them."""
        return await shared_time(self._database, lambda: self._clock.now().timestamp())

    async def _gone_and_back(self, since: datetime, until: datetime) -> None:
        last: dict[str, dict[int, tuple[datetime, str]]] = {entity: {} for entity in ENTITIES}
        async for page in read_events(self._client, since, _TYPES):
            for event in page:
                noun, _, verb = str(event.get("type")).partition("_")
                number, moment = event.get("entity_id"), _moment(event.get("created_at"))
                entity = _SINGULAR.get(noun)
                if entity is None or not isinstance(number, int) or moment is None or moment > until:
                    continue
                if moment >= last[entity].get(number, (moment,))[0]:
                    last[entity][number] = (moment, "delete" if verb == "deleted" else "restore")
        for entity, happened in last.items():
            if happened:
                await self._compare(entity, happened, since)

    async def _compare(
        self, entity: str, happened: Mapping[int, tuple[datetime, str]], since: datetime
    ) -> None:
        """What was deleted or restored last, against what was heard of it, and what is true now."""
        read_at = await self._shared_time()
        there = await read_by_ids(self._client, entity, happened)
        mirror = await record_states(self._database, self._org, entity, list(happened))
        missed: list[NewRecord] = []
        gone: list[int] = []
        for action in ("delete", "restore"):
            ids = [number for number, (_, last) in happened.items() if last == action]
            heard = await last_heard(
                self._database, self._org, entity, action, [str(number) for number in ids]
            )
            for number in ids:
                moment = heard.get(str(number))
                arrived = moment is not None and moment >= happened[number][0] - _SKEW
                if (entity, number) in self._counted and action == "restore":
                    continue  # restoring has made it newer: it was counted with what changed
                self._count(entity, number, arrived=arrived)
                known = mirror.get(number)
                # Whether it was heard of or not: who finds it out first tells it, the other one finds it known.
                if number not in there:
                    gone.append(number)
                elif known is None or known.state != RecordState.PRESENT:
                    missed += self._readable(entity, [there[number]], read_at)
        await self._repair(entity, missed, since)
        await self._bury(entity, gone, read_at)

    def _count(self, entity: str, number: int, *, arrived: bool) -> None:
        if (entity, number) not in self._counted:
            self._counted.add((entity, number))
            self._counts[entity].changes += 1
            self._counts[entity].arrived += arrived

    async def _repair(self, entity: str, records: Sequence[NewRecord], since: datetime) -> None:
        """Bring the mirror level and tell what that shows; what it has already is neither repaired nor told."""
        if not records:
            return
        now = self._clock.now()
        async with self._writing() as transaction:
            changes = await save_records(transaction, self._org, entity, records, "reconcile", now=now)
            told: list[OutboxEvent] = []
            for one in records:
                events = effects_of_repair(
                    self._source,
                    entity,
                    one.record_id,
                    Present(one.raw, _as_it_was(changes[one.record_id], since)),
                    read_at=one.read_at,
                )
                self._counts[entity].repaired += bool(events)
                told += events
            await add_events(transaction, told, now)
        self._told.update(event.type for event in told)

    async def _bury(self, entity: str, ids: Sequence[int], read_at: datetime) -> None:
        if not ids:
            return
        now = self._clock.now()
        async with self._writing() as transaction:
            changed = await mark_gone(
                transaction, self._org, entity, ids, RecordState.DELETED, now=read_at, source="reconcile"
            )
            told = [
                event
                for number in ids
                for event in effects_of_repair(
                    self._source, entity, number, Absent(Gone.DELETED, number in changed), read_at=read_at
                )
            ]
            await add_events(transaction, told, now)
        self._counts[entity].repaired += len(changed)
        self._told.update(event.type for event in told)


def _as_it_was(change: Change, since: datetime) -> Change:
    """A record that is older than what is compared was not created in it, though the mirror meets it only now."""
    created_at = change.after.created_at
    if change.before is None and created_at is not None and created_at < since:
        return Change(ChangeKind.UPDATED, change.after, change.after)
    return change


def _not_older(heard: datetime | None, one: NewRecord) -> bool:
    return heard is not None and one.updated_at is not None and heard >= one.updated_at


def _has(known: Facts | None, one: NewRecord) -> bool:
    """Whether the mirror has this state or a newer one, or knows that the record was deleted after it was read."""
    if known is None:
        return False
    if known.state != RecordState.PRESENT:
        return known.read_at >= one.read_at
    return _not_older(known.updated_at, one)


def _read_because(known: Facts | None, one: NewRecord) -> bool:
    """Whether a webhook has made us read this state already, though it told of another change."""
    return (
        known is not None
        and known.source == "webhook"
        and known.state == RecordState.PRESENT
        and _not_older(known.updated_at, one)
    )


def _moment(seconds: Any) -> datetime | None:  # noqa: ANN401  whatever Kommo sent
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 0 < seconds < 1 << 40:
        return datetime.fromtimestamp(seconds, UTC)
    return None
