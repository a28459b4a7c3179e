"""Who may come in: consents that have been begun, and the product's keys. Hashes only."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index

from store.tables.base import StoreModel, json_column, text_column, time_column


class OAuthStateRow(StoreModel, table=True):
    """A consent that somebody began: the state sent to Kommo, hashed, and whom it is bound to."""

    __tablename__ = "oauth_state"
    __table_args__ = (Index("ix_oauth_state_expires_at", "expires_at"),)
    state_hash: str = text_column(primary_key=True)
    org: str = text_column()
    provider: str = text_column()
    redirect_uri: str = text_column()
    base_domain: str | None = text_column(null=True)
    mode: str = text_column()
    browser_hash: str | None = text_column(null=True)
    return_to: str | None = text_column(null=True)
    created_at: datetime = time_column()
    expires_at: datetime = time_column()
    used_at: datetime | None = time_column(null=True)


class ApiKeyRow(StoreModel, table=True):
    """A key of the product. `orgs` NULL: it may act for every org."""

    __tablename__ = "api_key"
    __table_args__ = (Index("uq_api_key_hash", "hash", unique=True),)
    key_id: str = text_column(primary_key=True)
    name: str = text_column()
    hash: str = text_column()
    orgs: Any = json_column(null=True)
    created_at: datetime = time_column()
    revoked_at: datetime | None = time_column(null=True)
    last_used_at: datetime | None = time_column(null=True)
