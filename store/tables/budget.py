"""The request budget: one row per key, shared by all processes of an installation (design.md §4.3)."""

from store.tables.base import StoreModel, seconds_column, text_column


class RateBudgetRow(StoreModel, table=True):
    """`next_at`: when the next request on this key may start; `blocked_until`: nothing may start before."""

    __tablename__ = "rate_budget"
    key: str = text_column(primary_key=True)
    next_at: float = seconds_column()
    blocked_until: float = seconds_column()
    blocked_reason: str | None = text_column(null=True)
