"""What is still to be told to the product. Written in the transaction of the change that it tells of."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database, insert_on
from store.tables import OutboxRow, table_of

_TABLE = table_of(OutboxRow)

PENDING = "pending"


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
    """

    type: str
    org: str
    subject: str
    payload: Mapping[str, Any]
    event_id: str = field(default_factory=_new_id)


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


async def add_events(connection: AsyncConnection, events: Sequence[OutboxEvent], now: datetime) -> None:
    """Write events inside the transaction of `connection`. An event that is there already is left alone.

    Args:
        connection: from `Database.begin`.
        events: in the order in which they happened.
        now: the present time.
    """
    if not events:
        return
    await connection.execute(
        insert_on(connection, _TABLE).on_conflict_do_nothing(index_elements=["event_id"]),
        [
            {
                "event_id": event.event_id,
                "type": event.type,
                "org": event.org,
                "subject": event.subject,
                "payload": dict(event.payload),
                "created_at": now,
                "state": PENDING,
                "attempts": 0,
            }
            for event in events
        ],
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
        state: only those in this state, such as `pending`.
        after_id: the last id of the page before.
        limit: at most so many.
    """
    query = select(_TABLE).where(_TABLE.c.id > after_id).order_by(_TABLE.c.id).limit(limit)
    if org is not None:
        query = query.where(_TABLE.c.org == org)
    if state is not None:
        query = query.where(_TABLE.c.state == state)
    async with db.read() as connection:
        return [OutboxRecord(**row) for row in (await connection.execute(query)).mappings()]
