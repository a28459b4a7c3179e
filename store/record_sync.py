"""How far each kind of records has been read: begun, gone on with, and concluded by one run at a time.

A page and the place behind it are committed together, so that a killed reading goes on there. Only what a reading has
not seen since it began may be gone, and whoever concludes that has a proof for it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.connection_records import require_connected
from store.database import Database, insert_on
from store.errors import StoreError
from store.mirror import Change, ChangeKind, RecordState, mark_gone, save_records
from store.mirror_rows import NewRecord
from store.outbox import OutboxEvent, add_events
from store.tables import RecordRow, RecordSyncRow, table_of

_SYNC = table_of(RecordSyncRow)
_RECORD = table_of(RecordRow)


Tell = Callable[[Mapping[int, Change]], Awaitable[Sequence[OutboxEvent]]]


class RecordMode(StrEnum):
    """`full`: everything; `incremental`: what changed since the last reading."""

    FULL = "full"
    INCREMENTAL = "incremental"


class ReadingTakenOverError(StoreError):
    """Another run reads this kind now; what this one had stored stays."""


@dataclass(frozen=True, slots=True)
class RecordSync:
    """How one kind's reading stands. Times are aware and UTC; `watermark` and `seen_until` are Kommo's Unix seconds.

    Attributes:
        mode: `full` or `incremental`.
        state: `running`, `complete` or `failed`.
        started_at: when this reading began; also that of a run that was killed and is gone on with.
        completed_at: when the last full reading was complete, None: never.
        watermark: until when everything is known, None: nothing is.
        position: what is left to read; None: it has just begun.
        resumed: how often it was gone on with.
    """

    org: str
    entity: str
    mode: str
    state: str
    run_id: str
    started_at: datetime
    finished_at: datetime | None
    completed_at: datetime | None
    watermark: int | None
    seen_until: int | None
    position: Any = field(repr=False)
    pages: int
    records: int
    requests: int
    resumed: int
    reason: str | None


@dataclass(slots=True)
class PageSaved:
    """What saving a page came to."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class RecordCount:
    """How many records of a kind there are, by state, and how its reading stands."""

    entity: str
    present: int
    deleted: int
    missing: int
    newest: datetime | None
    sync: RecordSync | None


async def begin_reading(
    db: Database, org: str, entity: str, mode: RecordMode, run_id: str, *, resumable: bool, now: datetime
) -> RecordSync:
    """Begin to read a kind, or go on where a reading was broken off.

    An unfinished full reading is gone on with whatever was asked for. Where nothing is known yet, the reading is full.

    Args:
        db: the store.
        org: the product's tenant.
        entity: the kind's name.
        mode: what is asked for.
        run_id: whose reading it is from now on.
        resumable: whether this kind's position means something to another run.
        now: the present time, by the clock that readings are put in order by.

    Raises:
        UnknownConnectionError: the org was disconnected or erased meanwhile.
    """
    async with db.begin() as connection:
        query = select(_SYNC).where(_SYNC.c.org == org, _SYNC.c.entity == entity).with_for_update(of=_SYNC)
        row = (await connection.execute(query)).mappings().first()
        known = None if row is None else RecordSync(**row)
        unfinished = known is not None and known.state != "complete" and known.mode == RecordMode.FULL
        goes_on = unfinished and resumable and known is not None and known.position is not None
        if unfinished or known is None or known.watermark is None:
            mode = RecordMode.FULL
        values: dict[str, Any] = {"state": "running", "run_id": run_id, "finished_at": None, "reason": None}
        if goes_on and known is not None:
            values["resumed"] = known.resumed + 1
        else:
            values |= {"mode": mode.value, "started_at": now, "position": None, "seen_until": None}
            values |= dict.fromkeys(("pages", "records", "requests", "resumed"), 0)
        statement = insert_on(connection, _SYNC).values(
            org=org, entity=entity, **{"mode": mode.value, "started_at": now} | values
        )
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["org", "entity"], set_=values)
        )
        begun = RecordSync(**(await connection.execute(query)).mappings().one())
        await require_connected(connection, org)
        return begun


async def save_page(
    db: Database,
    reading: RecordSync,
    records: Sequence[NewRecord],
    position: Any,  # noqa: ANN401  the reader's own JSON
    *,
    requests: int,
    now: datetime,
    seen_until: int | None = None,
    tell: Tell | None = None,
) -> PageSaved:
    """Store a page and what is left behind it, in one transaction.

    Args:
        db: the store.
        reading: from `begin_reading`.
        records: the page.
        position: what is left to read.
        requests: how many requests were sent since the page before.
        now: the present time.
        seen_until: the newest time of Kommo's that was seen.
        tell: gives what the product is to be told of the changes, in the same transaction.

    Raises:
        ReadingTakenOverError: another run reads this kind now; nothing was stored.
    """
    async with db.begin() as connection:
        values = {
            "position": position,
            "pages": _SYNC.c.pages + 1,
            "records": _SYNC.c.records + len(records),
            "requests": _SYNC.c.requests + requests,
        }
        if seen_until is not None:
            values["seen_until"] = seen_until
        await _mine(connection, reading, values)
        changes = await save_records(connection, reading.org, reading.entity, records, "sync", now=now)
        if tell is not None:
            await add_events(connection, await tell(changes), now)
    saved = PageSaved()
    for change in changes.values():
        if change.kind in {ChangeKind.CREATED, ChangeKind.RESTORED}:
            saved.added += 1
        elif change.kind is ChangeKind.UPDATED:
            saved.changed += 1
        else:
            saved.unchanged += 1
    return saved


