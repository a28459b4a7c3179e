"""Snapshots: saving what one run read, and reading it back as of any time.

These are the promises S1, S2 and S3 of design.md §3.

A snapshot is not a copy. Each item is a chain of versions, each with the span of time over which it held;
saving a read adds a version for what is new, closes those that ended, and writes nothing for what stayed.

What is saved together becomes visible together and has one `taken_at`, so that a pipeline and its stages are
always read from the same moment.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.errors import NoSnapshotError
from store.items import Item, Prepared, prepare
from store.kinds import KINDS, Kind, find_kind
from store.runs import (
    RunRecord,
    RunState,
    SnapshotRecord,
    SnapshotState,
    begin_run,
    fail_snapshot,
    finish_run,
    latest_run,
    latest_runs,
    list_runs,
    record_snapshots,
    require_run,
)
from store.tables import Snapshot, SnapshotHead, table_of
from store.types import as_utc

__all__ = [
    "Item",
    "RunRecord",
    "RunState",
    "Saved",
    "SnapshotRecord",
    "SnapshotState",
    "SnapshotView",
    "begin_run",
    "fail_snapshot",
    "finish_run",
    "latest_run",
    "latest_runs",
    "list_runs",
    "read_snapshot",
    "save_snapshot",
]

_HEAD = table_of(SnapshotHead)
_SNAPSHOT = table_of(Snapshot)
# Rows per INSERT batch and ids per UPDATE: bounds the memory of one statement, far below both databases'
# limits.
_CHUNK = 1000
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Saved:
    """What saving one kind did, in items. `superseded`: a read that began later was there first."""

    items: int
    added: int = 0
    changed: int = 0
    removed: int = 0
    superseded: bool = False


@dataclass(frozen=True)
class SnapshotView:
    """One kind as it was: `run_id` read it at `taken_at`; `items` are plain dicts with Kommo's key names."""

    org: str
    kind: str
    taken_at: datetime
    run_id: str
    items: list[dict[str, Any]]


async def save_snapshot(
    db: Database,
    run_id: str,
    org: str,
    rows: Mapping[str, Sequence[Item]],
    *,
    read_started_at: datetime,
    now: datetime,
) -> dict[str, Saved]:
    """Save one complete read of some kinds that belong together, wholly or not at all (S1).

    Only hand over kinds that were read to the end: what is missing from the rows is taken for deleted.

    Args:
        db: the store.
        run_id: from `begin_run`.
        org: the product's tenant.
        rows: the items of each kind. Children (statuses, enums) go with their parents in one call.
        read_started_at: when the first request of this read was sent. Of two reads that overlap, the one that
            began later knows more: if it has been saved already, this one is superseded and writes nothing.
        now: the present time; becomes `taken_at`, moved on a little if a snapshot of that time exists.

    Returns:
        For each kind (by its own name, not an alias) what was written.

    Raises:
        UnknownKindError, UnknownRunError, InvalidReadError: the calling code is at fault; nothing was
        written.
    """
    now, read_started_at = as_utc(now), as_utc(read_started_at)
    # Digests of ten thousand items take a fraction of a second: not on the event loop, and not under the lock.
    prepared = await asyncio.to_thread(prepare, rows)
    kinds = sorted(prepared)  # everybody locks in this order
    async with db.begin() as connection:
        await require_run(connection, run_id, org)
        heads = await _lock_heads(db, connection, org, kinds)
        taken_at = max([now, *(taken + _TICK for taken, _ in heads.values() if taken)])
        save = _Save(org, run_id, taken_at, read_started_at)
        if any(started and started > read_started_at for _, started in heads.values()):
            # The whole group: half of it would mix two moments.
            saved = {kind: Saved(len(prepared[kind]), superseded=True) for kind in kinds}
        else:
            saved = {kind: await save.write(connection, KINDS[kind], prepared[kind]) for kind in kinds}
            await connection.execute(
                update(_HEAD)
                .where(_HEAD.c.org == org, _HEAD.c.kind.in_(kinds))
                .values(taken_at=taken_at, read_started_at=read_started_at, run_id=run_id)
            )
        await record_snapshots(db, connection, [save.record(kind, saved[kind]) for kind in kinds])
    return saved


@dataclass(frozen=True)
class _Save:
    """What is common to everything that one save writes."""

    org: str
    run_id: str
    taken_at: datetime
    read_started_at: datetime

    def record(self, kind: str, saved: Saved) -> dict[str, Any]:
        """The row that says what became of one kind."""
        return {
            "run_id": self.run_id,
            "kind": kind,
            "org": self.org,
            "state": SnapshotState.SUPERSEDED if saved.superseded else SnapshotState.SAVED,
            "taken_at": self.taken_at,
            "read_started_at": self.read_started_at,
            "items": saved.items,
            "added": saved.added,
            "changed": saved.changed,
            "removed": saved.removed,
            "reason": "A read that began later had already been saved." if saved.superseded else None,
        }

    async def write(self, connection: AsyncConnection, kind: Kind, items: Mapping[str, Prepared]) -> Saved:
        """Write the difference between what is current and `items`. The caller holds the kind's head row."""
        table = kind.table
        found = await connection.execute(
            select(table.c.key, table.c.id, table.c.digest).where(_current(table, self.org, kind.name))
        )
        current = {key: (row_id, digest) for key, row_id, digest in found}
        removed = [row_id for key, (row_id, _) in current.items() if key not in items]
        changed = [
            row_id
            for key, (row_id, digest) in current.items()
            if key in items and items[key].digest != digest
        ]
        fresh = [key for key, item in items.items() if key not in current or current[key][1] != item.digest]
        # First close, then add: there may be only one current version of an item.
        closing = removed + changed
        for start in range(0, len(closing), _CHUNK):
            await connection.execute(
                update(table)
                .where(table.c.id.in_(closing[start : start + _CHUNK]))
                .values(valid_to=self.taken_at, closed_run_id=self.run_id)
            )
        common = {"org": self.org, "kind": kind.name, "valid_from": self.taken_at, "run_id": self.run_id}
        for start in range(0, len(fresh), _CHUNK):
            chunk = ((key, items[key]) for key in fresh[start : start + _CHUNK])
            await connection.execute(
                table.insert(),
                [
                    {**common, "key": key, "digest": item.digest, "raw": item.raw, **item.columns}
                    for key, item in chunk
                ],
            )
        return Saved(len(items), added=len(fresh) - len(changed), changed=len(changed), removed=len(removed))


