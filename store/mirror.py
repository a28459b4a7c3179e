"""The mirror of all kinds of records: each as last read, whoever read it (W2, W5).

The newest `updated_at` wins, and of two with the same what was asked for later: Kommo counts seconds, and a slow
answer may be overtaken. A record that is gone leaves a tombstone, so that an old answer does not bring it back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    any_,
    bindparam,
    case,
    column,
    func,
    literal,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database, insert_on
from store.mirror_rows import COLUMNS, NewRecord, digest_of_record, values_of
from store.rows import Types, given_rows, sqlite_rows
from store.tables import RecordRow, table_of
from store.types import CleanText, PlainJSON, UTCDateTime

__all__ = [
    "Change",
    "ChangeKind",
    "Facts",
    "NewRecord",
    "RecordState",
    "StoredRecord",
    "get_record",
    "mark_gone",
    "record_states",
    "save_records",
    "some_record",
]

_TABLE = table_of(RecordRow)


class RecordState(StrEnum):
    """`deleted`: Kommo has said so. `missing`: the API does not give it any more, and nobody knows why."""

    PRESENT = "present"
    DELETED = "deleted"
    MISSING = "missing"


class ChangeKind(StrEnum):
    """What saving a record came to; `older`: the mirror had something newer, and nothing was written."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    RESTORED = "restored"
    OLDER = "older"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of a record beside its JSON. Times are aware and UTC."""

    state: str
    name: str | None
    responsible_user_id: int | None
    status_id: int | None
    pipeline_id: int | None
    created_at: datetime | None
    updated_at: datetime | None
    state_since: datetime
    read_at: datetime
    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class Change:
    """What saving a record came to: before (None if it was unknown) and after."""

    kind: ChangeKind
    before: Facts | None
    after: Facts


@dataclass(frozen=True, slots=True)
class StoredRecord(Facts):
    """A record of the mirror."""

    org: str
    entity: str
    record_id: int
    raw: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose records, of which kind, and who writes them when."""

    org: str
    entity: str
    source: str
    now: datetime


_CONSTANTS: Types = {
    "org": CleanText,
    "entity": CleanText,
    "state": CleanText,
    "state_since": UTCDateTime,
    "source": CleanText,
}
"""What all rows of one writing have in common."""
_FACTS = tuple(Facts.__dataclass_fields__)
_ONE_OF = {"record_id": BigInteger}


async def save_records(
    connection: AsyncConnection,
    org: str,
    entity: str,
    records: Sequence[NewRecord],
    source: str,
    *,
    now: datetime,
) -> dict[int, Change]:
    """Write records as they were read, inside another transaction.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        records: as the API gave them; of two with one id the newer one counts.
        source: what made us ask: `webhook`, `reconcile` or `sync`.
        now: the present time.

    Returns:
        What it came to, for each id.
    """
    newest: dict[int, NewRecord] = {}
    for record in records:
        known = newest.get(record.record_id)
        if known is None or _is_newer(record, known.updated_at, known.read_at):
            newest[record.record_id] = record
    if not newest:
        return {}
    place = _Place(org, entity, source, now)
    # In the order of their ids, as everybody locks them.
    wanted = [(newest[record_id], digest_of_record(newest[record_id])) for record_id in sorted(newest)]
    there = await _known(connection, org, entity, list(newest))
    unknown = [one for one in wanted if one[0].record_id not in there]
    made: set[int] = set()
    if unknown:
        made = await _insert_unknown(connection, place, [values_of(*one) for one in unknown])
    changes = {
        one.record_id: Change(ChangeKind.CREATED, None, _after(one, digest, place, now))
        for one, digest in unknown
        if one.record_id in made
    }
    others = [one for one in wanted if one[0].record_id not in made]
    if others:
        before = await _lock(connection, org, entity, [one.record_id for one, _ in others])
        for one, digest in others:
            changes[one.record_id] = _judge(one, digest, before[one.record_id], place)
        await _write(connection, place, others, changes)
    return changes


