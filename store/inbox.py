"""The inbox: what Kommo has told us, written before anybody is told that we have it (W1).

A delivery, its events and their unique keys are one transaction. An event whose key is there already is a repetition:
it is kept, and flagged.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Result,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from store.database import Database, insert_of
from store.dbclock import SecondsClock, server_clock
from store.rows import given_rows, row_values, rows_table
from store.tables import WebhookDeliveryRow, WebhookEventRow, table_of
from store.types import CleanText, EpochSeconds, PlainJSON, UTCDateTime

DELIVERIES = table_of(WebhookDeliveryRow)
EVENTS = table_of(WebhookEventRow)

PENDING, DONE, DEAD, DUPLICATE = "pending", "done", "dead", "duplicate"
STORED, UNREADABLE = "stored", "unreadable"

_NEW = {
    "delivery_id": CleanText,
    "position": BigInteger,
    "org": CleanText,
    "entity": CleanText,
    "action": CleanText,
    "entity_id": CleanText,
    "parent": CleanText,
    "occurred_at": UTCDateTime,
    "received_at": UTCDateTime,
    "unique_key": CleanText,
    "payload": PlainJSON,
    "reference": CleanText,
}


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One change that a delivery tells of. Its fields: `store.tables.inbox`."""

    entity: str
    action: str
    entity_id: str
    parent: str | None
    occurred_at: datetime | None
    unique_key: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A request as it came.

    Attributes:
        delivery_id: a new uuid.
        org: the product's tenant.
        account_id: Kommo's id of the account, as the body has it.
        door: `key` or `signed`.
        received_at: when it came.
        content_type: as the request said.
        headers: the few that are worth keeping.
        request_id: Kommo's own id of the request.
        body: the bytes.
        events: what it tells of.
        reason: why it cannot be read; None if it can.
        reference: our id of the request, which its events and what comes of them carry on.
    """

    delivery_id: str
    org: str
    account_id: int | None
    door: str
    received_at: datetime
    content_type: str | None
    headers: Mapping[str, str]
    request_id: str | None
    body: bytes = field(repr=False)
    events: Sequence[NewEvent]
    reason: str | None = None
    reference: str | None = None


_Placed: TypeAlias = tuple[NewDelivery, int, NewEvent]


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a delivery: how many of its events are new, how many repeat one that was there."""

    delivery_id: str
    new: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event and how it stands. Times are aware and UTC, `due_at` is in seconds since 1970."""

    id: int
    delivery_id: str
    position: int
    org: str
    entity: str
    action: str
    entity_id: str
    parent: str | None
    occurred_at: datetime | None
    received_at: datetime
    unique_key: str
    payload: Any
    state: str
    attempts: int
    due_at: float
    reason: str | None
    settled_at: datetime | None
    outcome: str | None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery with the bytes that came. Times are aware and UTC."""

    delivery_id: str
    org: str
    account_id: int | None
    door: str
    received_at: datetime
    content_type: str | None
    headers: Any
    request_id: str | None
    body: bytes = field(repr=False)
    body_hash: str
    state: str
    reason: str | None
    event_count: int
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of one entity: the newest change by Kommo's clock, and the newest arrival by ours."""

    occurred_at: datetime | None
    received_at: datetime


async def save_deliveries(
    db: Database, deliveries: Sequence[NewDelivery], *, now: SecondsClock = time.time
) -> list[Saved]:
    """Write deliveries and their events in one transaction: when this returns they are on the disk.

    Args:
        db: the store.
        deliveries: in the order in which they came, also of several orgs.
        now: seconds since 1970, used on SQLite.

    Returns:
        What became of each, in the same order.
    """
    if not deliveries:
        return []
    rows = [
        (delivery, position, event)
        for delivery in deliveries
        for position, event in enumerate(delivery.events)
    ]
    async with db.begin(durable=True) as connection:
        await connection.execute(insert(DELIVERIES), [_delivery_values(one) for one in deliveries])
        fresh = await _insert_events(connection, rows, now)
    new = dict.fromkeys((one.delivery_id for one in deliveries), 0)
    for delivery_id, _ in fresh:
        new[delivery_id] += 1
    return [
        Saved(one.delivery_id, new[one.delivery_id], len(one.events) - new[one.delivery_id])
        for one in deliveries
    ]


