"""`kommo records history | keep-history | forget`: what records were before, and removing that."""

from __future__ import annotations

from datetime import UTC, datetime

from deployments.cli.output import ago, cell, err, print_json, say, state_text, table
from deployments.cli.records import check_kinds
from deployments.cli.run import WrongUseError


async def history(org: str, kind: str, record_id: int, *, limit: int = 20, json: bool = False) -> None:
    """Show what a record is, and what it was before, newest first.

    Args:
        org: The org.
        kind: Such as leads.
        record_id: The record's id.
        limit: At most so many.
        json: Print them as JSON, each with Kommo's own object.
    """
    from blocks.settings import Settings
    from store.record_history import kept_history, versions_of
    from tasks.installation import open_database

    check_kinds([kind])
    async with open_database(Settings()) as database:
        versions = await versions_of(database, org, kind, record_id, limit=limit)
        kept = await kept_history(database, org)
    if not versions:
        raise WrongUseError(f"There is no {record_id} among the {kind} of {org}.")
    if json:
        print_json(versions)
        return
    table(
        [
            "known until (UTC)",
            "state",
            "name",
            "responsible",
            "pipeline",
            "status",
            "price",
            "updated (UTC)",
            "from",
        ],
        [
            (
                "now" if one.known_until is None else cell(one.known_until),
                one.state,
                cell(one.name),
                cell(one.responsible_user_id),
                cell(one.pipeline_id),
                cell(one.status_id),
                cell(one.price),
                cell(one.updated_at),
                one.source,
            )
            for one in versions
        ],
        title=f"{org} · {kind} {record_id}",
    )
    if kind not in kept:
        say(f"The history of {kind} is not kept: kommo records keep-history {org} {kind}")


async def keep_history(
    org: str, *kinds: str, off: bool = False, forget: bool = False, json: bool = False
) -> None:
    """Keep what records were before, kind by kind, from now on; without a kind, show whose history is kept.

    Args:
        org: The org.
        kinds: Such as leads contacts.
        off: Keep no more; what was kept stays until it is old (KOMMO_RETENTION_RECORD_VERSIONS_DAYS).
        forget: With --off, remove what was kept.
        json: Print whose history is kept as JSON.
    """
    from blocks.settings import Settings
    from kommo.clock import SystemClock
    from store.connections import get_connection
    from store.record_history import keep_history as keep
    from store.record_history import kept_history, stop_history
    from tasks.installation import open_database

    check_kinds(kinds)
    if forget and not off:
        raise WrongUseError("--forget goes with --off: what is being kept is not removed.")
    if off and not kinds:
        raise WrongUseError(f"Name the kinds, as in kommo records keep-history {org} leads --off.")
    async with open_database(Settings()) as database:
        await get_connection(database, org)
        if off:
            removed = await stop_history(database, org, kinds, forget=forget)
            if forget:
                err.print(f"{removed:,} versions were removed.")
        elif kinds:
            await keep(database, org, kinds, now=SystemClock().now())
        kept = await kept_history(database, org)
    if json:
        print_json(
            [{"kind": kind, "since": since, "versions": number} for kind, (since, number) in kept.items()]
        )
        return
    if not kept:
        say(f"No history of {org}'s records is kept: kommo records keep-history {org} leads")
        return
    now = datetime.now(tz=UTC)
    table(
        ["kind", "history", "since", "versions"],
        [(kind, state_text("on"), ago(since, now), number) for kind, (since, number) in kept.items()],
        title=f"{org} · history of records",
    )


async def forget(org: str, kind: str, record_id: int) -> None:
    """Remove the content of a record that was deleted in Kommo, and what it was before; only its id is left.

    Args:
        org: The org.
        kind: Such as contacts.
        record_id: The record's id.
    """
    from blocks.settings import Settings
    from store.mirror import get_record
    from store.record_history import forget_record
    from tasks.installation import open_database

    check_kinds([kind])
    async with open_database(Settings()) as database:
        if not await forget_record(database, org, kind, record_id):
            if await get_record(database, org, kind, record_id) is None:
                raise WrongUseError(
                    f"There is no {record_id} among the {kind} of {org}; nothing is kept of it."
                )
            raise WrongUseError(
                f"{record_id} is still there in Kommo, as far as is known. Delete it there, then: "
                f"kommo records sync {org} {kind} --full"
            )
    say(
        f"The content of {record_id} and what it was before are removed. Webhooks and events that name it go by age: "
        "kommo retention --dry-run"
    )