async def _write(
    connection: AsyncConnection,
    place: _Place,
    given: Sequence[tuple[NewRecord, str]],
    changes: Mapping[int, Change],
) -> None:
    """Also what did not change: an answer that was asked for before this one must not win over it."""
    better: list[tuple[NewRecord, str]] = []
    same: dict[datetime, list[int]] = {}
    for one, digest in given:
        change = changes[one.record_id]
        if change.kind is ChangeKind.OLDER:
            continue
        if (
            change.kind is ChangeKind.UNCHANGED
            and change.before
            and change.before.updated_at == one.updated_at
        ):
            same.setdefault(one.read_at, []).append(one.record_id)
        else:
            better.append((one, digest))
    if better:
        await _replace(connection, place, [values_of(*one) for one in better])
    for read_at, ids in same.items():
        await connection.execute(
            update(_TABLE)
            .where(_among(connection, (place.org, place.entity), ids))
            .values(read_at=read_at, source=place.source)
        )


def _by_key(
    connection: AsyncConnection,
    place: tuple[str, str],
    ids: Sequence[int],
    columns: Sequence[ColumnElement[Any]],
    *,
    lock: bool = False,
) -> Select[Any]:
    """Some columns of those of these records that there are, each found by the primary key.

    Of a kind that it has not counted lately PostgreSQL believes that there is one record, and would go through all of
    them to find these: so it is given one id after the other. They are locked in the order of the ids, as by everybody.
    """
    if connection.dialect.name != "postgresql":
        given = given_rows(connection, _ONE_OF, [(one,) for one in ids])
        return select(*columns).where(_these(*place), _TABLE.c.record_id.in_(select(given.c.record_id)))
    given = func.unnest(literal(sorted(ids), ARRAY(BigInteger))).table_valued(column("id", BigInteger))
    each = given.render_derived("given")
    found = select(*columns).where(_these(*place), _TABLE.c.record_id == each.c.id).limit(1)
    there = (found.with_for_update() if lock else found).lateral("found")
    return select(*there.c).select_from(each).join(there, true())


def _among(connection: AsyncConnection, place: tuple[str, str], ids: Sequence[int]) -> ColumnElement[bool]:
    """A condition for a change of records that are there, and locked."""
    if connection.dialect.name != "postgresql":
        given = given_rows(connection, _ONE_OF, [(one,) for one in ids])
        return and_(_these(*place), _TABLE.c.record_id.in_(select(given.c.record_id)))
    # Where they lie: nobody can move them while they are locked.
    lies: ColumnElement[Any] = literal_column(f"{_TABLE.name}.ctid")
    return lies == any_(func.array(_by_key(connection, place, ids, [lies.label("lies")]).scalar_subquery()))


async def _known(connection: AsyncConnection, org: str, entity: str, ids: Sequence[int]) -> set[int]:
    query = _by_key(connection, (org, entity), ids, [_TABLE.c.record_id])
    return set((await connection.execute(query)).scalars())