async def unseen(
    db: Database, org: str, entity: str, *, before: datetime, after: int | None = None, limit: int = 5_000
) -> list[int]:
    """Records that nobody has read since a moment, in the order of their ids: they may be gone.

    Args:
        db: the store.
        org: the product's tenant.
        entity: the kind's name.
        before: the moment: when the reading began.
        after: only ids above this one.
        limit: at most so many.
    """
    query = select(_RECORD.c.record_id).where(
        _RECORD.c.org == org,
        _RECORD.c.entity == entity,
        _RECORD.c.state == RecordState.PRESENT,
        _RECORD.c.read_at < before,
    )
    if after is not None:
        query = query.where(_RECORD.c.record_id > after)
    async with db.read() as connection:
        return list((await connection.execute(query.order_by(_RECORD.c.record_id).limit(limit))).scalars())


async def bury(
    db: Database,
    reading: RecordSync,
    ids: Sequence[int],
    *,
    read_at: datetime,
    now: datetime,
    tell: Callable[[Sequence[int]], Sequence[OutboxEvent]] | None = None,
) -> int:
    """Note that records are gone, of which that is proved.

    Args:
        db: the store.
        reading: from `begin_reading`.
        ids: which ones.
        read_at: a moment before that was asked; who has read one later knows better.
        now: the present time.
        tell: gives what the product is to be told of those that were there, in the same transaction.

    Returns:
        How many were there before.

    Raises:
        ReadingTakenOverError: another run reads this kind now.
    """
    async with db.begin() as connection:
        await _mine(connection, reading, {"reason": None})
        gone = await mark_gone(
            connection, reading.org, reading.entity, ids, RecordState.DELETED, now=read_at, source="sync"
        )
        if tell is not None:
            await add_events(connection, tell(sorted(gone)), now)
    return len(gone)


async def end_reading(
    db: Database,
    reading: RecordSync,
    *,
    watermark: int | None,
    requests: int,
    now: datetime,
) -> None:
    """Note that everything was read.

    Args:
        db: the store.
        reading: from `begin_reading`.
        watermark: until when everything is known now; Kommo's Unix seconds.
        requests: how many requests were sent since the last page.
        now: the present time.

    Raises:
        ReadingTakenOverError: another run reads this kind now.
    """
    values: dict[str, Any] = {
        "state": "complete",
        "finished_at": now,
        "position": None,
        "watermark": watermark,
        "requests": _SYNC.c.requests + requests,
    }
    if reading.mode == RecordMode.FULL:
        values["completed_at"] = reading.started_at
    async with db.begin() as connection:
        await _mine(connection, reading, values)


async def fail_reading(db: Database, reading: RecordSync, reason: str, *, now: datetime) -> None:
    """Note why a reading ended before its end; the next run goes on with it."""
    async with db.begin() as connection:
        await connection.execute(
            update(_SYNC).where(*_own(reading)).values(state="failed", finished_at=now, reason=reason)
        )


async def count_records(db: Database, org: str) -> list[RecordCount]:
    """How many records there are of each kind that anything is known of, in the order of their names."""
    counted = (
        select(
            _RECORD.c.entity,
            _RECORD.c.state,
            func.count().label("number"),
            func.max(_RECORD.c.updated_at).label("newest"),
        )
        .where(_RECORD.c.org == org)
        .group_by(_RECORD.c.entity, _RECORD.c.state)
    )
    async with db.read() as connection:
        rows = (await connection.execute(counted)).all()
        readings = (await connection.execute(select(_SYNC).where(_SYNC.c.org == org))).mappings()
        syncs = {row["entity"]: RecordSync(**row) for row in readings}
    numbers: dict[str, dict[str, int]] = {}
    newest: dict[str, datetime] = {}
    for entity, state, number, moment in rows:
        numbers.setdefault(entity, {})[state] = number
        if moment is not None and state == RecordState.PRESENT:
            newest[entity] = moment
    return [
        RecordCount(
            entity=entity,
            present=numbers.get(entity, {}).get(RecordState.PRESENT, 0),
            deleted=numbers.get(entity, {}).get(RecordState.DELETED, 0),
            missing=numbers.get(entity, {}).get(RecordState.MISSING, 0),
            newest=newest.get(entity),
            sync=syncs.get(entity),
        )
        for entity in sorted({*numbers, *syncs})
    ]


async def known_ids(db: Database, org: str, entity: str) -> list[int]:
    """The ids of all records of a kind that are there: for kinds of which there are few."""
    query = select(_RECORD.c.record_id).where(
        _RECORD.c.org == org, _RECORD.c.entity == entity, _RECORD.c.state == RecordState.PRESENT
    )
    async with db.read() as connection:
        return list((await connection.execute(query.order_by(_RECORD.c.record_id))).scalars())


def _own(reading: RecordSync) -> tuple[Any, ...]:
    return (
        _SYNC.c.org == reading.org,
        _SYNC.c.entity == reading.entity,
        _SYNC.c.run_id == reading.run_id,
    )


async def _mine(connection: AsyncConnection, reading: RecordSync, values: dict[str, Any]) -> None:
    found = await connection.execute(update(_SYNC).where(*_own(reading)).values(**values))
    if found.rowcount == 0:
        raise ReadingTakenOverError(
            f"Another run reads the {reading.entity} of '{reading.org}' now (or they were removed). "
            "What this run has stored stays; there is nothing to do."
        )
