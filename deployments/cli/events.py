"""`kommo events`: what the product is told, what waits, what was given up, telling it again, and trying its address."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments.cli.output import ago, cell, print_json, say, state_text, table
from deployments.cli.run import WrongUseError, many_imports

if TYPE_CHECKING:
    from store.outbox import OutboxRecord
    from store.outbox_letters import OrgOutbox


async def show(
    org: str | None = None,
    *,
    state: str | None = None,
    limit: int = 100,
    after: int = 0,
    payload: bool = False,
    json: bool = False,
) -> None:
    """Show events and how their delivery stands, oldest first. Without an org or a state: how each org's outbox stands.

    Args:
        org: One org.
        state: Only those in this state: pending, delivered or dead.
        limit: At most so many.
        after: The last id of the page before.
        payload: With --json, show what is told as well; it holds customers' data.
        json: Print it as JSON.
    """
    from blocks.settings import Settings
    from store.outbox import STATES, list_outbox
    from store.outbox_letters import outbox_counts
    from tasks.installation import open_database

    if state is not None and state not in STATES:
        raise WrongUseError(f"--state is one of {', '.join(STATES)}.")
    if limit < 1:
        raise WrongUseError("--limit is at least 1.")
    async with open_database(Settings()) as database:
        if org is None and state is None:
            _show_counts(await outbox_counts(database), json=json)
            return
        found = await list_outbox(database, org=org, state=state, after_id=after, limit=limit)
    _show_events(found, payload=payload, json=json, none="There are no such events.")


async def dead(org: str | None = None, *, limit: int = 100, after: int = 0, json: bool = False) -> None:
    """Show the dead letters: events that were given up after their last attempt, and why. Oldest first.

    Args:
        org: One org; without it, all.
        limit: At most so many.
        after: The last id of the page before.
        json: Print them as JSON.
    """
    from blocks.settings import Settings
    from store.outbox import DEAD, list_outbox
    from tasks.installation import open_database

    if limit < 1:
        raise WrongUseError("--limit is at least 1.")
    async with open_database(Settings()) as database:
        found = await list_outbox(database, org=org, state=DEAD, after_id=after, limit=limit)
    _show_events(found, payload=False, json=json, none="There are no dead letters.")
    if found and not json:
        say("Once the cause is gone: kommo events replay --dead")


async def replay(
    org: str | None = None,
    *,
    ids: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    type: str | None = None,  # noqa: A002 - the option's name
    since: str | None = None,
    dead: bool = False,
    json: bool = False,
) -> None:
    """Tell events again, under the ids that they had: those that were told already, and dead letters.

    Args:
        org: Only this org's.
        ids: Only these, by their event ids.
        type: Only those of this type.
        since: Only those written then or later: a time as in 2026-11-23T12:00 (UTC unless it names another zone).
        dead: Only dead letters, not what was told.
        json: Print how many there were as JSON.
    """
    from blocks.settings import Settings
    from store.outbox_letters import replay_outbox
    from tasks.installation import open_database

    if not (ids or type or since or dead):
        raise WrongUseError("Say which: --since, --ids, --type, or --dead for all dead letters.")
    moment = None if since is None else _moment(since)
    async with open_database(Settings()) as database:
        count = await replay_outbox(
            database, org=org, ids=ids or None, type=type, since=moment, dead_only=dead
        )
    if json:
        print_json({"replayed": count})
        return
    say(f"{count} events will be told again; `kommo events deliver` does it now.")


async def deliver(*orgs: str, linger: str = "0s", shard: str | None = None, json: bool = False) -> None:
    """Tell the product what is due, once.

    Args:
        orgs: Only these orgs; without any, all.
        linger: Stay for so long when nothing is due: a number and s, m, h or d.
        shard: Only a part of the orgs, as in 1/4.
        json: Print the report as JSON.
    """
    with many_imports():
        from flows.deliver_events import deliver_events
        from flows.parameters import parse_shard, parse_span
        from tasks.errors import EventsSetupError

    try:
        parse_span(linger)
        if shard is not None:
            parse_shard(shard)
    except ValueError as error:
        raise WrongUseError(str(error)) from None
    report = await deliver_events(linger, list(orgs) or None, shard)
    if report.state == "unset":
        raise EventsSetupError(
            f"Nobody is told anything: {report.reason}. What has happened waits in the outbox."
        )
    if json:
        print_json(report)
        return
    if report.outbox:
        table(
            ["org", "waiting", "oldest (s)", "held back", "dead letters"],
            [(cell(row.org), row.pending, row.oldest_seconds, row.held, row.dead) for row in report.outbox],
        )
    for reason, count in sorted(report.failures.items()):
        say(f"{count} attempts failed: {reason}")
    say(report.summary())


async def trial(*, json: bool = False) -> None:
    """Send one signed event of type `kommo.test` to the product's address, and say what came back.

    If it is taken, an address that rests or said that it is gone is used again.

    Args:
        json: Print what came back as JSON.
    """
    from blocks.settings import Settings
    from kommo.clock import SystemClock
    from tasks.errors import EventNotTakenError
    from tasks.installation import open_database

    with many_imports():
        from tasks.app import find_app
        from tasks.delivery_trial import try_endpoint
        from tasks.endpoint import parse_endpoint
        from tasks.signing import Signer

    settings = Settings()
    app = await find_app(settings)
    endpoint = parse_endpoint(app.events_url, allow_loopback=app.allow_loopback)
    signer = Signer(app.events_secret)
    async with open_database(settings) as database:
        trial = await try_endpoint(database, endpoint, signer, SystemClock())
    if json:
        print_json(trial)
    if not trial.taken:
        raise EventNotTakenError(
            f"{trial.host} did not take the event {trial.event_id}. {trial.reason} "
            "`kommo events deliver` goes on trying with the real ones."
        )
    if not json:
        again = " It had been left alone; events are sent to it again." if trial.resumed else ""
        say(f"{trial.host} took the event {trial.event_id} in {trial.seconds:.2f} s ({trial.status}).{again}")


def _show_counts(found: "Sequence[OrgOutbox]", *, json: bool) -> None:
    if json:
        print_json(found)
        return
    if not found:
        say("Nothing waits to be told, and nothing was given up.")
        return
    now = datetime.now(tz=UTC)
    table(
        ["org", "waiting", "oldest", "held back", "dead letters"],
        [
            (
                cell(one.org),
                one.pending,
                ago(one.oldest_created_at, now) if one.oldest_created_at else "–",
                one.held,
                one.dead,
            )
            for one in found
        ],
    )


def _show_events(found: "Sequence[OutboxRecord]", *, payload: bool, json: bool, none: str) -> None:
    if json:
        left_out = set() if payload else {"payload"}
        print_json(
            [{name: value for name, value in asdict(one).items() if name not in left_out} for one in found]
        )
        return
    if not found:
        say(none)
        return
    table(
        ["id", "event id", "org", "type", "subject", "written", "state", "attempts", "why"],
        [
            (
                one.id,
                cell(one.event_id),
                cell(one.org),
                cell(one.type),
                cell(one.subject),
                cell(one.created_at),
                state_text(one.state),
                one.attempts,
                cell(one.last_error or ""),
            )
            for one in found
        ],
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUseError(f"--since {text!r} is not a time such as 2026-11-01T10:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