async def mark_gone(
    connection: AsyncConnection,
    org: str,
    entity: str,
    ids: Sequence[int],
    state: RecordState | str,
    *,
    now: datetime,
    source: str = "webhook",
) -> dict[int, Facts | None]:
    """Note that records are gone, inside another transaction. An unknown one leaves a tombstone as well.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        ids: Kommo's ids.
        state: `deleted` or `missing`; a deleted one does not become a missing one.
        now: when it was found out; a record that was read later stays.
        source: what made us look.

    Returns:
        What changed, with what was known before (None: nothing).
    """
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    state = RecordState(state)
    given = given_rows(connection, _ONE_OF, [(one,) for one in wanted])
    values = {
        "org": literal(org, CleanText()),
        "entity": literal(entity, CleanText()),
        "raw": literal({}, PlainJSON()),
        "digest": literal("", CleanText()),
        "state": literal(state, CleanText()),
        "state_since": literal(now, UTCDateTime()),
        "read_at": literal(now, UTCDateTime()),
        "source": literal(source, CleanText()),
    }
    tombs = (
        insert_on(connection, _TABLE)
        .from_select(
            ["record_id", *values],
            select(given.c.record_id, *values.values()).where(sql("true")),
            include_defaults=False,
        )
        .on_conflict_do_nothing(index_elements=["org", "entity", "record_id"])
        .returning(_TABLE.c.record_id)
    )
    changed: dict[int, Facts | None] = dict.fromkeys((await connection.execute(tombs)).scalars())
    known = [one for one in wanted if one not in changed]
    before = await _lock(connection, org, entity, known) if known else {}
    leaves = (
        (RecordState.PRESENT, RecordState.MISSING) if state == RecordState.DELETED else (RecordState.PRESENT,)
    )
    going = {one: facts for one, facts in before.items() if facts.state in leaves and facts.read_at <= now}
    if going:
        await connection.execute(
            update(_TABLE)
            .where(_among(connection, (org, entity), list(going)))
            .values(state=state, state_since=now, read_at=now, source=source)
        )
    return changed | going


async def get_record(db: Database, org: str, entity: str, record_id: int) -> StoredRecord | None:
    """One record, also one that is gone."""
    query = select(*(_TABLE.c[name] for name in StoredRecord.__dataclass_fields__)).where(
        _these(org, entity), _TABLE.c.record_id == record_id
    )
    async with db.read() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None else StoredRecord(**row)


async def some_record(db: Database, org: str, entity: str, *, besides: Sequence[int]) -> int | None:
    """The newest record that is there and is none of these: something to compare with. None if there is none.

    Args:
        db: the store.
        org: the product's tenant.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        besides: ids that will not do.
    """
    async with db.read() as connection:
        others = given_rows(connection, _ONE_OF, [(one,) for one in set(besides)])
        query = (
            select(_TABLE.c.record_id)
            .where(
                _these(org, entity),
                _TABLE.c.state == RecordState.PRESENT,
                _TABLE.c.record_id.not_in(select(others.c.record_id)),
            )
            .order_by(_TABLE.c.record_id.desc())
            .limit(1)
        )
        return (await connection.execute(query)).scalar()


async def record_states(
    db: Database, org: str, entity: str, ids: Sequence[int] | None = None
) -> dict[int, Facts]:
    """What is known of these records (by default of all of this entity); one that is unknown is left out."""
    query = select(_TABLE.c.record_id, *(_TABLE.c[name] for name in _FACTS)).where(_these(org, entity))
    async with db.read() as connection:
        if ids is not None:
            columns = [_TABLE.c.record_id, *(_TABLE.c[name] for name in _FACTS)]
            query = _by_key(connection, (org, entity), sorted(set(ids)), columns)
        found = await connection.execute(query)
        return {row[0]: Facts(*row[1:]) for row in found}


async def _insert_unknown(
    connection: AsyncConnection, place: _Place, rows: Sequence[tuple[Any, ...]]
) -> set[int]:
    if connection.dialect.name != "postgresql":
        # Nobody else writes meanwhile: what was unknown is.
        await _put_each(connection, place, rows)
        return {row[0] for row in rows}
    statement = (
        _insert_given(connection, place, rows)
        .on_conflict_do_nothing(index_elements=["org", "entity", "record_id"])
        .returning(_TABLE.c.record_id)
    )
    return set((await connection.execute(statement)).scalars())


def _insert_given(
    connection: AsyncConnection, place: _Place, rows: Sequence[tuple[Any, ...]]
) -> postgresql.Insert | sqlite.Insert:
    given = given_rows(connection, COLUMNS, rows)
    values = {
        "org": literal(place.org, CleanText()),
        "entity": literal(place.entity, CleanText()),
        "state": literal(RecordState.PRESENT, CleanText()),
        "state_since": literal(place.now, UTCDateTime()),
        "source": literal(place.source, CleanText()),
    }
    return insert_on(connection, _TABLE).from_select(
        [*COLUMNS, *values],
        # Without a condition SQLite would take ON CONFLICT for the condition of a join.
        select(*(given.c[name] for name in COLUMNS), *values.values()).where(sql("true")),
        include_defaults=False,
    )


