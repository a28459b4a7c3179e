"""Connections: which org is joined to which Kommo account, and how it stands; no secrets."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index

from store.tables.base import StoreModel, json_column, number_column, text_column, time_column


class Connection(StoreModel, table=True):
    """One org's connection to Kommo, without its secrets."""

    __tablename__ = "connection"
    __table_args__ = (
        Index("ix_connection_state_org", "state", "org"),
        Index("ix_connection_account", "account_id"),
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
