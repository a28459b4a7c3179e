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
        ["org", "state", "account", "host", "last sync", "webhooks", "since", "why"],
        [
            (
                cell(row["org"]),
                state_text(row["state"]),
                cell(row["account_name"]),
                cell(row["host"]),
                ago(row["last_synced_at"], now),
                _webhooks_text(row["webhooks"]),
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
    _show_webhooks(one["webhooks"], now)
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


def _webhooks_text(webhooks: dict[str, Any] | None) -> str:
    """`on · 99.2 %`: how the subscription stands, and what part of the changes had come."""
    if webhooks is None:
        return "–"
    measured = webhooks["completeness"]
    share = "" if measured is None else f" · {_percent(measured)}"
    return f"{cell(webhooks['state'] or '–')}{share}"


def _show_webhooks(webhooks: dict[str, Any] | None, now: datetime) -> None:
    if webhooks is None:
        return
    if webhooks["state"]:
        say(f"  webhooks: {webhooks['state']}, looked at {ago(webhooks['checked_at'], now)}")
    if webhooks["reason"]:
        say(f"    why: {webhooks['reason']}")
    if measured := webhooks["completeness"]:
        say(
            f"    {_percent(measured)} complete: {measured['arrived']} of {measured['changes']} changes had come, "
            f"{measured['repaired']} repaired, compared until {ago(measured['until'], now)}"
        )


def _percent(measured: dict[str, Any]) -> str:
    from tasks.completeness import percent

    return percent(measured["share"]) + ("" if measured["whole"] else " of what could be compared")
