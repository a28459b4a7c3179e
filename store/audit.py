"""What was done to connections, by whom or by what: kept also when the connection is gone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.tables import ConnectionAuditRow, table_of

_TABLE = table_of(ConnectionAuditRow)


@dataclass(frozen=True)
class AuditNote:
    """An entry to be written: a word for what was done, and JSON without secrets about it."""

    event: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class AuditRecord:
    """An entry that was written. `at` is aware and UTC."""

    id: int
    org: str
    event: str
    detail: Any
    at: datetime


async def add_audit(
    connection: AsyncConnection, org: str, event: str, detail: Mapping[str, Any], now: datetime
) -> None:
    """Write an entry inside the transaction of `connection`.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        event: a word for what was done, such as `moved`.
        detail: JSON without secrets.
        now: the present time.
    """
    await connection.execute(_TABLE.insert().values(org=org, event=event, detail=dict(detail), at=now))


async def list_audit(db: Database, org: str, *, limit: int = 100) -> list[AuditRecord]:
    """An org's entries, newest first.

    Args:
        db: the store.
        org: the product's tenant.
        limit: at most so many.
    """
    query = select(_TABLE).where(_TABLE.c.org == org).order_by(_TABLE.c.id.desc()).limit(limit)
    async with db.read() as connection:
        return [AuditRecord(**row) for row in (await connection.execute(query)).mappings()]
