"""How connections stand, for `kommo status` and whoever else asks: plain values, no secrets."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from store.claims import held_orgs
from store.connections import ConnectionRecord, ConnectionState, get_connection, list_connections
from store.database import Database
from store.runs import latest_run

_PAGE = 500


async def fleet_status(database: Database) -> list[dict[str, Any]]:
    """Every connection, in the order of the orgs."""
    found: list[dict[str, Any]] = []
    claims = await held_orgs(database)
    after: str | None = None
    while True:
        page = await list_connections(database, after=after, limit=_PAGE)
        found += [_shown(record, claims) for record in page.items]
        after = page.next_after
        if after is None:
            return found


async def org_status(database: Database, org: str) -> dict[str, Any]:
    """One connection, its newest run, and what that run made of each kind.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    record = await get_connection(database, org)
    run = await latest_run(database, org)
    return {**_shown(record, await held_orgs(database)), "last_run": None if run is None else asdict(run)}


def _shown(record: ConnectionRecord, claims: Mapping[str, datetime]) -> dict[str, Any]:
    """A connection as it is at this moment: `refreshing` is what its claim says, and is not stored twice."""
    shown = asdict(record)
    if record.state == ConnectionState.DISCONNECTED:
        shown["expires_at"] = None  # of a token that is no longer here
    if record.org in claims and record.state in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}:
        shown |= {"state": ConnectionState.REFRESHING.value, "state_since": claims[record.org]}
    return shown
