"""Looking at the mirror: some records of a kind, and any question in SQL that changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from store.database import Database
from store.errors import StoreError
from store.mirror import RecordState, StoredRecord
from store.tables import RecordRow, table_of

_RECORD = table_of(RecordRow)
_COLUMNS = tuple(_RECORD.c[name] for name in StoredRecord.__dataclass_fields__)
QUERY_SECONDS = 60


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
    if ";" in plain or plain.partition(" ")[0].strip("(\n").lower() not in {"select", "with"}:
        raise QueryRefusedError("Ask one question that begins with SELECT or WITH; nothing was asked.")
    refused: str | None = None
    try:
        async with db.read() as connection:
            if db.dialect == "postgresql":
                await connection.execute(
                    select(func.set_config("search_path", db.address.schema or "public", True))  # noqa: FBT003
                )
                await connection.execute(text(f"SET LOCAL statement_timeout = '{QUERY_SECONDS}s'"))
            else:
                # A transaction that "only reads" could still be turned into one that writes.
                await connection.exec_driver_sql("PRAGMA query_only = ON")
            try:
                found = await connection.exec_driver_sql(plain)
                rows: Sequence[Any] = found.fetchmany(limit + 1)
                columns = tuple(found.keys())
            finally:
                if db.dialect != "postgresql":
                    await connection.exec_driver_sql("PRAGMA query_only = OFF")
    except DBAPIError as error:
        refused = str(getattr(error, "orig", error)).splitlines()[0]
    if refused is not None:
        # Not chained: whoever asked has the question, and nobody else needs it.
        raise QueryRefusedError(f"The database does not take this question: {refused[:300]}")
    return Rows(columns, [tuple(row) for row in rows[:limit]], len(rows) > limit)