async def _lock(connection: AsyncConnection, org: str, entity: str, ids: Sequence[int]) -> dict[int, Facts]:
    columns = [_TABLE.c.record_id, *(_TABLE.c[name] for name in _FACTS)]
    locking = _by_key(connection, (org, entity), ids, columns, lock=True)
    return {row[0]: Facts(*row[1:]) for row in await connection.execute(locking)}


async def _replace(connection: AsyncConnection, place: _Place, rows: Sequence[tuple[Any, ...]]) -> None:
    # They are all there and locked. An insertion that conflicts finds each by the primary key on either database; of an
    # update from the given rows SQLite believes that it is cheaper to go through all records for each of them.
    if connection.dialect.name != "postgresql":
        await _put_each(connection, place, rows)
        return
    await connection.execute(_or_replace(_insert_given(connection, place, rows)))


def _or_replace(insert: Any) -> Any:  # noqa: ANN401 - either dialect's
    new = insert.excluded
    present: ColumnElement[str] = literal_column(f"'{RecordState.PRESENT.value}'")
    since = case((_TABLE.c.state == present, _TABLE.c.state_since), else_=new.state_since)
    changed = {name: new[name] for name in (*COLUMNS, "state", "source") if name != "record_id"}
    return insert.on_conflict_do_update(
        index_elements=["org", "entity", "record_id"], set_={**changed, "state_since": since}
    )


@cache
def _put_on_sqlite() -> tuple[str, tuple[str, ...]]:
    """The statement that puts one row in its place, and the order of what it is given."""
    names = (*COLUMNS, *_CONSTANTS)
    statement = _or_replace(sqlite.insert(_TABLE).values({name: bindparam(name) for name in names}))
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    return compiled.string, tuple(compiled.positiontup)


async def _put_each(connection: AsyncConnection, place: _Place, rows: Sequence[tuple[Any, ...]]) -> None:
    text, order = _put_on_sqlite()
    constants = (place.org, place.entity, RecordState.PRESENT, place.now, place.source)
    names = [*COLUMNS, *_CONSTANTS]
    pick = itemgetter(*(names.index(name) for name in order))
    same = sqlite_rows(_CONSTANTS, [constants])[0]
    given = [pick([*row, *same]) for row in sqlite_rows(COLUMNS, rows)]
    await connection.exec_driver_sql(text, given)


def _judge(one: NewRecord, digest: str, before: Facts, place: _Place) -> Change:
    if before.state != RecordState.PRESENT:
        # Neither deleting nor restoring need change `updated_at`: what was seen later is true.
        if one.read_at <= before.read_at:
            return Change(ChangeKind.OLDER, before, before)
        return Change(ChangeKind.RESTORED, before, _after(one, digest, place, place.now))
    if not _is_newer(one, before.updated_at, before.read_at):
        return Change(ChangeKind.OLDER, before, before)
    kind = ChangeKind.UNCHANGED if digest == before.digest else ChangeKind.UPDATED
    return Change(kind, before, _after(one, digest, place, before.state_since))


def _is_newer(one: NewRecord, updated_at: datetime | None, read_at: datetime) -> bool:
    if one.updated_at is None or updated_at is None or one.updated_at == updated_at:
        return one.read_at >= read_at
    return one.updated_at > updated_at


def _after(one: NewRecord, digest: str, place: _Place, since: datetime) -> Facts:
    return Facts(
        RecordState.PRESENT,
        one.name,
        one.responsible_user_id,
        one.status_id,
        one.pipeline_id,
        one.created_at,
        one.updated_at,
        since,
        one.read_at,
        place.source,
        digest,
    )


def _these(org: str, entity: str) -> ColumnElement[bool]:
    return and_(_TABLE.c.org == org, _TABLE.c.entity == entity)
