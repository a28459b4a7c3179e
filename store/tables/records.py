"""The records themselves, as last read, and how completely webhooks tell of their changes."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from store.tables.base import (
    StoreModel,
    counter_column,
    id_column,
    json_column,
    number_column,
    text_column,
    time_column,
)


class RecordRow(StoreModel, table=True):
    """One record (a lead, a contact, a note, an event …), as the API gave it. `state`: `present`, `deleted`, `missing`.

    `read_at` is when that was asked for, `source` what made us ask: `webhook`, `reconcile` or `sync`. Where Kommo's own
    key is a text, it is in `key`, and `record_id` is made from it. `parent_entity` and `parent_id` are what a task, a
    note or an event belongs to, `type` is which sort of it. `clean` is the JSON without what SQL cannot read (NUL, half
    surrogates), and NULL where `raw` has nothing of the kind: the views read COALESCE(clean, raw).
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
    price: int | None = number_column()
    closed_at: datetime | None = time_column(null=True)
    parent_entity: str | None = text_column(null=True)
    parent_id: int | None = number_column()
    type: str | None = text_column(null=True)
    key: str | None = text_column(null=True)
    clean: Any = json_column(null=True)


class RecordSyncRow(StoreModel, table=True):
    """How far one kind of records has been read, and until when it is known to be complete.

    `state`: `running`, `complete` or `failed`; `position` is what is left to read once the last committed page counts,
    `watermark` (Kommo's clock, Unix seconds) the moment from which the next incremental reading has to begin.
    """

    __tablename__ = "record_sync"
    org: str = text_column(primary_key=True)
    entity: str = text_column(primary_key=True)
    mode: str = text_column()
    state: str = text_column()
    run_id: str = text_column()
    started_at: datetime = time_column()
    finished_at: datetime | None = time_column(null=True)
    completed_at: datetime | None = time_column(null=True)
    watermark: int | None = number_column()
    seen_until: int | None = number_column()
    position: Any = json_column(null=True)
    pages: int = counter_column()
    records: int = counter_column()
    requests: int = counter_column()
    resumed: int = counter_column()
    reason: str | None = text_column(null=True)


class RecordHistoryRow(StoreModel, table=True):
    """A kind of an org's records whose history is kept, and since when."""

    __tablename__ = "record_history"
    org: str = text_column(primary_key=True)
    entity: str = text_column(primary_key=True)
    since: datetime = time_column()


class RecordVersionRow(StoreModel, table=True):
    """What a record was until something else was known of it, where history is kept.

    `known_until` is when that became known here, by our clock; the other columns are those of `record`.
    """

    __tablename__ = "record_version"
    __table_args__ = (Index("ix_record_version_record", "org", "entity", "record_id", "id"),)
    id: int | None = id_column()
    org: str = text_column()
    entity: str = text_column()
    record_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    responsible_user_id: int | None = number_column()
    status_id: int | None = number_column()
    pipeline_id: int | None = number_column()
    price: int | None = number_column()
    updated_at: datetime | None = time_column(null=True)
    raw: Any = json_column()
    clean: Any = json_column(null=True)
    state: str = text_column()
    state_since: datetime = time_column()
    read_at: datetime = time_column()
    source: str = text_column()
    known_until: datetime = time_column()


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
