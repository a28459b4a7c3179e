"""How a kind stands: when it was last read, and since when it has been as it is. Two looks into indexes, no items.

By this somebody who has a kind already is told that nothing has changed, without its being read.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Table, func, select

from store.database import Database
from store.kinds import Kind, find_kind
from store.runs import SnapshotState
from store.tables import Snapshot, table_of
from store.types import as_utc

_SNAPSHOT = table_of(Snapshot)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one kind of an org stands at a time.

    Attributes:
        kind: the kind's own name.
        taken_at: when it was last read by then.
        run_id: the run that read it.
        changed_at: when it became what it is: the newest beginning or end of a version, its children's included. If
            it has always been empty, its first reading.
    """

    kind: str
    taken_at: datetime
    run_id: str
    changed_at: datetime


async def standing_of(db: Database, org: str, kind: str, at: datetime | None = None) -> Standing | None:
    """How a kind stands, or stood at a time; None if nothing had been saved by then.

    Args:
        db: the store.
        org: the product's tenant.
        kind: a kind's name, or the product's word for it.
        at: the time to look at; now by default.

    Raises:
        UnknownKindError: there is no such kind.
    """
    found = find_kind(kind)
    saved = (
        _SNAPSHOT.c.org == org,
        _SNAPSHOT.c.kind == found.name,
        _SNAPSHOT.c.state == SnapshotState.SAVED,
    )
    newest = select(_SNAPSHOT.c.taken_at, _SNAPSHOT.c.run_id).where(*saved)
    if at is not None:
        newest = newest.where(_SNAPSHOT.c.taken_at <= as_utc(at))
    async with db.read() as connection:
        head = (await connection.execute(newest.order_by(_SNAPSHOT.c.taken_at.desc()).limit(1))).first()
        if head is None:
            return None
        kinds = (found, *found.children)
        moments = [
            _last(one.table, one, org, column, head.taken_at)
            for one in kinds
            for column in ("valid_from", "valid_to")
        ]
        first = select(func.min(_SNAPSHOT.c.taken_at)).where(*saved).scalar_subquery()
        row = (await connection.execute(select(first, *moments))).one()
    changed = max((moment for moment in row[1:] if moment is not None), default=row[0])
    return Standing(found.name, head.taken_at, head.run_id, changed)


def _last(table: Table, kind: Kind, org: str, column: str, by: datetime) -> ColumnElement[datetime]:
    """The newest moment in a column, up to a time; each is the end of an index."""
    moment = table.c[column]
    return (
        select(func.max(moment))
        .where(table.c.org == org, table.c.kind == kind.name, moment.is_not(None), moment <= by)
        .scalar_subquery()
    )
