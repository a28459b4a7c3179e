"""A whole fleet at one look: which connections are broken, in whatever order somebody wants to see them.

Two statements however many orgs there are: one counts, one gives a page. What is shown beside a connection (its
webhooks, its newest comparison, its backlog) is joined for the rows of that page, and for all only when it is what they
are put in order by.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, case, func, literal, literal_column, or_, select

from store.claims import held_orgs
from store.connection_records import ConnectionRecord, ConnectionState, to_record
from store.database import Database
from store.dbclock import SecondsClock
from store.inbox import EVENTS
from store.subscriptions import SubscriptionState
from store.tables import Connection, WebhookSubscriptionRow, table_of

_CONNECTION = table_of(Connection)
_HOOKS = table_of(WebhookSubscriptionRow)
# Written out, not a parameter: the database must see that the partial index fits.
_IS_PENDING = EVENTS.c.state == literal_column("'pending'")

SORTS = ("state", "org", "since", "backlog", "synced")
"""What a fleet may be put in order by: the broken ones first; by name; broken for longest first; the oldest waiting
event first; read longest ago (or never) first."""
BROKEN = (
    ConnectionState.REAUTHORIZATION_REQUIRED,
    ConnectionState.FAILED,
    ConnectionState.OUTCOME_UNKNOWN,
    ConnectionState.DEGRADED,
)
"""The states of a connection that is broken, the worst first. One that was ended is not broken."""
DEAF = (SubscriptionState.DISABLED, SubscriptionState.MISSING)
"""The states of a subscription that should be on and is not: such a connection is broken as well."""
_RANKS = {state.value: rank for rank, state in enumerate(BROKEN)}
_DEAF_RANK, _WELL_RANK, _ENDED_RANK = len(_RANKS), len(_RANKS) + 1, len(_RANKS) + 2


@dataclass(frozen=True, slots=True)
class FleetView:
    """Which connections of a fleet are wanted (all of what is given must hold), and which part in what order.

    Attributes:
        states: only those in one of these states; `refreshing` are those whose claim is held now.
        broken: only those that are broken.
        search: only those with this text in the org, the account's name, its host or the reason; capitals or not.
        sort: one of SORTS.
        limit: at most so many; None for all.
        offset: so many are left out at the beginning.
    """

    states: Collection[str] = ()
    broken: bool = False
    search: str | None = None
    sort: str = "org"
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class FleetTotals:
    """How many connections there are.

    Attributes:
        states: of each state, as it is stored.
        deaf: of those that are well otherwise: how many have a subscription that should be on and is not.
    """

    states: dict[str, int]
    deaf: int

    @property
    def connected(self) -> int:
        """All but those that were ended."""
        return sum(self.states.values()) - self.ended

    @property
    def ended(self) -> int:
        """Those that were."""
        return self.states.get(ConnectionState.DISCONNECTED, 0)

    def broken_states(self) -> dict[str, int]:
        """Those that are broken, by state, the worst first; `webhooks off` where nothing else is wrong."""
        counts = {state.value: self.states.get(state, 0) for state in BROKEN} | {"webhooks off": self.deaf}
        return {name: count for name, count in counts.items() if count}

    @property
    def broken(self) -> int:
        """Those that do not work as they should."""
        return sum(self.states.get(state, 0) for state in BROKEN) + self.deaf

    @property
    def well(self) -> int:
        """Those that do."""
        return self.connected - self.broken


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One connection of a page.

    Attributes:
        record: the connection, as it is stored.
        refreshing_since: since when its pair is being replaced; None if it is not.
        broken: whether it is.
        pending: events that wait to be worked off.
        oldest_received_at: when the oldest of them came.
    """

    record: ConnectionRecord
    refreshing_since: datetime | None
    broken: bool
    pending: int
    oldest_received_at: datetime | None


@dataclass(frozen=True, slots=True)
class FleetPage:
    """A page, and how many connections there are on all pages."""

    rows: list[FleetRow]
    found: int


async def fleet_totals(db: Database) -> FleetTotals:
    """How many connections are in each state."""
    states = select(_CONNECTION.c.state, func.count()).group_by(_CONNECTION.c.state)
    deaf = _joined(select(func.count())).where(_is_deaf())
    async with db.read() as connection:
        counted = {row[0]: row[1] for row in await connection.execute(states)}
        return FleetTotals(counted, (await connection.execute(deaf)).scalar_one())