async def save_parsed(
    db: Database, delivery_id: str, events: Sequence[NewEvent], *, org: str, now: SecondsClock = time.time
) -> Saved | None:
    """Give an unreadable delivery its events, once it can be read; None if it is not (or no longer) unreadable.

    Args:
        db: the store.
        delivery_id: which.
        events: what it tells of.
        org: whose it is: the one that it had, or the one that was found for it.
        now: seconds since 1970, used on SQLite.
    """
    async with db.begin(durable=True) as connection:
        found = await connection.execute(
            update(DELIVERIES)
            .where(DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state == UNREADABLE)
            .values(org=org, state=STORED, reason=None, event_count=len(events))
            .returning(DELIVERIES)
        )
        row = found.mappings().first()
        if row is None:
            return None
        values = {name: row[name] for name in row if name not in {"body_hash", "state", "event_count"}}
        delivery = NewDelivery(**values, events=events)
        fresh = await _insert_events(
            connection, [(delivery, position, event) for position, event in enumerate(events)], now
        )
    return Saved(delivery_id, len(fresh), len(events) - len(fresh))


async def get_event(db: Database, event_id: int) -> StoredEvent | None:
    """One event."""
    async with db.read() as connection:
        row = (await connection.execute(select(EVENTS).where(EVENTS.c.id == event_id))).mappings().first()
    return None if row is None else StoredEvent(**row)


async def get_delivery(db: Database, delivery_id: str) -> StoredDelivery | None:
    """One delivery with its bytes."""
    async with db.read() as connection:
        found = await connection.execute(select(DELIVERIES).where(DELIVERIES.c.delivery_id == delivery_id))
        row = found.mappings().first()
    return None if row is None else StoredDelivery(**row)


async def delivery_events(db: Database, delivery_id: str) -> list[StoredEvent]:
    """The events of a delivery, in their order."""
    query = select(EVENTS).where(EVENTS.c.delivery_id == delivery_id).order_by(EVENTS.c.position)
    async with db.read() as connection:
        return [StoredEvent(**row) for row in (await connection.execute(query)).mappings()]


async def unreadable_deliveries(
    db: Database, org: str | None = None, *, limit: int = 100, after: tuple[datetime, str] | None = None
) -> list[StoredDelivery]:
    """A page of the deliveries that cannot be read, oldest first.

    Args:
        db: the store.
        org: only those of this tenant; empty for those that could not be given to one; None for all.
        limit: at most so many.
        after: time and id of the last one of the page before.
    """
    place = (DELIVERIES.c.received_at, DELIVERIES.c.delivery_id)
    query = (
        select(DELIVERIES)
        .where(DELIVERIES.c.state == literal_column("'unreadable'"))
        .order_by(*place)
        .limit(limit)
    )
    if org is not None:
        query = query.where(DELIVERIES.c.org == org)
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*after, types=[UTCDateTime(), CleanText()]))
    async with db.read() as connection:
        return [StoredDelivery(**row) for row in (await connection.execute(query)).mappings()]


async def heard_of(db: Database, org: str, entity: str, entity_ids: Sequence[str]) -> dict[str, Heard]:
    """What webhooks have told of these entities, whatever came of it; an entity that none told of is left out."""
    async with db.read() as connection:
        wanted = given_rows(connection, {"entity_id": CleanText}, [(one,) for one in set(entity_ids)])
        query = (
            select(EVENTS.c.entity_id, func.max(EVENTS.c.occurred_at), func.max(EVENTS.c.received_at))
            .where(
                EVENTS.c.org == org,
                EVENTS.c.entity == entity,
                EVENTS.c.entity_id.in_(select(wanted.c.entity_id)),
            )
            .group_by(EVENTS.c.entity_id)
        )
        return {row[0]: Heard(row[1], row[2]) for row in await connection.execute(query)}


