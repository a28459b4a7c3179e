"""What is still to be told to the product, who tells it, and what was done to connections."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy import text as sql
from sqlmodel import Field

from store.tables.base import (
    StoreModel,
    counter_column,
    id_column,
    json_column,
    seconds_column,
    text_column,
    time_column,
)
from store.types import CleanText

_PENDING, _DEAD = sql("state = 'pending'"), sql("state = 'dead'")
_HELD = sql("state = 'pending' AND next_attempt_at IS NOT NULL")


class OutboxRow(StoreModel, table=True):
    """One event for the product. `event_id` is what it deduplicates by.

    `state`: `pending`, `delivered`, or `dead` after its last attempt. `next_attempt_at` of a pending one: an attempt
    has failed, and until then this event and all later ones of its subject wait.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("uq_outbox_event_id", "event_id", unique=True),
        Index("ix_outbox_org_id", "org", "id"),
        Index("ix_outbox_created", "created_at"),
        Index("ix_outbox_waiting", "org", "id", postgresql_where=_PENDING, sqlite_where=_PENDING),
        Index("ix_outbox_held", "org", "subject", postgresql_where=_HELD, sqlite_where=_HELD),
        Index("ix_outbox_dead", "org", "id", postgresql_where=_DEAD, sqlite_where=_DEAD),
    )
    id: int | None = id_column()
    event_id: str = text_column()
    type: str = text_column()
    org: str = text_column()
    subject: str = text_column()
    payload: Any = json_column()
    created_at: datetime = time_column()
    state: str = Field(
        default="pending",
        sa_type=CleanText,
        nullable=False,
        sa_column_kwargs={"server_default": sql("'pending'")},
    )
    attempts: int = counter_column()
    next_attempt_at: datetime | None = time_column(null=True)
    delivered_at: datetime | None = time_column(null=True)
    last_error: str | None = text_column(null=True)
    reference: str | None = text_column(null=True)


class OutboxTurnRow(StoreModel, table=True):
    """Who tells an org's events to the product, and until when."""

    __tablename__ = "outbox_turn"
    org: str = text_column(primary_key=True)
    owner: str = text_column()
    until: float = seconds_column()
    serial: int = counter_column()
    served_at: float = seconds_column()


class OutboxEndpointRow(StoreModel, table=True):
    """How an address of the product does, by its hash (the address itself may hold a key).

    `state`: `resting` (nothing is sent before `rests_until`, then a single event tries it), or `gone`. An endpoint that
    does well has no row. `probe_until`: somebody is trying it.
    """

    __tablename__ = "outbox_endpoint"
    endpoint: str = text_column(primary_key=True)
    host: str = text_column()
    state: str = text_column()
    failures: int = counter_column()
    rests_until: float = seconds_column()
    probe_until: float = seconds_column()
    reason: str = text_column()
    since: datetime = time_column()


class ConnectionAuditRow(StoreModel, table=True):
    """One thing that was done to a connection. It outlives the connection."""

    __tablename__ = "connection_audit"
    __table_args__ = (Index("ix_connection_audit_org_id", "org", "id"),)
    id: int | None = id_column()
    org: str = text_column()
    event: str = text_column()
    detail: Any = json_column()
    at: datetime = time_column()