async def fleet_page(db: Database, view: FleetView, *, now: SecondsClock = time.time) -> FleetPage:
    """A page of a fleet.

    Args:
        db: the store.
        view: which part.
        now: seconds since 1970, used on SQLite.

    Raises:
        ValueError: its `sort` is not one of SORTS.
    """
    if view.sort not in SORTS:
        raise ValueError(f"A fleet is put in order by one of: {', '.join(SORTS)}.")
    held = await held_orgs(db, now=now)
    conditions = _conditions(view, held)
    waiting = (
        select(
            EVENTS.c.org,
            func.count().label("pending"),
            func.min(EVENTS.c.received_at).label("oldest_received_at"),
        )
        .where(_IS_PENDING)
        .group_by(EVENTS.c.org)
        .subquery("waiting")
    )
    page = (
        _joined(
            select(_CONNECTION, _is_broken().label("broken"), waiting.c.pending, waiting.c.oldest_received_at)
        )
        .outerjoin(waiting, waiting.c.org == _CONNECTION.c.org)
        .where(*conditions)
        .order_by(*_order(view.sort, waiting.c.oldest_received_at))
        .offset(view.offset)
    )
    if view.limit is not None:
        page = page.limit(view.limit)
    elif view.offset and db.dialect == "sqlite":
        page = page.limit(-1)  # SQLite knows OFFSET only beside LIMIT
    count = _joined(select(func.count())).where(*conditions)
    async with db.read() as connection:
        found = (await connection.execute(count)).scalar_one()
        rows = [_row(row, held) for row in (await connection.execute(page)).mappings()]
    return FleetPage(rows, found)


def _joined(query: Select[Any]) -> Select[Any]:
    return query.select_from(_CONNECTION).outerjoin(_HOOKS, _HOOKS.c.org == _CONNECTION.c.org)


def _is_deaf() -> ColumnElement[bool]:
    """Well but for its webhooks."""
    return (_CONNECTION.c.state == ConnectionState.CONNECTED.value) & func.coalesce(
        _HOOKS.c.state.in_([state.value for state in DEAF]), literal_column("false")
    )


def _is_broken() -> ColumnElement[bool]:
    return or_(_CONNECTION.c.state.in_([state.value for state in BROKEN]), _is_deaf())


def _conditions(wanted: FleetView, held: Collection[str]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.broken:
        conditions.append(_is_broken())
    if wanted.states:
        which = [_CONNECTION.c.state.in_(list(wanted.states))]
        if ConnectionState.REFRESHING in wanted.states:
            which.append(_CONNECTION.c.org.in_(sorted(held)))
        conditions.append(or_(*which))
    if wanted.search:
        text = wanted.search.lower()
        conditions.append(
            or_(
                *(
                    func.lower(column).contains(text, autoescape=True)
                    for column in (
                        _CONNECTION.c.org,
                        _CONNECTION.c.account_name,
                        _CONNECTION.c.host,
                        _CONNECTION.c.reason,
                    )
                )
            )
        )
    return conditions


def _order(sort: str, oldest: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    rank = case(
        *((_CONNECTION.c.state == state, literal(number)) for state, number in _RANKS.items()),
        (_is_deaf(), literal(_DEAF_RANK)),
        (_CONNECTION.c.state == ConnectionState.DISCONNECTED.value, literal(_ENDED_RANK)),
        else_=literal(_WELL_RANK),
    )
    broken_first = case((_is_broken(), literal(0)), else_=literal(1))
    orders: dict[str, list[ColumnElement[Any]]] = {
        "state": [rank],
        "org": [],
        "since": [broken_first, _CONNECTION.c.state_since],
        "backlog": [oldest.asc().nulls_last()],
        "synced": [_CONNECTION.c.last_synced_at.asc().nulls_first()],
    }
    return [*orders[sort], _CONNECTION.c.org]


def _row(row: RowMapping, held: dict[str, datetime]) -> FleetRow:
    broken, pending, oldest = (row[name] for name in ("broken", "pending", "oldest_received_at"))
    record = to_record(row)
    working = record.state in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}
    return FleetRow(
        record,
        held.get(record.org) if working else None,
        bool(broken),
        pending or 0,
        oldest,
    )