async def still_waiting(db: Database, org: str, entity: str, entity_ids: Sequence[str]) -> set[str]:
    """Of these entities those that have events in the backlog."""
    async with db.read() as connection:
        wanted = given_rows(connection, {"entity_id": CleanText}, [(one,) for one in set(entity_ids)])
        query = select(EVENTS.c.entity_id).where(
            EVENTS.c.org == org,
            EVENTS.c.entity == entity,
            # Written out, not a parameter: the database must see that the partial index fits.
            EVENTS.c.state == literal_column("'pending'"),
            EVENTS.c.entity_id.in_(select(wanted.c.entity_id)),
        )
        return set((await connection.execute(query.distinct())).scalars())


async def _insert_events(
    connection: AsyncConnection, rows: Sequence[_Placed], now: SecondsClock
) -> set[tuple[str, int]]:
    """Write events; gives delivery and position of those that are no repetition."""
    if not rows:
        return set()
    # By their keys: two gateways that write the same ones at once then wait for each other in one direction only.
    # Of two with one key, the sort leaves the one that came first in front.
    ordered = sorted(rows, key=lambda row: (row[0].org, row[2].unique_key))
    fresh = {(row[0], row[1]) for row in await _insert(connection, ordered, PENDING, now)}
    if len(fresh) < len(rows):
        again = [row for row in ordered if (row[0].delivery_id, row[1]) not in fresh]
        await _insert(connection, again, DUPLICATE, now)
    return fresh


async def _insert(
    connection: AsyncConnection, rows: Sequence[_Placed], state: str, now: SecondsClock
) -> Result[str, int]:
    dialect = connection.dialect.name
    parameters = row_values(dialect, _NEW, [_event_values(*row) for row in rows])
    parameters["state"] = state
    if dialect == "sqlite":
        parameters["clock"] = now()
    return await connection.execute(_insertion(dialect), parameters)


@cache
def _insertion(dialect: str) -> ReturningInsert[str, int]:
    """Made once: for a transaction with few rows the making took more time than all the rest."""
    given = rows_table(dialect, _NEW)
    clock = bindparam("clock", type_=EpochSeconds()) if dialect == "sqlite" else server_clock()
    source = select(
        *(given.c[name] for name in _NEW),
        bindparam("state", type_=CleanText()).label("state"),
        clock.label("due_at"),
    )
    return (
        insert_of(dialect, EVENTS)
        # Without a condition SQLite would take ON CONFLICT for the condition of a join.
        .from_select([*_NEW, "state", "due_at"], source.where(sql("true")), include_defaults=False)
        .on_conflict_do_nothing(index_elements=["org", "unique_key"], index_where=sql("state <> 'duplicate'"))
        .returning(EVENTS.c.delivery_id, EVENTS.c.position)
    )


def _event_values(delivery: NewDelivery, position: int, event: NewEvent) -> tuple[Any, ...]:
    return (
        delivery.delivery_id,
        position,
        delivery.org,
        event.entity,
        event.action,
        event.entity_id,
        event.parent,
        event.occurred_at,
        delivery.received_at,
        event.unique_key,
        event.payload,
        delivery.reference,
    )


def _delivery_values(one: NewDelivery) -> dict[str, Any]:
    return {
        "delivery_id": one.delivery_id,
        "org": one.org,
        "account_id": one.account_id,
        "door": one.door,
        "received_at": one.received_at,
        "content_type": one.content_type,
        "headers": dict(one.headers),
        "request_id": one.request_id,
        "reference": one.reference,
        "body": one.body,
        "body_hash": hashlib.sha256(one.body).hexdigest(),
        "state": STORED if one.reason is None else UNREADABLE,
        "reason": one.reason,
        "event_count": len(one.events),
    }
