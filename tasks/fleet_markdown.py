"""The dashboard of a fleet as Markdown: what is wrong on top, figures below. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from store.alarms import Alarm
from store.fleet_figures import LOW, FleetFigures
from store.report import escaped
from tasks.completeness import percent
from tasks.status import FleetLook

_SAID = {
    "kommo.dead_letters.growing": "dead letters are growing: `kommo webhooks dead`, `kommo events dead`",
    "kommo.completeness.low": "webhooks are not complete: `kommo webhooks health`",
    "kommo.backlog.stale": "the backlog stands still: is a worker alive? `kommo webhooks backlog`",
}
_STEP = 120
_WORST = 5


def fleet_markdown(fleet: FleetLook, figures: FleetFigures, alarms: Sequence[Alarm], now: datetime) -> str:
    """The dashboard.

    Args:
        fleet: the broken connections that are shown, and the totals.
        figures: what waits and what is late.
        alarms: those that are on.
        now: the moment of the look.
    """
    totals = fleet.totals
    sign = "🔴" if totals.broken or alarms else "🟢"
    lines = [
        (
            f"# {sign} {_number(totals.connected)} connected: {_number(totals.well)} well, "
            f"{_number(totals.broken)} broken"
        ),
        "",
        f"{now:%Y-%m-%d %H:%M} UTC{f' · {_number(totals.ended)} disconnected' if totals.ended else ''}",
        "",
    ]
    for alarm in alarms:
        said = _SAID.get(alarm.name, f"`{alarm.name}`")
        lines.append(f"- ⚠️ since {alarm.since:%Y-%m-%d %H:%M}: {said}")
    lines += [
        f"- ⛔ requests of `{escaped(stop.key)}` are stopped for {_span(stop.seconds)} more: {escaped(stop.reason)}"
        for stop in figures.stops
    ]
    if alarms or figures.stops:
        lines.append("")
    lines += _broken(fleet, now)
    lines += _figures(figures)
    return "\n".join(lines)


def _broken(fleet: FleetLook, now: datetime) -> list[str]:
    if not fleet.connections:
        return []
    lines = ["| broken | state | for | why | what to do |", "| --- | --- | --- | --- | --- |"]
    for row in fleet.connections:
        # Of a subscription only is known that it was off when it was looked at.
        deaf = row["state"] == "connected"
        since = "–" if deaf else _span((now - row["state_since"]).total_seconds())
        lines.append(
            f"| {escaped(row['org'])} | {_state(row)} | {since} | {escaped(_why(row), _STEP)} "
            f"| {escaped(row['next_step'] or '', _STEP)} |"
        )
    left = fleet.found - len(fleet.connections)
    if left > 0:
        lines += ["", f"… and {_number(left)} more: `kommo status --broken --page 2`"]
    return [*lines, ""]


def _state(row: dict[str, Any]) -> str:
    return escaped(row["state"] if row["state"] != "connected" else f"webhooks {row['webhooks']['state']}")


def _why(row: dict[str, Any]) -> str:
    return row["reason"] or (row["webhooks"] or {}).get("reason") or ""


def _figures(figures: FleetFigures) -> list[str]:
    waiting, share = figures.waiting, figures.completeness
    backlog = f"{_number(waiting.pending)} wait"
    if waiting.pending:
        backlog += (
            f", the longest due for {_span(figures.due_seconds)}"
            if figures.due_seconds
            else ", none is due yet"
        )
    complete = (
        "nothing compared" if share is None else f"{percent(share)} of {_number(figures.changes)} changes"
    )
    if figures.incomplete:
        worst = ", ".join(f"{escaped(org)} {percent(share)}" for org, share in figures.incomplete[:_WORST])
        complete += f"; {_number(len(figures.incomplete))} orgs under {LOW:.0%}, lowest: {worst}"
    rows = [
        ("webhook events", backlog),
        (
            "dead letters",
            (
                f"{_number(waiting.dead)} events, {_number(waiting.unreadable)} unreadable deliveries, "
                f"{_number(waiting.outbox.get('dead', 0))} for the product"
            ),
        ),
        ("for the product", f"{_number(waiting.outbox.get('pending', 0))} wait"),
        ("completeness", complete),
        ("tokens that have ended", _number(figures.refreshes_late)),
        ("syncs overdue", _number(figures.syncs_late)),
        ("requests stopped", _number(len(figures.stops))),
    ]
    return ["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows)]


def _number(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
