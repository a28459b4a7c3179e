"""How connections stand, for `kommo status` and whoever else asks: plain values, no secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from store.claims import held_orgs
from store.completeness import Completeness, latest_completeness, list_completeness
from store.connections import ConnectionRecord, ConnectionState, get_connection, list_connections
from store.database import Database
from store.runs import latest_run, latest_runs
from store.subscriptions import Subscription, get_subscription, list_subscriptions, subscriptions_of

_PAGE = 500


async def fleet_status(database: Database) -> list[dict[str, Any]]:
    """Every connection, in the order of the orgs."""
    found: list[dict[str, Any]] = []
    claims = await held_orgs(database)
    measured = await latest_completeness(database)
    after: str | None = None
    while True:
        page = await list_connections(database, after=after, limit=_PAGE)
        hooks = await _subscriptions(database, [record.org for record in page.items])
        found += [
            _shown(record, claims) | {"webhooks": _webhooks(hooks.get(record.org), measured.get(record.org))}
            for record in page.items
        ]
        after = page.next_after
        if after is None:
            return found


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


async def _subscriptions(database: Database, orgs: Sequence[str]) -> dict[str, Subscription]:
    """The subscriptions of neighbouring orgs."""
    if not orgs:
        return {}
    found: dict[str, Subscription] = {}
    first = await get_subscription(database, orgs[0])
    if first is not None:
        found[first.org] = first
    for one in await list_subscriptions(database, after=orgs[0], limit=_PAGE):
        found[one.org] = one
    return found


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
