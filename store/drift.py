"""Drift: what changed in a customer's CRM between two runs, and what that breaks.

This is the promise S3 of design.md §3. Only what differs is read: versions that ended, or began, between the two
times. A change is told per item; Markdown for people is made from the same data.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, func, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from store.changes import Change, Drift
from store.database import Database
from store.digest import without_links
from store.errors import NothingToCompareError, UnknownRunError
from store.kinds import KINDS, Kind
from store.report import drift_markdown
from store.runs import RunState, SnapshotState
from store.severity import (
    ChangeKind,
    Severity,
    Verdict,
    judge_added,
    judge_changed,
    judge_moved,
    judge_removed,
    severity_rank,
)
from store.snapshots import held_at
from store.tables import Snapshot, SyncRun, table_of

__all__ = ["Change", "ChangeKind", "Drift", "Severity", "changes_of_run", "diff", "drift_markdown"]

_RUN = table_of(SyncRun)
_SNAPSHOT = table_of(Snapshot)
_OLDER = _SNAPSHOT.alias("older")
# 142 and 143 exist in every pipeline [D]: one gone here and one new there are not one that moved.
_EVERYWHERE = frozenset((142, 143))


@dataclass(frozen=True)
class _Run:
    """A run and when it saw each kind."""

    run_id: str
    org: str
    seen: Mapping[str, datetime]
    otherwise: datetime

    def time_of(self, kind: str) -> datetime:
        return self.seen.get(kind, self.otherwise)


@dataclass(frozen=True)
class _Pair:
    """The two times of one kind."""

    kind: Kind
    before: datetime
    after: datetime


async def diff(db: Database, org: str, from_run: str | None = None, to_run: str | None = None) -> Drift:
    """What differs between what two runs saw.

    A kind that one of them did not save is compared as it was known at that run's time.

    Args:
        db: the store.
        org: the product's tenant.
        from_run: the earlier run; by default the one before `to_run` that saved something.
        to_run: the later run; by default the newest finished one that saved something.

    Raises:
        NothingToCompareError: there are not two such runs.
        UnknownRunError: a run does not exist or is another org's.
    """
    async with db.read() as connection:
        if to_run is None:
            to_run = await _newest(connection, org, but=from_run)
        if from_run is None:
            from_run = await _newest(connection, org, before=to_run)
        earlier, later = await _run(connection, org, from_run), await _run(connection, org, to_run)
        first = await _first_times(connection, org)
        pairs, skipped = [], []
        for kind in KINDS.values():
            pair = _Pair(kind, earlier.time_of(kind.name), later.time_of(kind.name))
            known_since = first.get(kind.name)
            if known_since is not None and known_since <= min(pair.before, pair.after):
                pairs.append(pair)
            elif known_since is not None and known_since <= max(pair.before, pair.after):
                skipped.append(kind.name)
        changes = await _changes(connection, org, pairs)
    return Drift(org, from_run, to_run, changes, tuple(skipped))


async def changes_of_run(db: Database, run_id: str) -> Drift:
    """What a run changed: each kind that it saved against the snapshot before.

    Raises:
        UnknownRunError: there is no such run.
    """
    async with db.read() as connection:
        run = await _run(connection, None, run_id)
        previous = select(
            _SNAPSHOT.c.kind,
            select(func.max(_OLDER.c.taken_at))
            .where(
                _OLDER.c.org == run.org,
                _OLDER.c.kind == _SNAPSHOT.c.kind,
                _OLDER.c.state == SnapshotState.SAVED,
                _OLDER.c.taken_at < _SNAPSHOT.c.taken_at,
                _OLDER.c.run_id != run_id,
            )
            .scalar_subquery()
            .label("before"),
        ).where(_SNAPSHOT.c.run_id == run_id, _SNAPSHOT.c.state == SnapshotState.SAVED)
        found = {row.kind: row.before for row in await connection.execute(previous)}
        pairs = [_Pair(KINDS[kind], before, run.seen[kind]) for kind, before in found.items() if before]
        changes = await _changes(connection, run.org, pairs)
    return Drift(run.org, None, run_id, changes, tuple(sorted(kind for kind in found if found[kind] is None)))


async def _newest(
    connection: AsyncConnection, org: str, *, but: str | None = None, before: str | None = None
) -> str:
    """The newest finished run that saved something: other than `but`, begun before `before`."""
    saved = exists().where(_SNAPSHOT.c.run_id == _RUN.c.run_id, _SNAPSHOT.c.state == SnapshotState.SAVED)
    query = (
        select(_RUN.c.run_id)
        .where(_RUN.c.org == org, _RUN.c.state.in_((RunState.COMPLETED, RunState.FAILED)), saved)
        .order_by(_RUN.c.started_at.desc(), _RUN.c.run_id.desc())
        .limit(1)
    )
    if but is not None:
        query = query.where(_RUN.c.run_id != but)
    if before is not None:
        mark = select(_RUN.c.started_at).where(_RUN.c.run_id == before).scalar_subquery()
        query = query.where(_RUN.c.run_id != before, _RUN.c.started_at <= mark)
    run_id = (await connection.execute(query)).scalar()
    if run_id is None:
        raise NothingToCompareError(
            "There are not two finished runs of this org that saved something. Run a sync; drift is seen from the "
            "second one on."
        )
    return str(run_id)


async def _run(connection: AsyncConnection, org: str | None, run_id: str) -> _Run:
    run = (await connection.execute(select(_RUN).where(_RUN.c.run_id == run_id))).mappings().first()
    if run is None or (org is not None and run["org"] != org):
        raise UnknownRunError(
            f"There is no run {run_id[:50]!r} of this org. List the runs to find the right id."
        )
    saved = await connection.execute(
        select(_SNAPSHOT.c.kind, _SNAPSHOT.c.taken_at).where(
            _SNAPSHOT.c.run_id == run_id, _SNAPSHOT.c.state == SnapshotState.SAVED
        )
    )
    seen = {row.kind: row.taken_at for row in saved}
    return _Run(run_id, run["org"], seen, max(seen.values(), default=run["finished_at"] or run["started_at"]))


async def _first_times(connection: AsyncConnection, org: str) -> dict[str, datetime]:
    """When each kind was saved first: one statement, an index look-up per kind."""
    firsts = [
        select(func.min(_SNAPSHOT.c.taken_at))
        .where(_SNAPSHOT.c.org == org, _SNAPSHOT.c.kind == kind, _SNAPSHOT.c.state == SnapshotState.SAVED)
        .scalar_subquery()
        .label(kind)
        for kind in KINDS
    ]
    row = (await connection.execute(select(*firsts))).mappings().one()
    return {kind: moment for kind, moment in row.items() if moment is not None}


async def _changes(connection: AsyncConnection, org: str, pairs: Sequence[_Pair]) -> list[Change]:
    changes: list[Change] = []
    for pair in pairs:
        changes += await _changes_of_kind(connection, org, pair)
    order = {kind: place for place, kind in enumerate(KINDS)}
    changes.sort(key=lambda change: (severity_rank(change.severity), order[change.kind], change.key))
    return changes


@dataclass
class _Sides:
    """Key → values (by the names of answers) and raw JSON, of what held at one of the times only."""

    before: dict[str, tuple[dict[str, Any], Any]] = field(default_factory=dict)
    after: dict[str, tuple[dict[str, Any], Any]] = field(default_factory=dict)


async def _read_sides(connection: AsyncConnection, org: str, pair: _Pair) -> _Sides:
    table, kind = pair.kind.table, pair.kind
    early, late = sorted((pair.before, pair.after))
    own = [table.c[column].label(name) for column, name in kind.columns.items()]
    base = [table.c.key.label("item_key"), table.c.digest, table.c.raw, *own]
    mine = and_(table.c.org == org, table.c.kind == kind.name)
    ended = and_(mine, table.c.valid_from <= early, table.c.valid_to > early, table.c.valid_to <= late)
    began = and_(
        mine,
        table.c.valid_from > early,
        table.c.valid_from <= late,
        or_(table.c.valid_to.is_(None), table.c.valid_to > late),
    )
    query = union_all(
        select(literal("early").label("side"), *base).where(ended),
        select(literal("late").label("side"), *base).where(began),
    )
    sides, digests = _Sides(), dict[str, set[str]]()
    for row in (await connection.execute(query)).mappings():
        digests.setdefault(row["item_key"], set()).add(row["digest"])
        is_before = (row["side"] == "early") == (pair.before <= pair.after)
        values = {name: row[name] for name in kind.columns.values()}
        (sides.before if is_before else sides.after)[row["item_key"]] = (values, row["raw"])
    for key in sides.before.keys() & sides.after.keys():
        if len(digests[key]) == 1:
            # It changed and changed back in between: a new version, but no difference.
            del sides.before[key], sides.after[key]
    return sides


async def _changes_of_kind(connection: AsyncConnection, org: str, pair: _Pair) -> list[Change]:
    kind = pair.kind
    sides = await _read_sides(connection, org, pair)
    if not sides.before and not sides.after:
        return []
    parents = await _parent_names(connection, org, pair)
    moved = _moved(kind, sides)
    changes: list[Change] = []

    def add(key: str, verdict: Verdict, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        whole = (sides.after.get(key) or sides.before[key])[0]
        name = whole[_name_key(kind)]
        parent = parents.get(whole[KINDS[kind.parent].id_column]) if kind.parent else None
        changes.append(
            Change(kind.name, key, name, parent, verdict.change, before, after, verdict.severity, verdict.why)
        )

    for old, new in moved.items():
        before, after = _differences(sides.before[old], sides.after[new])
        add(new, judge_moved(kind), before, after)
    for key, old_values in sides.before.items():
        if key in sides.after:
            before, after = _differences(old_values, sides.after[key])
            add(key, judge_changed(kind, before, after), before, after)
        elif key not in moved:
            add(key, judge_removed(kind), old_values[0], None)
    arrived = set(moved.values())
    for key, new_values in sides.after.items():
        if key not in sides.before and key not in arrived:
            add(key, judge_added(kind), None, new_values[0])
    return changes


def _name_key(kind: Kind) -> str:
    return kind.columns.get(kind.name_column, kind.name_column)


def _moved(kind: Kind, sides: _Sides) -> dict[str, str]:
    """Old key → new key of the children that went from one parent to another: gone once, new once."""
    if kind.parent is None:
        return {}
    gone, arrived = defaultdict[int, list[str]](list), defaultdict[int, list[str]](list)
    for keys, here, there in ((gone, sides.before, sides.after), (arrived, sides.after, sides.before)):
        for key, (values, _) in here.items():
            if key not in there and values["id"] not in _EVERYWHERE:
                keys[values["id"]].append(key)
    return {
        old[0]: arrived[own][0] for own, old in gone.items() if len(old) == len(arrived.get(own, ())) == 1
    }


def _differences(
    before: tuple[dict[str, Any], Any], after: tuple[dict[str, Any], Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that differ; where a key of the raw JSON differs that has no column, that one, too."""
    old, new = before[0], after[0]
    keys = [key for key in new if old[key] != new[key]]
    old_raw, new_raw = (_plain(without_links(raw)) for raw in (before[1], after[1]))
    raw_keys = [
        key for key in sorted({*old_raw, *new_raw}) if key not in new and old_raw.get(key) != new_raw.get(key)
    ]
    return (
        {**{key: old[key] for key in keys}, **{key: old_raw.get(key) for key in raw_keys}},
        {**{key: new[key] for key in keys}, **{key: new_raw.get(key) for key in raw_keys}},
    )


def _plain(raw: object) -> dict[str, Any]:
    return raw if isinstance(raw, dict) else {}


async def _parent_names(connection: AsyncConnection, org: str, pair: _Pair) -> dict[Any, str | None]:
    """Id → name of a child kind's parents; the later name where both times know one."""
    if pair.kind.parent is None:
        return {}
    parent = KINDS[pair.kind.parent]
    table, id_column = parent.table, parent.table.c[parent.id_column]
    names: dict[Any, str | None] = {}
    for moment in (pair.before, pair.after):
        query = select(id_column, table.c[parent.name_column]).where(
            table.c.org == org, table.c.kind == parent.name, held_at(table, moment)
        )
        names |= {row[0]: row[1] for row in await connection.execute(query)}
    return names
