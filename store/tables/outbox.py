"""What is still to be told to the product, and what was done to its connections."""

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
    text_column,
    time_column,
)
from store.types import CleanText


class OutboxRow(StoreModel, table=True):
    """One event for the product. `event_id` is what it deduplicates by."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("uq_outbox_event_id", "event_id", unique=True),
        Index("ix_outbox_state_id", "state", "id"),
        Index("ix_outbox_org_id", "org", "id"),
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


class ConnectionAuditRow(StoreModel, table=True):
    """One thing that was done to a connection. It outlives the connection."""

    __tablename__ = "connection_audit"
    __table_args__ = (Index("ix_connection_audit_org_id", "org", "id"),)
    id: int | None = id_column()
    org: str = text_column()
    event: str = text_column()
    detail: Any = json_column()
    at: datetime = time_column()
