"""Writes what a batch of events came to: mirror, outbox and done marks in one transaction (W2).

A row that the database refuses must not take the others with it (W3): the batch is divided until it stands alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from kommo.clock import Clock
from store.backlog import Turn, settle
from store.database import Database
from store.errors import WriteRefusedError
from store.inbox import StoredEvent
from store.mirror import NewRecord, mark_gone, save_records
from store.outbox import OutboxEvent, add_events
from tasks.backlog_plan import Group
from tasks.effects import Absent, Found, Gone, Present, Source, effects_of, gone_state
from tasks.errors import sentence_of
from tasks.records import new_record


class TurnLostError(Exception):
    """Another worker has the org's turn now; nothing of this batch was written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One entity's events and what Kommo said of it.

    Attributes:
        group: The events.
        read: Whether Kommo was asked.
        record: What it gave, in the API's shape; None if it has nothing of this id.
    """

    group: Group
    read: bool = False
    record: Mapping[str, Any] | None = None


@dataclass
class Written:
    """What became of a batch.

    Attributes:
        outcomes: For each event that is done, what it came to.
        told: What was written into the outbox.
        failures: Events that could not be worked, each with the reason.
    """

    outcomes: list[tuple[int, str]] = field(default_factory=list)
    told: list[OutboxEvent] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Written") -> None:
        """Count another batch in."""
        self.outcomes += other.outcomes
        self.told += other.told
        self.failures += other.failures


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written in one transaction.

    Attributes:
        turn: Whose turn this is; a turn that was lost writes nothing.
        source: The org and its account.
        findings: Entities with their events.
        read_at: A moment before any of them was asked for.
    """

    turn: Turn
    source: Source
    findings: Sequence[Finding]
    read_at: datetime


async def write_batch(database: Database, batch: Batch, clock: Clock) -> Written:
    """Write a batch, whole.

    Args:
        database: The store.
        batch: What to write.
        clock: Source of time.

    Raises:
        TurnLostError: another worker has taken over; nothing was written.
    """
    try:
        async with database.begin() as connection:
            now = clock.now()
            written = await _write(connection, batch, now)
            if not await settle(connection, batch.turn, written.outcomes, now=now):
                raise TurnLostError
    except WriteRefusedError as error:
        findings = batch.findings
        if len(findings) == 1:
            return Written(failures=_failed(findings[0], sentence_of(error)))
        written, middle = Written(), len(findings) // 2
        for half in (findings[:middle], findings[middle:]):
            written.add(await write_batch(database, replace(batch, findings=half), clock))
    return written


async def _write(connection: AsyncConnection, batch: Batch, now: datetime) -> Written:
    written = Written()
    told: list[tuple[StoredEvent, OutboxEvent]] = []
    for finding, found in await _mirror(connection, batch, now, written):
        try:
            effects = effects_of(batch.source, finding.group.events, found)
        except Exception as error:  # noqa: BLE001 - an event that this program does not understand is one dead letter
            written.failures += _failed(finding, sentence_of(error))
            continue
        # By this the product, and whoever reads a log, finds the delivery that it comes of.
        told += [(event, replace(one, reference=event.reference)) for event, one in effects.told]
        written.outcomes += effects.outcomes
    # In the order in which Kommo told us, whatever order the entities were worked in.
    told.sort(key=lambda one: (one[0].received_at, one[0].delivery_id, one[0].position))
    written.told = [event for _, event in told]
    await add_events(connection, written.told, now)
    return written


async def _mirror(
    connection: AsyncConnection, batch: Batch, now: datetime, written: Written
) -> list[tuple[Finding, Found]]:
    """Bring the mirror level with what was read, and say what that was for it."""
    mirrored: list[tuple[Finding, Found]] = []
    present: dict[str, list[tuple[Finding, NewRecord]]] = {}
    absent: dict[tuple[str, Gone], list[Finding]] = {}
    for finding in batch.findings:
        group = finding.group
        if not finding.read:
            mirrored.append((finding, None))
        elif finding.record is None:
            absent.setdefault((group.entity, gone_state(group.events)), []).append(finding)
        elif finding.record.get("is_deleted") is True:
            absent.setdefault((group.entity, Gone.DELETED), []).append(finding)
        else:
            try:
                record = new_record(finding.record, read_at=batch.read_at)
            except ValueError as error:
                written.failures += _failed(finding, str(error))
                continue
            present.setdefault(group.entity, []).append((finding, record))
    org = batch.source.org
    for entity, pairs in present.items():
        changes = await save_records(
            connection, org, entity, [record for _, record in pairs], "webhook", now=now
        )
        mirrored += [(one, Present(record.raw, changes[record.record_id])) for one, record in pairs]
    for (entity, state), findings in absent.items():
        ids = [finding.group.record_id for finding in findings]
        # As of the question: who has read it later knows better.
        changed = await mark_gone(connection, org, entity, ids, state.value, now=batch.read_at)
        mirrored += [(one, Absent(state, one.group.record_id in changed)) for one in findings]
    return mirrored


def _failed(finding: Finding, reason: str) -> list[tuple[int, str]]:
    return [(event.id, reason) for event in finding.group.events]
