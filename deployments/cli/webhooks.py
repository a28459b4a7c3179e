"""`kommo webhooks` and `kommo backlog`: what Kommo has told us, what waits, what was given up, and trying it again."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from deployments.cli.output import ago, cell, out, print_json, say, state_text, table
from deployments.cli.run import WrongUseError, many_imports

if TYPE_CHECKING:
    from store.inbox import StoredEvent

_EVENT_DIGITS = 18  # fits 64 bits; a delivery's id has 32 characters


async def run_backlog(*orgs: str, linger: str = "0s", shard: str | None = None, json: bool = False) -> None:
    """Work off what webhooks have told, once: read what changed, mirror it, tell the product.

    Args:
        orgs: Only these orgs; without any, all.
        linger: Stay for so long when nothing is due: a number and s, m, h or d.
        shard: Only a part of the orgs, as in 1/4.
        json: Print the report as JSON.
    """
    with many_imports():
        from flows.parameters import parse_shard, parse_span
        from flows.webhook_backlog import webhook_backlog

    try:
        parse_span(linger)
        if shard is not None:
            parse_shard(shard)
    except ValueError as error:
        raise WrongUseError(str(error)) from None
    report = await webhook_backlog(linger, list(orgs) or None, shard)
    if json:
        print_json(report)
        return
    _show_rows(row.model_dump() for row in report.backlog)
    for org, reason in report.paused.items():
        say(f"{org} rests: {reason}")
    say(report.summary())


async def backlog(org: str | None = None, *, json: bool = False) -> None:
    """Show what waits to be worked off, how old it is, and what was given up.

    Args:
        org: One org; without it, all that have something.
        json: Print it as JSON.
    """
    from blocks.settings import Settings
    from store.backlog import backlog_counts
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        found = [one for one in await backlog_counts(database) if org in {None, one.org}]
    if json:
        print_json(found)
        return
    if not found:
        say("Nothing waits, and nothing was given up.")
        return
    now = datetime.now(tz=UTC)
    table(
        ["org", "waiting", "oldest", "dead letters", "unreadable", "why it rests"],
        [
            (
                cell(one.org),
                one.pending,
                ago(one.oldest_received_at, now) if one.oldest_received_at else "–",
                one.dead,
                one.unreadable,
                cell(one.reason or "") if one.paused_until > now.timestamp() else "",
            )
            for one in found
        ],
    )


async def dead(org: str | None = None, *, limit: int = 100, after: int = 0, json: bool = False) -> None:
    """Show the dead letters: events that were given up, and deliveries that cannot be read. Oldest first.

    Args:
        org: One org; without it, all, and deliveries of accounts that no org is connected to.
        limit: At most so many of each.
        after: The last id of the page of events before.
        json: Print them as JSON.
    """
    from blocks.settings import Settings
    from store.backlog import dead_letters
    from store.inbox import unreadable_deliveries
    from tasks.installation import open_database

    if limit < 1:
        raise WrongUseError("--limit is at least 1.")
    async with open_database(Settings()) as database:
        found = await dead_letters(database, org, limit=limit, after=after)
        unread = await unreadable_deliveries(database, org, limit=limit)
    if json:
        print_json(
            {
                "events": [_without_payload(asdict(event)) for event in found],
                "deliveries": [_without_body(asdict(one)) for one in unread],
            }
        )
        return
    if not (found or unread):
        say("There are no dead letters.")
        return
    if found:
        table(
            ["id", "org", "what", "received", "attempts", "why"],
            [
                (
                    event.id,
                    cell(event.org),
                    cell(f"{event.entity} {event.action} {event.entity_id}"),
                    cell(event.received_at),
                    event.attempts,
                    cell(event.reason),
                )
                for event in found
            ],
        )
    if unread:
        table(
            ["delivery", "org", "bytes", "received", "why it cannot be read"],
            [
                (
                    one.delivery_id,
                    cell(one.org or "(nobody's)"),
                    len(one.body),
                    cell(one.received_at),
                    cell(one.reason),
                )
                for one in unread
            ],
        )
    say("Once the cause is gone: kommo webhooks replay --ids ID …, --reason TEXT or --since TIME")


async def show(number: Annotated[str, Parameter(name="ID")], *, json: bool = False) -> None:
    """Show one event, what it came to, and the delivery that it came with; or a delivery that cannot be read.

    The output holds customers' data.

    Args:
        number: The id of an event or of a delivery.
        json: Print it as JSON, with the delivery's bytes in base64.
    """
    from blocks.settings import Settings
    from store.backlog import get_delivery, get_event
    from tasks.errors import DataPlaneError
    from tasks.installation import open_database

    event_id = _event_id(number)
    async with open_database(Settings()) as database:
        event = None if event_id is None else await get_event(database, event_id)
        delivery = await get_delivery(database, number if event is None else event.delivery_id)
    if event is None and delivery is None:
        raise DataPlaneError(
            f"There is no event or delivery {number[:64]}. `kommo webhooks dead` lists those that failed."
        )
    if json:
        found = None if delivery is None else asdict(delivery)
        if found is not None:
            found["body"] = base64.b64encode(found["body"]).decode()
        print_json({"event": None if event is None else asdict(event), "delivery": found})
        return
    if event is not None:
        _show_event(event)
    if delivery is not None:
        whose = cell(delivery.org or "(nobody's)")
        say(
            f"  delivery {delivery.delivery_id} of {whose}: {len(delivery.body)} bytes by the {delivery.door} door"
        )
        if delivery.reason:
            say(f"  cannot be read: {delivery.reason}")
    if event is not None:
        print_json(event.payload)


def _show_event(event: "StoredEvent") -> None:
    out.print(f"[bold]event {event.id}[/] · {cell(event.org)} · {state_text(event.state)}")
    say(
        f"  {event.entity} {event.action} {event.entity_id}, received {event.received_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    if event.reason:
        say(f"  why: {event.reason} (attempt {event.attempts})")
    if event.outcome:
        say(f"  came to: {event.outcome}")


async def replay(
    org: str | None = None,
    *,
    ids: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    reason: str | None = None,
    since: str | None = None,
    everything: Annotated[bool, Parameter(name="--all")] = False,
    json: bool = False,
) -> None:
    """Put dead letters back into the backlog, with all their attempts before them; read unreadable deliveries again.

    Args:
        org: Only this org's.
        ids: Only these events and deliveries.
        reason: Only the events that were given up for exactly this reason.
        since: Only what came then or later: a time as in 2026-11-23T12:00 (UTC unless it names another zone).
        everything: All that there are, when nothing else narrows them down.
        json: Print how many there were as JSON.
    """
    from blocks.settings import Settings
    from store.backlog import replay as put_back
    from tasks.deliveries import ReadAgain, read_again
    from tasks.installation import open_database

    if not (org or ids or reason or since or everything):
        raise WrongUseError("Say which: --ids, --reason, --since, an org, or --all.")
    moment = None if since is None else _moment(since)
    events = None if not ids else [found for one in ids if (found := _event_id(one)) is not None]
    deliveries = None if not ids else [one for one in ids if _event_id(one) is None]
    async with open_database(Settings()) as database:
        count = await put_back(database, ids=events, org=org, reason=reason, since=moment)
        again = ReadAgain()
        if reason is None and deliveries != []:
            again = await read_again(database, org=org, ids=deliveries, since=moment)
    if json:
        print_json({"replayed": count, **asdict(again)})
        return
    if count or not again.read:
        say(
            f"{count} dead letters are back in the backlog; `kommo backlog` works them off now."
            if count
            else "No dead letter fits: `kommo webhooks dead` lists them."
        )
    if again.read:
        say(f"{again.read} deliveries could be read now; they told of {again.events} new events.")
    for delivery_id, why in again.still.items():
        say(f"Delivery {delivery_id} still cannot be read: {why}")


def _event_id(text: str) -> int | None:
    """The id of an event; None for what may be that of a delivery."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _EVENT_DIGITS else None


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUseError(f"--since {text!r} is not a time such as 2026-11-01T10:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _without_payload(event: dict[str, Any]) -> dict[str, Any]:
    """What a list shows: whose data it is about is in `kommo webhooks show`."""
    return {key: value for key, value in event.items() if key not in {"payload", "unique_key"}}


def _without_body(delivery: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in delivery.items() if key != "body"} | {"bytes": len(delivery["body"])}


def _show_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    lines = [
        (
            cell(row["org"]),
            row["pending"],
            f"{row['oldest_seconds']:.0f} s" if row["pending"] else "–",
            row["dead"],
            cell(row["reason"] or ""),
        )
        for row in rows
    ]
    if lines:
        table(["org", "waiting", "oldest", "dead letters", "why it rests"], lines)
