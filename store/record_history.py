"""What records were before: kept for the kinds where somebody asked for it (S2).

A version is copied in the transaction that replaces it, by one statement that does nothing where no history is kept.
So a history has no gaps from the moment it was switched on, whoever wrote: a webhook, a reading or a comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.connection_records import require_connected
from store.database import Database, insert_on
from store.mirror_facts import RecordState
from store.mirror_sql import TABLE, among, these
from store.tables import RecordHistoryRow, RecordVersionRow, table_of
from store.types import UTCDateTime

_HISTORY, _VERSION = table_of(RecordHistoryRow), table_of(RecordVersionRow)
_COPIED = [name for name in _VERSION.c.keys() if name not in {"id", "known_until"}]  # noqa: SIM118 - no mapping
_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class RecordVersion:
    """What a record was. Times are aware and UTC, by our clock but for `updated_at`.

    Attributes:
        known_until: when something else became known; None: it is so still.
    """

    record_id: int
    state: str
    name: str | None
    responsible_user_id: int | None
    pipeline_id: int | None
    status_id: int | None
    price: int | None
    updated_at: datetime | None
    read_at: datetime
    source: str
    known_until: datetime | None
    raw: Any = field(repr=False)


_SHOWN = tuple(name for name in RecordVersion.__dataclass_fields__ if name != "known_until")


async def keep_versions(
    connection: AsyncConnection, place: tuple[str, str], ids: Sequence[int], *, until: datetime
) -> None:
    """Copy what is about to be replaced, inside the transaction that has it locked; only where history is kept.

    Args:
        connection: from `Database.begin`.
        place: the org, and the kind's name.
        ids: of records that are there.
        until: the present time.
    """
    if not ids:
        return
    kept = exists().where(_HISTORY.c.org == place[0], _HISTORY.c.entity == place[1])
    copied = select(*(TABLE.c[name] for name in _COPIED), literal(until, UTCDateTime())).where(
        kept, among(connection, place, ids)
    )
    await connection.execute(
        insert_on(connection, _VERSION).from_select(
            [*_COPIED, "known_until"], copied.order_by(TABLE.c.record_id), include_defaults=False
        )
    )


async def keep_history(db: Database, org: str, kinds: Sequence[str], *, now: datetime) -> None:
    """From now on keep what these kinds' records were; where it is kept already, it goes on.

    Raises:
        UnknownConnectionError: there is no such org.
    """
    rows = [{"org": org, "entity": kind, "since": now} for kind in kinds]
    async with db.begin() as connection:
        await require_connected(connection, org)
        if rows:
            statement = insert_on(connection, _HISTORY).values(rows)
            await connection.execute(statement.on_conflict_do_nothing(index_elements=["org", "entity"]))


async def stop_history(db: Database, org: str, kinds: Sequence[str], *, forget: bool = False) -> int:
    """Keep no more versions of these kinds; those that are there stay until they are old, or go now.

    Args:
        db: the store.
        org: the product's tenant.
        kinds: the kinds' names.
        forget: remove what was kept.

    Returns:
        How many versions were removed.
    """
    async with db.begin() as connection:
        await connection.execute(delete(_HISTORY).where(_HISTORY.c.org == org, _HISTORY.c.entity.in_(kinds)))
    removed = 0
    for kind in kinds if forget else ():
        of_kind = (_VERSION.c.org == org, _VERSION.c.entity == kind)
        some = select(_VERSION.c.id).where(*of_kind).limit(_BATCH)
        while True:
            async with db.begin() as connection:
                gone = (await connection.execute(delete(_VERSION).where(_VERSION.c.id.in_(some)))).rowcount
            removed += gone
            if gone < _BATCH:
                break
    return removed


async def kept_history(db: Database, org: str) -> Mapping[str, tuple[datetime, int]]:
    """For each kind whose history is kept: since when, UTC, and how many versions there are."""
    counted = (
        select(func.count())
        .where(_VERSION.c.org == _HISTORY.c.org, _VERSION.c.entity == _HISTORY.c.entity)
        .scalar_subquery()
    )
    query = (
        select(_HISTORY.c.entity, _HISTORY.c.since, counted)
        .where(_HISTORY.c.org == org)
        .order_by(_HISTORY.c.entity)
    )
    async with db.read() as connection:
        return {row[0]: (row[1], row[2]) for row in await connection.execute(query)}


async def versions_of(
    db: Database, org: str, entity: str, record_id: int, *, limit: int = 100
) -> list[RecordVersion]:
    """What a record is, and what it was before, newest first; empty if nothing is known of it.

    Args:
        db: the store.
        org: the product's tenant.
        entity: the kind's name.
        record_id: its id.
        limit: at most so many.
    """
    current = select(*(TABLE.c[name] for name in _SHOWN)).where(
        these(org, entity), TABLE.c.record_id == record_id
    )
    before = (
        select(*(_VERSION.c[name] for name in _SHOWN), _VERSION.c.known_until)
        .where(_VERSION.c.org == org, _VERSION.c.entity == entity, _VERSION.c.record_id == record_id)
        .order_by(_VERSION.c.id.desc())
        .limit(limit)
    )
    async with db.read() as connection:
        now = [
            RecordVersion(**row, known_until=None) for row in (await connection.execute(current)).mappings()
        ]
        return [
            *now,
            *(RecordVersion(**row) for row in (await connection.execute(before)).mappings()),
        ][:limit]


async def forget_record(db: Database, org: str, entity: str, record_id: int) -> bool:
    """Remove the content of a record that is gone, and what it was before; its tombstone keeps the id alone.

    Returns:
        Whether there was one that is gone; of one that is there nothing is removed.
    """
    blank = dict.fromkeys(
        (
            *("name", "responsible_user_id", "status_id", "pipeline_id", "created_at", "updated_at", "price"),
            *("closed_at", "parent_entity", "parent_id", "type", "key", "clean"),
        )
    )
    here = (TABLE.c.org == org, TABLE.c.entity == entity, TABLE.c.record_id == record_id)
    async with db.begin() as connection:
        found = await connection.execute(
            TABLE.update()
            .where(*here, TABLE.c.state != RecordState.PRESENT)
            .values(**blank, raw={}, digest="")
        )
        if found.rowcount == 0:
            return False
        await connection.execute(
            delete(_VERSION).where(
                _VERSION.c.org == org, _VERSION.c.entity == entity, _VERSION.c.record_id == record_id
            )
        )
    return True
