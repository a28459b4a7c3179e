"""What is still to be told to the product. Written in the transaction of the change that it tells of."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, literal, literal_column, select
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database, insert_on
from store.reference import current_reference
from store.rows import given_rows
from store.tables import OutboxRow, table_of
from store.types import CleanText, PlainJSON, UTCDateTime

_TABLE = table_of(OutboxRow)

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
STATES = (PENDING, DELIVERED, DEAD)
_GIVEN = {
    "event_id": CleanText,
    "type": CleanText,
    "org": CleanText,
    "subject": CleanText,
    "payload": PlainJSON,
    "reference": CleanText,
}


def _new_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class OutboxEvent:
    """Something to tell the product.

    Attributes:
        type: what happened, such as `integration_connected`.
        org: the product's tenant.
        subject: what it happened to, within the org; events of one subject are told in their order.
        payload: JSON without secrets.
        event_id: what the product deduplicates by.
        reference: the id of the request that it comes of; by default that of the one at work here, if there is one.
    """

    type: str
    org: str
    subject: str
    payload: Mapping[str, Any]
    event_id: str = field(default_factory=_new_id)
    reference: str | None = field(default_factory=current_reference)


@dataclass(frozen=True)
class OutboxRecord:
    """An event of the outbox and how its delivery stands. Times are aware and UTC."""

    id: int
    event_id: str
    type: str
    org: str
    subject: str
    payload: Any
    created_at: datetime
    state: str
    attempts: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    last_error: str | None
    reference: str | None = None


async def add_events(connection: AsyncConnection, events: Sequence[OutboxEvent], now: datetime) -> None:
    """Write events inside the transaction of `connection`. An event that is there already is left alone.

    Args:
        connection: from `Database.begin`.
        events: in the order in which they happened.
        now: the present time.
    """
    if not events:
        return
    rows = [(one.event_id, one.type, one.org, one.subject, one.payload, one.reference) for one in events]
    given = given_rows(connection, _GIVEN, rows)
    values = {
        "created_at": literal(now, UTCDateTime()),
        "state": literal(PENDING, CleanText()),
        "attempts": literal(0, BigInteger()),
    }
    await connection.execute(
        insert_on(connection, _TABLE)
        .from_select(
            [*_GIVEN, *values],
            # Without a condition SQLite would take ON CONFLICT for the condition of a join.
            select(*(given.c[name] for name in _GIVEN), *values.values()).where(sql("true")),
            include_defaults=False,
        )
        .on_conflict_do_nothing(index_elements=["event_id"])
    )


async def list_outbox(
    db: Database,
    *,
    org: str | None = None,
    state: str | None = None,
    after_id: int = 0,
    limit: int = 100,
) -> list[OutboxRecord]:
    """A page of events, oldest first.

    Args:
        db: the store.
        org: only this org's.
        state: only those in this state: `pending`, `delivered` or `dead`.
        after_id: the last id of the page before.
        limit: at most so many.
    """
    query = select(_TABLE).where(_TABLE.c.id > after_id).order_by(_TABLE.c.id).limit(limit)
    if org is not None:
        query = query.where(_TABLE.c.org == org)
    if state is not None:
        # A known one is written out, not a parameter: the database must see that a partial index fits.
        wanted = literal_column(f"'{state}'") if state in STATES else literal(state)
        query = query.where(_TABLE.c.state == wanted)
    async with db.read() as connection:
        return [OutboxRecord(**row) for row in (await connection.execute(query)).mappings()]
