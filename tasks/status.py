"""How connections stand, for `kommo status` and whoever else asks: plain values, no secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from store.claims import held_orgs
from store.completeness import Completeness, latest_completeness, list_completeness
from store.connections import ConnectionRecord, ConnectionState, get_connection, list_connections
from store.database import Database
from store.fleet_view import FleetRow, FleetTotals, FleetView, fleet_page, fleet_totals
from store.runs import latest_run, latest_runs
from store.subscriptions import Subscription, get_subscription, subscriptions_of
from tasks.next_steps import next_step

__all__ = ["FleetLook", "FleetView", "fleet_status", "look_at_fleet", "org_status", "page_of_status"]

_PAGE = 500


@dataclass(frozen=True)
class FleetLook:
    """What one look at a fleet gives: the wanted connections, how many there are of them, and the whole in numbers."""

    connections: list[dict[str, Any]]
    found: int
    totals: FleetTotals


async def fleet_status(database: Database) -> list[dict[str, Any]]:
    """Every connection, in the order of the orgs."""
    return (await look_at_fleet(database)).connections


async def look_at_fleet(database: Database, view: FleetView | None = None) -> FleetLook:
    """The connections of a fleet that somebody wants to see, each with why, since when and what to do.

    Args:
        database: the store.
        view: which, and in what order; all by default.

    Raises:
        ValueError: its `sort` is none that there is.
    """
    page = await fleet_page(database, view or FleetView())
    # Of a short page only what belongs to it; for a whole fleet its names would be a longer question than all.
    orgs = [row.record.org for row in page.rows] if len(page.rows) <= _PAGE else None
    hooks = await subscriptions_of(database, orgs)
    measured = await latest_completeness(database, orgs)
    return FleetLook(
        [_fleet_row(row, hooks.get(row.record.org), measured.get(row.record.org)) for row in page.rows],
        page.found,
        await fleet_totals(database),
    )


def _fleet_row(row: FleetRow, hooks: Subscription | None, measured: Completeness | None) -> dict[str, Any]:
    record = row.record
    claims = {} if row.refreshing_since is None else {record.org: row.refreshing_since}
    return {
        **_shown(record, claims),
        "webhooks": _webhooks(hooks, measured),
        "broken": row.broken,
        "next_step": next_step(record.org, record.state, record.host, hooks.state if hooks else None),
        "backlog": {"pending": row.pending, "oldest_received_at": row.oldest_received_at},
    }


async def page_of_status(
    database: Database, *, orgs: Sequence[str] | None = None, after: str | None = None, limit: int = 100
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of connections with their newest runs, in the order of the orgs, and where the next page begins.

    Args:
        database: the store.
        orgs: only these.
        after: the end of the page before.
        limit: at most so many.
    """
    page = await list_connections(database, after=after, limit=limit, orgs=orgs)
    shown = [record.org for record in page.items]
    claims = await held_orgs(database)
    hooks = await subscriptions_of(database, shown)
    measured = await latest_completeness(database, shown)
    runs = await latest_runs(database, shown)
    found = [
        {
            **_shown(record, claims),
            "webhooks": _webhooks(hooks.get(record.org), measured.get(record.org)),
            "last_run": asdict(runs[record.org]) if record.org in runs else None,
        }
        for record in page.items
    ]
    return found, page.next_after


async def org_status(database: Database, org: str) -> dict[str, Any]:
    """One connection, its newest run, and what that run made of each kind.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    record = await get_connection(database, org)
    run = await latest_run(database, org)
    measured = await list_completeness(database, org, limit=1)
    return {
        **_shown(record, await held_orgs(database)),
        "webhooks": _webhooks(await get_subscription(database, org), measured[0] if measured else None),
        "last_run": None if run is None else asdict(run),
    }


def _webhooks(subscription: Subscription | None, measured: Completeness | None) -> dict[str, Any] | None:
    """How an org's webhooks stand, and what part of its changes had come by them; None if nothing is known."""
    if subscription is None and measured is None:
        return None
    return {
        "state": None if subscription is None else subscription.state,
        "reason": None if subscription is None else subscription.reason,
        "checked_at": None if subscription is None else subscription.checked_at,
        "completeness": None
        if measured is None
        else {
            "share": measured.share,
            "whole": measured.whole,
            **{
                name: getattr(measured, name) for name in ("changes", "arrived", "repaired", "since", "until")
            },
        },
    }


def _shown(record: ConnectionRecord, claims: Mapping[str, datetime]) -> dict[str, Any]:
    """A connection as it is at this moment: `refreshing` is what its claim says, and is not stored twice."""
    shown = asdict(record)
    if record.state == ConnectionState.DISCONNECTED:
        shown["expires_at"] = None  # of a token that is no longer here
    if record.org in claims and record.state in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}:
        shown |= {"state": ConnectionState.REFRESHING.value, "state_since": claims[record.org]}
    return shown
