"""`kommo status`: which orgs are connected, which of them are broken, why, since when, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from deployments.cli.output import ago, cell, out, print_json, say, state_text, table
from deployments.cli.run import WrongUseError

if TYPE_CHECKING:
    from tasks.status import FleetLook

Sort = Literal["state", "org", "since", "backlog", "synced"]
_SHOWN = 50


async def status(
    org: str | None = None,
    *,
    sort: Sort | None = None,
    state: Annotated[list[str] | None, Parameter(negative=())] = None,
    broken: Annotated[bool, Parameter(negative=())] = False,
    search: str | None = None,
    limit: int | None = None,
    page: int = 1,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative=())] = False,
    every: float = 2.0,
    json: bool = False,
) -> None:
    """Show the state of one connection, or of a fleet: who is broken, why, since when, and what to do.

    Args:
        org: One org; without it, all.
        sort: state: the broken ones first; org: by name; since: broken for longest first; backlog: the oldest waiting
            event first; synced: read longest ago first. By default state, with --json org.
        state: Only connections in this state; may be given several times.
        broken: Only those that are broken.
        search: Only those with this text in the org, the account's name, its host or the reason.
        limit: At most so many; by default 50, with --json all.
        page: Which page of so many, from 1 on.
        watch: Go on looking, until q or Ctrl-C. Piped, it writes one line for each change.
        every: With --watch: seconds between two looks.
        json: Print it as JSON.
    """
    from blocks.settings import Settings
    from deployments.cli.run import many_imports

    if org is not None and (watch or broken or search or state or sort or limit or page != 1):
        raise WrongUseError("Name one org, or say which of all you want to see; not both.")
    if watch and json:
        raise WrongUseError("--watch is for people and pipes, --json for one look: leave one of them out.")
    wanted = _wanted(state, broken, search, limit=limit, page=page, every=every)
    with many_imports():
        from tasks.installation import open_database
        from tasks.status import FleetView, look_at_fleet, org_status

    async with open_database(Settings()) as database:
        if org is not None:
            one = await org_status(database, org)
            if json:
                print_json(one)
            else:
                _show_org(one)
            return
        size = limit or (None if json and page == 1 else _SHOWN)
        view = FleetView(
            **wanted, sort=sort or ("org" if json else "state"), limit=size, offset=(page - 1) * (size or 0)
        )
        if watch:
            from deployments.cli.watching import watch_fleet

            await watch_fleet(database, view, every)
            return
        look = await look_at_fleet(database, view)
    if json:
        print_json(look.connections)
    else:
        _show_fleet(look, page, view.offset)


def _wanted(
    state: list[str] | None, broken: bool, search: str | None, *, limit: int | None, page: int, every: float
) -> dict[str, Any]:
    """What was asked for, if it can be.

    Raises:
        WrongUseError: It cannot.
    """
    from store.connection_records import ConnectionState

    known = [one.value for one in ConnectionState]
    if strange := sorted(set(state or ()) - set(known)):
        raise WrongUseError(f"There is no state {strange[0]!r:.60}. The states are {', '.join(known)}.")
    if page < 1 or (limit is not None and limit < 1):
        raise WrongUseError("--limit and --page are numbers from 1 on.")
    if not 0.2 <= every <= 3600:
        raise WrongUseError("--every is a number of seconds from 0.2 to 3600.")
    return {"states": tuple(state or ()), "broken": broken, "search": search}


def _show_fleet(look: FleetLook, page: int, offset: int) -> None:
    if not look.totals.states:
        say("No org is connected yet. Try `kommo demo`, or: kommo connect ORG --domain SUBDOMAIN.kommo.com")
        return
    out.print(summary_text(look))
    if not look.connections:
        say("None of them is like that." if offset == 0 else f"There is no page {page}.")
        return
    table(*fleet_columns(look, datetime.now(tz=UTC)))
    left = look.found - offset - len(look.connections)
    if left > 0 or offset:
        shown = f"{offset + 1}–{offset + len(look.connections)} of {look.found}"
        say(f"{shown}{f'; the next: --page {page + 1}' if left > 0 else ''}", style="dim")


def summary_text(look: FleetLook) -> str:
    """The line on top, as markup: `10 000 connected: 9 987 well, 13 broken (…); 4 disconnected`."""
    totals = look.totals
    parts = ", ".join(f"{count} {state}" for state, count in totals.broken_states().items())
    style = "red" if totals.broken else "green"
    ended = totals.ended
    return (
        f"[bold]{thousands(totals.connected)} connected[/]: {thousands(totals.well)} well, "
        f"[{style}]{thousands(totals.broken)} broken[/]"
        f"{f' ({cell(parts)})' if parts else ''}"
        f"{f'; {thousands(ended)} disconnected' if ended else ''}"
    )


def thousands(number: int) -> str:
    """`10 000`."""
    return f"{number:,}".replace(",", " ")


def fleet_columns(look: FleetLook, now: datetime) -> tuple[list[str], list[tuple[str, ...]]]:
    """The table of a fleet: its columns, and a row of markup for each connection."""
    return (
        ["org", "state", "account", "host", "last sync", "webhooks", "waits", "since", "why", "what to do"],
        [
            (
                cell(row["org"]),
                state_text(row["state"]),
                cell(row["account_name"]),
                cell(row["host"]),
                ago(row["last_synced_at"], now),
                _webhooks_text(row["webhooks"]),
                _waits(row["backlog"], now),
                ago(row["state_since"], now),
                cell(_why(row)),
                cell(row["next_step"] or ""),
            )
            for row in look.connections
        ],
    )


def _why(row: dict[str, Any]) -> str:
    hooks = row["webhooks"] or {}
    return row["reason"] or (row["broken"] and hooks.get("reason")) or ""


def _waits(backlog: dict[str, Any], now: datetime) -> str:
    if not backlog["pending"]:
        return "–"
    return f"{backlog['pending']} · {ago(backlog['oldest_received_at'], now).removesuffix(' ago')}"


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
