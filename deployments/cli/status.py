"""`kommo status`: which orgs are connected, how they are, why, and since when."""

from datetime import UTC, datetime
from typing import Any

from deployments.cli.output import ago, cell, out, print_json, say, state_text, table


async def status(org: str | None = None, *, json: bool = False) -> None:
    """Show the state of one connection, or of all.

    Args:
        org: One org; without it, all.
        json: Print it as JSON.
    """
    from blocks.settings import Settings
    from tasks.installation import open_database
    from tasks.status import fleet_status, org_status

    async with open_database(Settings()) as database:
        if org is None:
            found = await fleet_status(database)
            if json:
                print_json(found)
            else:
                _show_fleet(found)
            return
        one = await org_status(database, org)
    if json:
        print_json(one)
    else:
        _show_org(one)


def _show_fleet(connections: list[dict[str, Any]]) -> None:
    if not connections:
        say("No org is connected yet. Try `kommo demo`, or: kommo connect ORG --domain SUBDOMAIN.kommo.com")
        return
    now = datetime.now(tz=UTC)
    table(
        ["org", "state", "account", "host", "last sync", "since", "why"],
        [
            (
                cell(row["org"]),
                state_text(row["state"]),
                cell(row["account_name"]),
                cell(row["host"]),
                ago(row["last_synced_at"], now),
                ago(row["state_since"], now),
                cell(row["reason"] or ""),
            )
            for row in connections
        ],
    )


def _show_org(one: dict[str, Any]) -> None:
    now = datetime.now(tz=UTC)
    out.print(
        f"[bold]{cell(one['org'])}[/] · {state_text(one['state'])} since {ago(one['state_since'], now)}"
    )
    if one["reason"]:
        say(f"  why: {one['reason']}")
    say(f"  account: {one['account_name']} ({one['account_id']}) on {one['host']}")
    if one["expires_at"]:
        say(f"  token ends: {one['expires_at']:%Y-%m-%d %H:%M} UTC")
    run = one["last_run"]
    if run is None:
        say(f"  never synced; next: kommo sync {one['org']}")
        return
    out.print(
        f"  last sync: {state_text(run['state'])} {ago(run['started_at'], now)}, {run['requests']} requests"
    )
    table(
        ["kind", "state", "items", "read", "why"],
        [
            (
                row["kind"],
                state_text(row["state"]),
                row["items"],
                ago(row["taken_at"], now),
                cell(row["reason"] or ""),
            )
            for row in run["snapshots"]
        ],
    )
