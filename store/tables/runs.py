"""Runs and what each of them saved: the index of the history."""

from datetime import datetime

from sqlalchemy import Index
from sqlmodel import Field

from store.tables.base import StoreModel, number_column, text_column, time_column
from store.types import CleanText


class SyncRun(StoreModel, table=True):
    """One run that reads an account. Counts that matter live here, not in Prefect's task history."""

    __tablename__ = "sync_run"
    __table_args__ = (Index("ix_sync_run_org_started", "org", "started_at"),)
    run_id: str = text_column(primary_key=True)
    org: str = text_column()
    scope: str = text_column()
    flow_run_id: str | None = text_column(null=True)
    state: str = text_column()
    started_at: datetime = time_column()
    finished_at: datetime | None = time_column(null=True)
    requests: int = number_column(null=False)
    reason: str | None = text_column(null=True)


class Snapshot(StoreModel, table=True):
    """What one run saved of one kind, or why it did not."""

    __tablename__ = "snapshot"
    __table_args__ = (Index("ix_snapshot_org_kind_taken", "org", "kind", "taken_at"),)
    run_id: str = Field(sa_type=CleanText, primary_key=True, foreign_key="sync_run.run_id")
    kind: str = text_column(primary_key=True)
    org: str = text_column()
    state: str = text_column()
    taken_at: datetime = time_column()
    read_started_at: datetime | None = time_column(null=True)
    items: int = number_column(null=False)
    added: int = number_column(null=False)
    changed: int = number_column(null=False)
    removed: int = number_column(null=False)
    reason: str | None = text_column(null=True)


class SnapshotHead(StoreModel, table=True):
    """The newest saved snapshot of a kind, and the row that a save locks: saves of one kind go one by one."""

    __tablename__ = "snapshot_head"
    org: str = text_column(primary_key=True)
    kind: str = text_column(primary_key=True)
    taken_at: datetime | None = time_column(null=True)
    read_started_at: datetime | None = time_column(null=True)
    run_id: str | None = text_column(null=True)
