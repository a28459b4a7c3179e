"""Runs: the record that something read (or tried to read) an account, and what came of it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import RowMapping, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.connection_records import require_connected, unknown_connection
from store.database import Database
from store.errors import UnknownRunError
from store.kinds import find_kind
from store.outbox import OutboxEvent, add_events
from store.tables import Connection, Snapshot, SyncRun, table_of
from store.types import clean_text

_RUN = table_of(SyncRun)
_SNAPSHOT = table_of(Snapshot)
_CONNECTION = table_of(Connection)

# A run that has not finished after this time was killed. A set-up is read in a minute and a large account in
# well under an hour at 7 requests a second, so six hours cannot hit a run that is still alive; a shorter time
# might, and two runs of one org at the same time are allowed (S1 holds between them).
ABANDONED_AFTER = timedelta(hours=6)


class RunState(StrEnum):
    """How a run stands. `abandoned`: it never reported its end (killed process, lost machine)."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ABANDONED = "abandoned"


class SnapshotState(StrEnum):
    """What came of one kind in one run. `superseded`: a read that began later had already been saved."""

    SAVED = "saved"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class SnapshotRecord:
    """What one run saved of one kind. `taken_at` is the time that as-of reads know; counts are of items."""

    kind: str
    state: str
    taken_at: datetime
    read_started_at: datetime | None
    items: int
    added: int
    changed: int
    removed: int
    reason: str | None


@dataclass(frozen=True)
class RunRecord:
    """One run and its snapshots, in the order of their kinds' names."""

    run_id: str
    org: str
    scope: str
    flow_run_id: str | None
    state: str
    started_at: datetime
    finished_at: datetime | None
    requests: int
    reason: str | None
    snapshots: tuple[SnapshotRecord, ...] = ()


async def begin_run(
    db: Database,
    org: str,
    scope: str,
    flow_run_id: str | None = None,
    *,
    now: datetime,
    run_id: str | None = None,
    connected: bool = False,
) -> str:
    """Record that a run has begun; runs of the same org that died long ago become `abandoned`.

    Args:
        db: the store.
        org: the product's tenant.
        scope: what is to be read, in the product's words (`funnels`, `channels`, `fields`, `all`).
        flow_run_id: Prefect's id of the flow run, to find its logs.
        now: the present time.
        run_id: the id to give; a new UUID by default.
        connected: only if the org is still connected.

    Returns:
        The run's id.

    Raises:
        UnknownConnectionError: it was to be connected, and is not any more.
    """
    run_id = run_id or str(uuid.uuid4())
    async with db.begin() as connection:
        await connection.execute(
            update(_RUN)
            .where(
                _RUN.c.org == org,
                _RUN.c.started_at < now - ABANDONED_AFTER,
                _RUN.c.state == RunState.RUNNING,
            )
            .values(
                state=RunState.ABANDONED,
                finished_at=now,
                reason="The run never reported its end; its process was probably killed. "
                "What it had saved is whole and was kept.",
            )
        )
        await connection.execute(
            _RUN.insert().values(
                run_id=run_id,
                org=org,
                scope=scope,
                flow_run_id=flow_run_id,
                state=RunState.RUNNING,
                started_at=now,
                requests=0,
            )
        )
        if connected:
            await require_connected(connection, org)
    return run_id


async def finish_run(
    db: Database,
    run_id: str,
    state: RunState | str,
    requests: int = 0,
    reason: str | None = None,
    *,
    events: Sequence[OutboxEvent] = (),
    now: datetime,
) -> None:
    """Record a run's end. A run that was given up as abandoned but does come back is believed.

    Args:
        db: the store.
        run_id: from `begin_run`.
        state: `completed` or `failed`.
        requests: how many requests it sent to Kommo.
        reason: why it failed, a sentence without secrets.
        events: what to tell the product, in the same transaction.
        now: the present time.

    Raises:
        UnknownRunError: there is no such run.
    """
    values = {"state": RunState(state), "finished_at": now, "requests": requests, "reason": reason}
    async with db.begin() as connection:
        found = await connection.execute(update(_RUN).where(_RUN.c.run_id == run_id).values(values))
        if found.rowcount == 0:
            raise _unknown(run_id)
        await add_events(connection, events, now)


async def fail_snapshot(
    db: Database, run_id: str, org: str, kinds: Sequence[str], reason: str, *, now: datetime
) -> None:
    """Record that a run could not read these kinds; what was saved before stays the truth.

    Args:
        db: the store.
        run_id: from `begin_run`.
        org: the product's tenant.
        kinds: what was to be read together.
        reason: a sentence without secrets.
        now: the present time.

    Raises:
        UnknownRunError: there is no such run of this org.
        UnknownKindError: a kind does not exist.
    """
    rows = [
        {
            "run_id": run_id,
            "kind": find_kind(kind).name,
            "org": org,
            "state": SnapshotState.FAILED,
            "taken_at": now,
            "read_started_at": None,
            **dict.fromkeys(("items", "added", "changed", "removed"), 0),
            "reason": reason,
        }
        for kind in kinds
    ]
    async with db.begin() as connection:
        await require_run(connection, run_id, org)
        await record_snapshots(db, connection, rows)


