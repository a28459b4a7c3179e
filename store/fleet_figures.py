"""The figures of a whole installation, for its dashboard: each over an index, none of them grows with what is done."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, and_, func, literal_column, or_, select

from store.completeness import latest_completeness
from store.connection_records import PAIR, ConnectionState
from store.database import Database
from store.dbclock import SecondsClock, clock_expression
from store.gauges import Gauges, read_gauges
from store.inbox import EVENTS
from store.tables import Connection, RateBudgetRow, table_of

_CONNECTION = table_of(Connection)
_BUDGET = table_of(RateBudgetRow)
# Written out, not a parameter: the database must see that the partial index fits.
_IS_PENDING = EVENTS.c.state == literal_column("'pending'")
LOW = 0.99
"""A share of changes under which webhooks are not complete enough."""
_WORKING = (ConnectionState.CONNECTED.value, ConnectionState.DEGRADED.value)


@dataclass(frozen=True, slots=True)
class Stop:
    """A key of the request budget that is stopped: which, for how many seconds yet, and why."""

    key: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """What waits and what is late, at one moment.

    Attributes:
        waiting: what waits and what was given up.
        due_seconds: for how long the event that has been due for longest has waited; 0 if none is due.
        changes: of all connected orgs that were compared lately: what had changed at Kommo.
        arrived: of these, what had come by webhook.
        incomplete: of these orgs, those under LOW, the lowest first, each with its share.
        stops: what is stopped in the request budget.
        refreshes_late: connections whose access token has ended though it could be refreshed.
        syncs_late: connections that work and were not read for too long, or never.
    """

    waiting: Gauges
    due_seconds: float
    changes: int
    arrived: int
    incomplete: list[tuple[str, float]]
    stops: list[Stop]
    refreshes_late: int
    syncs_late: int

    @property
    def dead(self) -> int:
        """All that was given up, of webhooks and for the product."""
        return self.waiting.dead + self.waiting.unreadable + self.waiting.outbox.get("dead", 0)

    @property
    def completeness(self) -> float | None:
        """The share of changes that had come by webhook; None if nothing was compared."""
        return self.arrived / self.changes if self.changes else None


async def read_figures(
    db: Database,
    *,
    sync_within: timedelta,
    compared_within: timedelta,
    now: datetime,
    seconds: SecondsClock = time.time,
) -> FleetFigures:
    """Read the figures.

    Args:
        db: the store.
        sync_within: a connection that was not read for so long is late.
        compared_within: a comparison that is older says nothing of today.
        now: the present time.
        seconds: seconds since 1970, used on SQLite.
    """
    waiting = await read_gauges(db)
    measured = await latest_completeness(db)
    works = _CONNECTION.c.state.in_(_WORKING)
    async with db.read() as connection:
        clock = clock_expression(connection, seconds)
        due = select(clock - func.min(EVENTS.c.due_at)).where(_IS_PENDING, EVENTS.c.due_at <= clock)
        due_seconds = (await connection.execute(due)).scalar() or 0.0
        left = _BUDGET.c.blocked_until - clock
        stops = (
            await connection.execute(
                select(_BUDGET.c.key, left, _BUDGET.c.blocked_reason)
                .where(left > 0.0)
                .order_by(_BUDGET.c.key)
            )
        ).all()
        ended = and_(works, _CONNECTION.c.token_kind == PAIR, _CONNECTION.c.expires_at < now)
        unread = and_(
            works,
            _CONNECTION.c.created_at < now - sync_within,
            or_(_CONNECTION.c.last_synced_at.is_(None), _CONNECTION.c.last_synced_at < now - sync_within),
        )
        late = [(await connection.execute(_count(which))).scalar_one() for which in (ended, unread)]
        orgs = set((await connection.execute(select(_CONNECTION.c.org).where(works))).scalars())
    lately = [
        one
        for one in measured.values()
        if one.org in orgs and one.changes and one.until > now - compared_within
    ]
    return FleetFigures(
        waiting=waiting,
        due_seconds=max(0.0, float(due_seconds)),
        changes=sum(one.changes for one in lately),
        arrived=sum(one.arrived for one in lately),
        incomplete=sorted(
            ((one.org, one.share) for one in lately if one.share < LOW),
            key=lambda found: (found[1], found[0]),
        ),
        stops=[Stop(key, float(rest), reason or "") for key, rest, reason in stops],
        refreshes_late=late[0],
        syncs_late=late[1],
    )


def _count(which: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(_CONNECTION).where(which)
