"""Whose turn it is to sync an org with the rest of the fleet."""

from store.tables.base import StoreModel, seconds_column, text_column


class SyncTurnRow(StoreModel, table=True):
    """Who syncs an org as a part of the fleet, and until when; what came of it is in `sync_run`."""

    __tablename__ = "sync_turn"
    org: str = text_column(primary_key=True)
    owner: str = text_column()
    until: float = seconds_column()
    taken_at: float = seconds_column()
