"""The request budget: one row per key, shared by all processes of an installation (design.md §4.3)."""

from typing import Any

from store.tables.base import StoreModel, json_column, seconds_column, text_column


class RateBudgetRow(StoreModel, table=True):
    """One key.

    `next_at`: when its pace allows the next request; `recent`: the last places that were granted, in seconds since
    1970, the newest of them ahead of the clock; `blocked_until`: nothing may start before.
    """

    __tablename__ = "rate_budget"
    key: str = text_column(primary_key=True)
    next_at: float = seconds_column()
    recent: Any = json_column()
    blocked_until: float = seconds_column()
    blocked_reason: str | None = text_column(null=True)
