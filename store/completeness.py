"""Webhook completeness: of the changes that the API knows, how many had come by webhook (W5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.tables import WebhookCompletenessRow, table_of

_TABLE = table_of(WebhookCompletenessRow)
# A gap is closed by the next comparison that goes by itself, so that it need not be looked for far back.
REMEMBERED = 200


@dataclass(frozen=True, slots=True)
class Completeness:
    """One comparison of an org's webhooks with the API. Times are aware and UTC.

    Attributes:
        org: the product's tenant.
        since: beginning of the time that was compared.
        until: its end.
        changes: what changed in it, as the API says.
        arrived: of these, what webhooks had told.
        repaired: of these, what the mirror did not have yet.
        by_entity: the same three numbers for each entity, and whether all of it could be compared (`whole`).
        measured_at: when it was compared.
    """

    org: str
    since: datetime
    until: datetime
    changes: int
    arrived: int
    repaired: int
    by_entity: Mapping[str, Any]
    measured_at: datetime

    @property
    def share(self) -> float:
        """What part of the changes had come by webhook; 1 where nothing changed."""
        return self.arrived / self.changes if self.changes else 1.0

    @property
    def whole(self) -> bool:
        """Whether all could be compared: if not, the share is that of the rest."""
        return all(count.get("whole", True) for count in self.by_entity.values())


async def save_completeness(connection: AsyncConnection, measured: Completeness) -> None:
    """Write a comparison, inside another transaction."""
    await connection.execute(
        _TABLE.insert().values(
            org=measured.org,
            since=measured.since,
            until=measured.until,
            changes=measured.changes,
            arrived=measured.arrived,
            repaired=measured.repaired,
            by_entity=dict(measured.by_entity),
            measured_at=measured.measured_at,
        )
    )


async def list_completeness(db: Database, org: str, *, limit: int = 100) -> list[Completeness]:
    """An org's comparisons, newest first."""
    query = select(*_columns()).where(_TABLE.c.org == org).order_by(_TABLE.c.id.desc()).limit(limit)
    async with db.read() as connection:
        return [Completeness(**row) for row in (await connection.execute(query)).mappings()]


async def complete_until(
    db: Database, org: str, now: datetime, begin: datetime | None = None
) -> datetime | None:
    """The end of an org's unbroken comparisons, None if there is none: what is behind a gap does not count.

    Args:
        db: the store.
        org: the product's tenant.
        now: the present time; a comparison that ends after it was made by a clock that was wrong, and does not count.
        begin: from when on there was something to compare, if that is known.
    """
    query = (
        select(_TABLE.c.since, _TABLE.c.until)
        .where(_TABLE.c.org == org, _TABLE.c.until <= now)
        .order_by(_TABLE.c.id.desc())
        .limit(REMEMBERED)
    )
    async with db.read() as connection:
        rows = list(await connection.execute(query))
    whole = len(rows) < REMEMBERED
    end: datetime | None = None
    for since, until in reversed(rows):
        # The whole second was compared; seconds are what Kommo counts in.
        reached = end or (begin if whole and begin is not None else since)
        if since <= reached + timedelta(seconds=1):
            end = until if end is None else max(end, until)
    return end


async def latest_completeness(db: Database, orgs: Sequence[str] | None = None) -> dict[str, Completeness]:
    """The newest comparison of each org, or of each of these."""
    newest = select(func.max(_TABLE.c.id)).group_by(_TABLE.c.org)
    if orgs is not None:
        newest = newest.where(_TABLE.c.org.in_(orgs))
    query = select(*_columns()).where(_TABLE.c.id.in_(newest))
    async with db.read() as connection:
        return {row["org"]: Completeness(**row) for row in (await connection.execute(query)).mappings()}


def _columns() -> list[Any]:
    return [column for column in _TABLE.c if column.name != "id"]
