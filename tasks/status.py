"""How connections stand, for `kommo status` and whoever else asks: plain values, no secrets."""

from dataclasses import asdict
from typing import Any

from store.connections import get_connection, list_connections
from store.database import Database
from store.runs import latest_run

_PAGE = 500


async def fleet_status(database: Database) -> list[dict[str, Any]]:
    """Every connection, in the order of the orgs."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = await list_connections(database, after=after, limit=_PAGE)
        found += [asdict(record) for record in page.items]
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
    return {**asdict(record), "last_run": None if run is None else asdict(run)}
