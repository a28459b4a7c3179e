"""Connections: which org is joined to which Kommo account, and how it stands; no secrets."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index

from store.tables.base import (
    StoreModel,
    counter_column,
    json_column,
    number_column,
    text_column,
    time_column,
)


class Connection(StoreModel, table=True):
    """One org's connection to Kommo, without its secrets.

    `token_fingerprint` is that of the pair last known as the current one, NULL for a long-lived token;
    `token_serial` counts the tokens that it has had, pairs and long-lived ones, `refresh_attempts` the failures in a
    row. Before `next_refresh_at` nobody tries to refresh again. `slot` is a hash of the org's name (`store.shards`);
    at `drifted_at` a sync last found a change that breaks somebody.
    """

    __tablename__ = "connection"
    __table_args__ = (
        Index("ix_connection_state_org", "state", "org"),
        Index("ix_connection_account", "account_id"),
        Index("ix_connection_due", "token_kind", "state", "next_refresh_at"),
        Index("ix_connection_fleet", "state", "slot"),
    )
    org: str = text_column(primary_key=True)
    provider: str = text_column()
    block_name: str = text_column()
    host: str = text_column()
    account_id: int | None = number_column()
    account_name: str | None = text_column(null=True)
    subdomain: str | None = text_column(null=True)
    token_kind: str = text_column()
    expires_at: datetime | None = time_column(null=True)
    scopes: Any = json_column()
    state: str = text_column()
    reason: str | None = text_column(null=True)
    state_since: datetime = time_column()
    last_sync_run_id: str | None = text_column(null=True)
    last_synced_at: datetime | None = time_column(null=True)
    created_at: datetime = time_column()
    updated_at: datetime = time_column()
    token_fingerprint: str | None = text_column(null=True)
    token_serial: int = counter_column()
    refreshed_at: datetime | None = time_column(null=True)
    refresh_attempts: int = counter_column()
    next_refresh_at: datetime | None = time_column(null=True)
    reason_code: str | None = text_column(null=True)
    slot: int = counter_column()
    drifted_at: datetime | None = time_column(null=True)
