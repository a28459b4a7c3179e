"""Looking at the mirror: some records of a kind, and any question in SQL that changes nothing."""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.errors import StoreError
from store.mirror import RecordState, StoredRecord
from store.tables import CustomField, RecordRow, table_of
from store.types import clean_text

_RECORD, _FIELD = table_of(RecordRow), table_of(CustomField)
_COLUMNS = tuple(_RECORD.c[name] for name in StoredRecord.__dataclass_fields__)
QUERY_SECONDS = 60.0
_ASKS = re.compile(r"[(\s]*(?:select|with)\b", re.IGNORECASE)


class QueryRefusedError(StoreError):
    """The database does not take this question."""


@dataclass(frozen=True, slots=True)
class Rows:
    """An answer; `more`: there are more rows than were asked for."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


async def list_records(
    db: Database, org: str, entity: str, *, limit: int = 20, after: int | None = None
) -> list[StoredRecord]:
    """Records that are there, in the order of their ids.

    Args:
        db: the store.
        org: the product's tenant.
        entity: the kind's name.
        limit: at most so many.
        after: only ids above this one.
    """
    query = select(*_COLUMNS).where(
        _RECORD.c.org == org, _RECORD.c.entity == entity, _RECORD.c.state == RecordState.PRESENT
    )
    if after is not None:
        query = query.where(_RECORD.c.record_id > after)
    async with db.read() as connection:
        found = await connection.execute(query.order_by(_RECORD.c.record_id).limit(limit))
        return [StoredRecord(**row) for row in found.mappings()]


EXPORTED = (
    *("record_id", "key", "name", "type", "responsible_user_id", "pipeline_id", "status_id", "price"),
    *("created_at", "updated_at", "closed_at", "parent_entity", "parent_id"),
)
"""The typed columns that are worth giving out; `raw` comes beside them."""


async def pages_of_records(
    db: Database, org: str, entity: str, *, size: int = 1_000
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """All records that are there, page by page in the order of their ids, as they all stood at one moment.

    Args:
        db: the store.
        org: the product's tenant.
        entity: the kind's name.
        size: records in a page.

    Yields:
        The columns `EXPORTED`, and `raw`.
    """
    columns = [_RECORD.c[name] for name in (*EXPORTED, "raw")]
    query = (
        select(*columns)
        .where(_RECORD.c.org == org, _RECORD.c.entity == entity, _RECORD.c.state == RecordState.PRESENT)
        .order_by(_RECORD.c.record_id)
        .limit(size)
    )
    last: int | None = None
    async with db.read() as connection:  # one transaction for all pages
        while True:
            page = query if last is None else query.where(_RECORD.c.record_id > last)
            rows = [dict(row) for row in (await connection.execute(page)).mappings()]
            if rows:
                yield rows
            if len(rows) < size:
                return
            last = rows[-1]["record_id"]


async def current_fields(db: Database, org: str, kind: str) -> list[tuple[int, str]]:
    """The custom fields of a kind such as `lead_fields`, as last synced: id and name, in Kommo's order."""
    query = (
        select(_FIELD.c.field_id, _FIELD.c.name)
        .where(_FIELD.c.org == org, _FIELD.c.kind == kind, _FIELD.c.valid_to.is_(None))
        .order_by(_FIELD.c.sort, _FIELD.c.field_id)
    )
    async with db.read() as connection:
        return [(row[0], row[1]) for row in await connection.execute(query)]


async def _ask(connection: AsyncConnection, question: str) -> CursorResult[Any]:
    return await connection.exec_driver_sql(question)


async def _ask_sqlite(connection: AsyncConnection, question: str) -> CursorResult[Any]:
    """SQLite knows no limit of time, and goes on when nobody waits any more: it is told to end, and waited for."""
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is None:
        raise RuntimeError("The connection is closed; it was opened a moment ago.")
    asked = asyncio.ensure_future(_ask(connection, question))
    try:
        if not (await asyncio.wait([asked], timeout=QUERY_SECONDS))[0]:
            await driver.interrupt()
        return await asked
    except asyncio.CancelledError:
        await driver.interrupt()
        await asyncio.wait([asked])
        asked.exception()
        raise


async def ask_in_sql(db: Database, question: str, *, limit: int = 1_000) -> Rows:
    """Ask in SQL. The transaction cannot write; names need no schema.

    Args:
        db: the store.
        question: one SELECT.
        limit: at most so many rows.

    Raises:
        QueryRefusedError: it is no SELECT, or the database does not understand it, or it takes too long.
    """
    plain = question.strip().rstrip(";").strip()
    if _ASKS.match(plain) is None or clean_text(plain) != plain:
        raise QueryRefusedError("Ask one question that begins with SELECT or WITH; nothing was asked.")
    refused: str | None = None
    try:
        async with db.read() as connection:
            if db.dialect == "postgresql":
                await connection.execute(
                    select(func.set_config("search_path", db.address.schema or "public", True))  # noqa: FBT003 - SQL's
                )
                await connection.execute(text(f"SET LOCAL statement_timeout = '{QUERY_SECONDS:.0f}s'"))
            else:
                # A transaction that "only reads" could still be turned into one that writes.
                await connection.exec_driver_sql("PRAGMA query_only = ON")
            try:
                # Neither driver reads answers piece by piece here: the database gives no more than is wanted.
                few = f"SELECT * FROM (\n{plain}\n) AS asked LIMIT {limit + 1:d}"  # noqa: S608 - whoever asks may
                found = await (_ask if db.dialect == "postgresql" else _ask_sqlite)(connection, few)
                columns, rows = tuple(found.keys()), found.fetchall()
            finally:
                if db.dialect != "postgresql":
                    await connection.exec_driver_sql("PRAGMA query_only = OFF")
    except DBAPIError as error:
        refused = str(getattr(error, "orig", error)).splitlines()[0]
    if refused is not None:
        # Not chained: whoever asked has the question, and nobody else needs it.
        raise QueryRefusedError(f"The database does not take this question: {refused[:300]}")
    return Rows(columns, [tuple(row) for row in rows[:limit]], len(rows) > limit)