async def _lock_heads(
    db: Database, connection: AsyncConnection, org: str, kinds: Sequence[str]
) -> dict[str, tuple[datetime | None, datetime | None]]:
    """Lock the kinds' head rows, made if missing. Gives (taken_at, read_started_at) of what is saved."""
    if not kinds:
        return {}
    await connection.execute(
        db.insert(_HEAD).on_conflict_do_nothing(), [{"org": org, "kind": kind} for kind in kinds]
    )
    locked = await connection.execute(
        select(_HEAD.c.kind, _HEAD.c.taken_at, _HEAD.c.read_started_at)
        .where(_HEAD.c.org == org, _HEAD.c.kind.in_(kinds))
        .order_by(_HEAD.c.kind)
        .with_for_update()
    )
    return {row.kind: (row.taken_at, row.read_started_at) for row in locked}


def _current(table: Table, org: str, kind: str) -> ColumnElement[bool]:
    return and_(table.c.org == org, table.c.kind == kind, table.c.valid_to.is_(None))


def held_at(table: Table, at: datetime) -> ColumnElement[bool]:
    """The condition that a version held at a time."""
    return and_(table.c.valid_from <= at, or_(table.c.valid_to.is_(None), table.c.valid_to > at))


async def read_snapshot(
    db: Database, org: str, kind: str, at: datetime | None = None, *, nested: bool = True, raw: bool = False
) -> SnapshotView:
    """One kind of an org's CRM, as it is known now or as it was known at a time (S3).

    Args:
        db: the store.
        org: the product's tenant.
        kind: a kind's name, or the product's word for it (`funnels`).
        at: the time to look at; now by default.
        nested: show statuses inside pipelines and enums inside fields.
        raw: add Kommo's own JSON of each item under `raw`.

    Returns:
        The items, sorted by `sort` and id.

    Raises:
        UnknownKindError: there is no such kind.
        NoSnapshotError: nothing had been saved by then.
    """
    found = find_kind(kind)
    children = found.children if nested else ()
    async with db.read() as connection:
        query = (
            select(_SNAPSHOT.c.taken_at, _SNAPSHOT.c.run_id)
            .where(
                _SNAPSHOT.c.org == org,
                _SNAPSHOT.c.kind == found.name,
                _SNAPSHOT.c.state == SnapshotState.SAVED,
            )
            .order_by(_SNAPSHOT.c.taken_at.desc())
            .limit(1)
        )
        if at is not None:
            query = query.where(_SNAPSHOT.c.taken_at <= as_utc(at))
        head = (await connection.execute(query)).first()
        if head is None:
            raise NoSnapshotError(
                f"No {found.name} of this org have been saved{' by that time' if at else ' yet'}. "
                f"Run a sync of this org that reads {found.name}; if one ran, its record says why it failed."
            )
        items = await _read_items(connection, found, org, at, raw=raw)
        for child in children:
            _nest(found, items, child, await _read_items(connection, child, org, at, raw=raw))
    return SnapshotView(org, found.name, head.taken_at, head.run_id, items)


async def _read_items(
    connection: AsyncConnection, kind: Kind, org: str, at: datetime | None, *, raw: bool
) -> list[dict[str, Any]]:
    table = kind.table
    shown: list[ColumnElement[Any]] = [table.c[column].label(name) for column, name in kind.columns.items()]
    if raw:
        shown.append(table.c.raw)
    query = select(*shown).where(table.c.org == org, table.c.kind == kind.name)
    query = query.where(table.c.valid_to.is_(None) if at is None else held_at(table, as_utc(at)))
    items = [dict(row) for row in (await connection.execute(query)).mappings()]
    # Here and not in SQL: the databases disagree about NULLs and about the order of text.
    items.sort(key=lambda item: (item.get("sort") is None, item.get("sort") or 0, item["id"]))
    return items


def _nest(parent: Kind, items: list[dict[str, Any]], child: Kind, children: list[dict[str, Any]]) -> None:
    """Put children into their parents; both are sorted already."""
    by_parent: dict[Any, list[dict[str, Any]]] = {}
    for row in children:
        by_parent.setdefault(row[parent.id_column], []).append(row)
    for item in items:
        item[str(child.shown_as)] = by_parent.get(item["id"], [])
