"""The records themselves, as last read, and how completely webhooks tell of their changes."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from store.tables.base import StoreModel, id_column, json_column, number_column, text_column, time_column


class RecordRow(StoreModel, table=True):
    """One lead, contact, company or task, as the API gave it. `state`: `present`, `deleted` or `missing`.

    `read_at` is when that was asked for, `source` what made us ask: `webhook`, `reconcile` or `sync`.
    """

    __tablename__ = "record"
    org: str = text_column(primary_key=True)
    entity: str = text_column(primary_key=True)
    record_id: int = Field(sa_type=BigInteger, nullable=False, primary_key=True)
    name: str | None = text_column(null=True)
    responsible_user_id: int | None = number_column()
    status_id: int | None = number_column()
    pipeline_id: int | None = number_column()
    created_at: datetime | None = time_column(null=True)
    updated_at: datetime | None = time_column(null=True)
    raw: Any = json_column()
    digest: str = text_column()
    state: str = text_column()
    state_since: datetime = time_column()
    read_at: datetime = time_column()
    source: str = text_column()


class WebhookCompletenessRow(StoreModel, table=True):
    """Of the changes in a time, how many had come by webhook, and how many had to be repaired."""

    __tablename__ = "webhook_completeness"
    __table_args__ = (Index("ix_webhook_completeness_org_id", "org", "id"),)
    id: int | None = id_column()
    org: str = text_column()
    since: datetime = time_column()
    until: datetime = time_column()
    changes: int = number_column(null=False)
    arrived: int = number_column(null=False)
    repaired: int = number_column(null=False)
    by_entity: Any = json_column()
    measured_at: datetime = time_column()


class WebhookSubscriptionRow(StoreModel, table=True):
    """An org's subscription at Kommo. `state`: `on`, `off`, `disabled` (by Kommo) or `missing`."""

    __tablename__ = "webhook_subscription"
    org: str = text_column(primary_key=True)
    key_hash: str | None = text_column(null=True)
    destination_host: str | None = text_column(null=True)
    settings: Any = json_column()
    state: str = text_column()
    reason: str | None = text_column(null=True)
    checked_at: datetime = time_column()
    disabled_seen_at: datetime | None = time_column(null=True)