async def record_snapshots(db: Database, connection: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    """Write what came of kinds in a run. A saved snapshot is never overwritten by a later failure.

    When an attempt is repeated (its first answer was lost), the counts of both add up to what the run
    changed.
    """
    if not rows:
        return
    statement = db.insert(_SNAPSHOT)
    new, old = statement.excluded, _SNAPSHOT.c
    counts = {
        name: new[name] + case((old.state == SnapshotState.SAVED, old[name]), else_=0)
        for name in ("added", "changed", "removed")
    }
    plain = {name: new[name] for name in ("state", "taken_at", "read_started_at", "items", "reason")}
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["run_id", "kind"],
            set_={**plain, **counts},
            where=(old.state != SnapshotState.SAVED) | (new.state == SnapshotState.SAVED),
        ),
        rows,
    )


async def require_run(connection: AsyncConnection, run_id: str, org: str) -> None:
    """Make sure that the run exists and is this org's: rows of one tenant never carry another one's run.

    Raises:
        UnknownRunError: it does not, or is not.
    """
    found = await connection.execute(select(_RUN.c.org).where(_RUN.c.run_id == run_id))
    if found.scalar() != clean_text(org):
        raise _unknown(run_id)


def _unknown(run_id: str) -> UnknownRunError:
    return UnknownRunError(
        f"There is no run {run_id[:50]!r} of this org. The calling code must use the id from begin_run."
    )


async def list_runs(db: Database, org: str, limit: int = 20) -> list[RunRecord]:
    """The org's runs with what they saved, newest first.

    Args:
        db: the store.
        org: the product's tenant.
        limit: at most so many.
    """
    query = (
        select(_RUN).where(_RUN.c.org == org).order_by(_RUN.c.started_at.desc(), _RUN.c.run_id).limit(limit)
    )
    async with db.read() as connection:
        runs = (await connection.execute(query)).mappings().all()
        return await _with_snapshots(connection, runs)


async def latest_run(db: Database, org: str) -> RunRecord | None:
    """The org's newest run, None when there has been none."""
    runs = await list_runs(db, org, 1)
    return runs[0] if runs else None


async def find_run(db: Database, org: str, run_id: str, *, since: datetime | None = None) -> RunRecord | None:
    """A run by its own id or by that of its flow run; of a flow run that was tried again, the newest.

    Args:
        db: the store.
        org: the product's tenant.
        run_id: either id.
        since: only if it began then or later, which spares whoever asks again and again the older ones.
    """
    query = (
        select(_RUN)
        .where(_RUN.c.org == org, or_(_RUN.c.flow_run_id == run_id, _RUN.c.run_id == run_id))
        .order_by(_RUN.c.started_at.desc())
        .limit(1)
    )
    if since is not None:
        query = query.where(_RUN.c.started_at >= since)
    async with db.read() as connection:
        found = await _with_snapshots(connection, (await connection.execute(query)).mappings().all())
    return found[0] if found else None


async def latest_runs(db: Database, orgs: Sequence[str]) -> dict[str, RunRecord]:
    """The newest run of each of these orgs that has one: for a page of connections, in two statements."""
    newest = (
        select(_RUN.c.org, func.max(_RUN.c.started_at).label("started_at"))
        .where(_RUN.c.org.in_(orgs))
        .group_by(_RUN.c.org)
        .subquery()
    )
    query = (
        select(_RUN)
        .join(newest, (_RUN.c.org == newest.c.org) & (_RUN.c.started_at == newest.c.started_at))
        .order_by(_RUN.c.run_id.desc())
    )
    async with db.read() as connection:
        runs = (await connection.execute(query)).mappings().all()
        return {run.org: run for run in await _with_snapshots(connection, runs)}


async def _with_snapshots(connection: AsyncConnection, runs: Sequence[RowMapping]) -> list[RunRecord]:
    query = (
        select(_SNAPSHOT)
        .where(_SNAPSHOT.c.run_id.in_([run["run_id"] for run in runs]))
        .order_by(_SNAPSHOT.c.kind)
    )
    saved: dict[str, list[SnapshotRecord]] = {}
    for row in (await connection.execute(query)).mappings():
        saved.setdefault(row["run_id"], []).append(_snapshot_record(row))
    return [RunRecord(**run, snapshots=tuple(saved.get(run["run_id"], ()))) for run in runs]


def _snapshot_record(row: RowMapping) -> SnapshotRecord:
    return SnapshotRecord(**{name: value for name, value in row.items() if name not in {"run_id", "org"}})


async def note_sync(db: Database, org: str, run_id: str, *, breaking: bool = False, now: datetime) -> None:
    """Remember the newest run that completed.

    Args:
        db: the store.
        org: the product's tenant.
        run_id: from `begin_run`.
        breaking: it found a change that breaks somebody; such an org goes first when a fleet is synced.
        now: the present time.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    async with db.begin() as connection:
        found = await connection.execute(
            update(_CONNECTION)
            .where(_CONNECTION.c.org == org)
            .values(
                last_sync_run_id=run_id,
                last_synced_at=now,
                updated_at=now,
                **({"drifted_at": now} if breaking else {}),
            )
        )
        if found.rowcount == 0:
            raise unknown_connection(org)
