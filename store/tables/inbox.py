"""What Kommo has told us: hook keys, deliveries as they came, their events, and whose turn it is to work them off."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary
from sqlalchemy import text as sql
from sqlmodel import Field

from store.tables.base import (
    StoreModel,
    counter_column,
    id_column,
    json_column,
    number_column,
    seconds_column,
    text_column,
    time_column,
)

_PENDING, _DEAD = sql("state = 'pending'"), sql("state = 'dead'")
_NOBODYS = sql("org = ''")
_FIRST, _UNREADABLE = sql("state <> 'duplicate'"), sql("state = 'unreadable'")


class WebhookKeyRow(StoreModel, table=True):
    """A key in the path of a hook, by its hash. `account_id` NULL: not known when the key was made."""

    __tablename__ = "webhook_key"
    __table_args__ = (Index("ix_webhook_key_org", "org"),)
    key_hash: str = text_column(primary_key=True)
    org: str = text_column()
    account_id: int | None = number_column()
    created_at: datetime = time_column()
    revoked_at: datetime | None = time_column(null=True)


class WebhookDeliveryRow(StoreModel, table=True):
    """One request, with the bytes that came. `state`: `stored`, or `unreadable` with the reason.

    `request_id` is Kommo's own id of the request, `reference` ours: logs and what follows of it carry it.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery_org_received", "org", "received_at"),
        Index(
            "ix_webhook_delivery_unreadable",
            *("org", "received_at", "delivery_id"),
            postgresql_where=_UNREADABLE,
            sqlite_where=_UNREADABLE,
        ),
        Index(
            "ix_webhook_delivery_nobodys",
            "account_id",
            postgresql_where=_NOBODYS,
            sqlite_where=_NOBODYS,
        ),
    )
    delivery_id: str = text_column(primary_key=True)
    org: str = text_column()
    account_id: int | None = number_column()
    door: str = text_column()
    received_at: datetime = time_column()
    content_type: str | None = text_column(null=True)
    headers: Any = json_column()
    request_id: str | None = text_column(null=True)
    reference: str | None = text_column(null=True)
    body: bytes = Field(sa_type=LargeBinary, nullable=False)
    body_hash: str = text_column()
    state: str = text_column()
    reason: str | None = text_column(null=True)
    event_count: int = counter_column()


class WebhookEventRow(StoreModel, table=True):
    """One change inside a delivery. `state`: `pending`, `done`, `dead`, or `duplicate` of one that came before.

    No foreign key to the delivery: both are written in one transaction, and the check would be paid for each event.
    """

    __tablename__ = "webhook_event"
    __table_args__ = (
        Index(
            "uq_webhook_event_key",
            *("org", "unique_key"),
            unique=True,
            postgresql_where=_FIRST,
            sqlite_where=_FIRST,
        ),
        Index("uq_webhook_event_delivery", "delivery_id", "position", unique=True),
        Index(
            "ix_webhook_event_due",
            *("org", "due_at", "id"),
            postgresql_where=_PENDING,
            sqlite_where=_PENDING,
        ),
        Index(
            "ix_webhook_event_waiting",
            *("org", "entity", "entity_id", "id"),
            postgresql_where=_PENDING,
            sqlite_where=_PENDING,
        ),
        Index("ix_webhook_event_dead", "org", "id", postgresql_where=_DEAD, sqlite_where=_DEAD),
        Index("ix_webhook_event_entity", "org", "entity", "entity_id", "occurred_at"),
    )
    id: int | None = id_column()
    delivery_id: str = text_column()
    position: int = number_column(null=False)
    org: str = text_column()
    entity: str = text_column()
    action: str = text_column()
    entity_id: str = text_column()
    parent: str | None = text_column(null=True)
    occurred_at: datetime | None = time_column(null=True)
    received_at: datetime = time_column()
    unique_key: str = text_column()
    payload: Any = json_column()
    state: str = text_column()
    attempts: int = counter_column()
    due_at: float = seconds_column()
    reason: str | None = text_column(null=True)
    settled_at: datetime | None = time_column(null=True)
    outcome: str | None = text_column(null=True)
    reference: str | None = text_column(null=True)


class BacklogTurnRow(StoreModel, table=True):
    """Who works off an org's events, and until when; before `not_before` nobody does, for the reason given."""

    __tablename__ = "backlog_turn"
    org: str = text_column(primary_key=True)
    owner: str = text_column()
    until: float = seconds_column()
    serial: int = counter_column()
    not_before: float = seconds_column()
    reason: str | None = text_column(null=True)
    served_at: float = seconds_column()
