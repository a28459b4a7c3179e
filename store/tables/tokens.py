"""The chain of token pairs, sealed, and the claim that lets one process at a time refresh (design.md §4.2)."""

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy import text as sql

from store.tables.base import (
    StoreModel,
    counter_column,
    id_column,
    number_column,
    seconds_column,
    text_column,
    time_column,
)

_WAITING = sql("promoted_at IS NULL AND dead_at IS NULL")


class TokenJournalRow(StoreModel, table=True):
    """One pair that Kommo gave, sealed. `used` names what it was got with: a pair before it, or a code.

    `promoted_at`: since when it is (or was) in the block; `dead_at`: since when Kommo finally refuses it.
    """

    __tablename__ = "token_journal"
    __table_args__ = (
        Index("uq_token_journal_org_fingerprint", "org", "fingerprint", unique=True),
        Index("ix_token_journal_org_used", "org", "used"),
        Index("ix_token_journal_waiting", "org", postgresql_where=_WAITING, sqlite_where=_WAITING),
    )
    id: int | None = id_column()
    org: str = text_column()
    used: str = text_column()
    fingerprint: str = text_column()
    sealed: str = text_column()
    host: str = text_column()
    account_id: int | None = number_column()
    expires_at: datetime | None = time_column(null=True)
    created_at: datetime = time_column()
    promoted_at: datetime | None = time_column(null=True)
    dead_at: datetime | None = time_column(null=True)


class RefreshClaimRow(StoreModel, table=True):
    """Who may refresh an org's tokens, until when, and how far the last one came. It outlives every holder."""

    __tablename__ = "refresh_claim"
    org: str = text_column(primary_key=True)
    owner: str = text_column()
    until: float = seconds_column()
    serial: int = counter_column()
    step: str = text_column()
    used: str | None = text_column(null=True)
    changed_at: datetime = time_column()
