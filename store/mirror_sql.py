"""The statements of the mirror, the same on both databases and quick on each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
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
)
from sqlalchemy import text as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import insert_on
from store.mirror_facts import RecordState
from store.mirror_rows import COLUMNS
from store.rows import Types, given_rows, sqlite_rows
from store.tables import RecordRow, table_of
from store.types import CleanText, UTCDateTime

TABLE = table_of(RecordRow)


@dataclass(frozen=True, slots=True)
class Place:
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
ONE_OF = {"record_id": BigInteger}


def these(org: str, entity: str) -> ColumnElement[bool]:
    """All records of one kind."""
    return and_(TABLE.c.org == org, TABLE.c.entity == entity)


def by_key(
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
        given = given_rows(connection, ONE_OF, [(one,) for one in ids])
        return select(*columns).where(these(*place), TABLE.c.record_id.in_(select(given.c.record_id)))
    given = func.unnest(literal(sorted(ids), ARRAY(BigInteger))).table_valued(column("id", BigInteger))
    each = given.render_derived("given")
    found = select(*columns).where(these(*place), TABLE.c.record_id == each.c.id).limit(1)
    there = (found.with_for_update() if lock else found).lateral("found")
    return select(*there.c).select_from(each).join(there, true())


def among(connection: AsyncConnection, place: tuple[str, str], ids: Sequence[int]) -> ColumnElement[bool]:
    """A condition for a change of records that are there, and locked."""
    if connection.dialect.name != "postgresql":
        given = given_rows(connection, ONE_OF, [(one,) for one in ids])
        return and_(these(*place), TABLE.c.record_id.in_(select(given.c.record_id)))
    # Where they lie: nobody can move them while they are locked.
    lies: ColumnElement[Any] = literal_column(f"{TABLE.name}.ctid")
    return lies == any_(func.array(by_key(connection, place, ids, [lies.label("lies")]).scalar_subquery()))


async def insert_unknown(
    connection: AsyncConnection, place: Place, rows: Sequence[tuple[Any, ...]]
) -> set[int]:
    """Insert what was not there a moment ago.

    Returns:
        Whose rows were made; the others somebody else has made meanwhile.
    """
    if connection.dialect.name != "postgresql":
        # Nobody else writes meanwhile: what was unknown is.
        await _put_each(connection, place, rows)
        return {row[0] for row in rows}
    statement = (
        _insert_given(connection, place, rows)
        .on_conflict_do_nothing(index_elements=["org", "entity", "record_id"])
        .returning(TABLE.c.record_id)
    )
    return set((await connection.execute(statement)).scalars())


def _insert_given(
    connection: AsyncConnection, place: Place, rows: Sequence[tuple[Any, ...]]
) -> postgresql.Insert | sqlite.Insert:
    given = given_rows(connection, COLUMNS, rows)
    values = {
        "org": literal(place.org, CleanText()),
        "entity": literal(place.entity, CleanText()),
        "state": literal(RecordState.PRESENT, CleanText()),
        "state_since": literal(place.now, UTCDateTime()),
        "source": literal(place.source, CleanText()),
    }
    return insert_on(connection, TABLE).from_select(
        [*COLUMNS, *values],
        # Without a condition SQLite would take ON CONFLICT for the condition of a join.
        select(*(given.c[name] for name in COLUMNS), *values.values()).where(sql("true")),
        include_defaults=False,
    )


async def replace_rows(connection: AsyncConnection, place: Place, rows: Sequence[tuple[Any, ...]]) -> None:
    """Put these rows, in the order of `COLUMNS`, in the place of the locked ones."""
    # They are all there and locked. An insertion that conflicts finds each by the primary key on either database; of an
    # update from the given rows SQLite believes that it is cheaper to go through all records for each of them.
    if connection.dialect.name != "postgresql":
        await _put_each(connection, place, rows)
        return
    await connection.execute(_or_replace(_insert_given(connection, place, rows)))


def _or_replace(insert: Any) -> Any:  # noqa: ANN401 - either dialect's
    new = insert.excluded
    present: ColumnElement[str] = literal_column(f"'{RecordState.PRESENT.value}'")
    since = case((TABLE.c.state == present, TABLE.c.state_since), else_=new.state_since)
    changed = {name: new[name] for name in (*COLUMNS, "state", "source") if name != "record_id"}
    return insert.on_conflict_do_update(
        index_elements=["org", "entity", "record_id"], set_={**changed, "state_since": since}
    )


@cache
def _put_on_sqlite() -> tuple[str, tuple[str, ...]]:
    """The statement that puts one row in its place, and the order of what it is given."""
    names = (*COLUMNS, *_CONSTANTS)
    statement = _or_replace(sqlite.insert(TABLE).values({name: bindparam(name) for name in names}))
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    return compiled.string, tuple(compiled.positiontup)


async def _put_each(connection: AsyncConnection, place: Place, rows: Sequence[tuple[Any, ...]]) -> None:
    text, order = _put_on_sqlite()
    constants = (place.org, place.entity, RecordState.PRESENT, place.now, place.source)
    names = [*COLUMNS, *_CONSTANTS]
    pick = itemgetter(*(names.index(name) for name in order))
    same = sqlite_rows(_CONSTANTS, [constants])[0]
    given = [pick([*row, *same]) for row in sqlite_rows(COLUMNS, rows)]
    await connection.exec_driver_sql(text, given)
