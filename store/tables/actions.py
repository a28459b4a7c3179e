"""The journal of actions: what the product asked to be done at Kommo, one row for each (R3)."""

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


class ActionRow(StoreModel, table=True):
    """One action. `state`: `intended`, `sent`, `confirmed`, `failed` or `unknown`.

    `owner` and `until` are the lease of the process that works on it; `due_at` is when it may be taken up again.
    `twin` names what a second, equal action could not be told from at Kommo: of one twin at most one row is `sent`.
    `made` names what Kommo made for it, so that two actions are never settled on the same thing.
    """

    __tablename__ = "action"
    __table_args__ = (
        Index("uq_action_action_id", "action_id", unique=True),
        Index("uq_action_key", "org", "idempotency_key", unique=True),
        Index(
            "uq_action_in_flight",
            "org",
            "twin",
            unique=True,
            postgresql_where=sql("state = 'sent'"),
            sqlite_where=sql("state = 'sent'"),
        ),
        Index(
            "uq_action_made",
            "org",
            "made",
            unique=True,
            postgresql_where=sql("made IS NOT NULL"),
            sqlite_where=sql("made IS NOT NULL"),
        ),
        Index("ix_action_org_id", "org", "id"),
        Index("ix_action_twin", "org", "twin", "id"),
        Index(
            "ix_action_open",
            "due_at",
            "id",
            postgresql_where=sql("state IN ('intended', 'sent', 'unknown')"),
            sqlite_where=sql("state IN ('intended', 'sent', 'unknown')"),
        ),
        Index("ix_action_state_id", "state", "id"),
    )
    id: int | None = id_column()
    action_id: str = text_column()
    org: str = text_column()
    kind: str = text_column()
    idempotency_key: str = text_column()
    digest: str = text_column()
    request: Any = json_column()
    plan: Any = json_column()
    twin: str = text_column()
    state: str = Field(sa_type=CleanText, nullable=False)
    result: Any = json_column(null=True)
    made: str | None = text_column(null=True)
    reason: str | None = text_column(null=True)
    reason_code: str | None = text_column(null=True)
    attempts: int = counter_column()
    owner: str = text_column()
    until: float = seconds_column()
    due_at: float = seconds_column()
    created_at: datetime = time_column()
    updated_at: datetime = time_column()
    sent_at: datetime | None = time_column(null=True)
