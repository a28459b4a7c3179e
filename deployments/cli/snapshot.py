"""`kommo snapshot`: what was read, now and at any time, and what changed between two runs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter

from deployments.cli.output import ago, cell, print_json, say, state_text, table
from deployments.cli.run import WrongUseError
from deployments.cli.sync import show_changes

# What a person wants to see first of each kind; --json has every column.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "account": ("id", "name", "subdomain", "country", "currency", "timezone"),
    "pipelines": ("id", "name", "is_main", "is_archive", "statuses"),
    "statuses": ("pipeline_id", "id", "name", "sort", "color", "type"),
    "channels": ("id", "name", "type", "found_in"),
    "users": ("id", "name", "email", "is_admin", "is_active"),
    "task_types": ("id", "name", "code"),
    "loss_reasons": ("id", "name", "sort"),
}
_FIELD_COLUMNS = ("id", "name", "type", "code", "is_system", "enums")
_ENUM_COLUMNS = ("field_id", "id", "value", "code", "sort")


async def show(
    org: str, kind: str | None = None, *, at: str | None = None, raw: bool = False, json: bool = False
) -> None:
    """Show what one kind holds, or held at a time.

    Args:
        org: The org.
        kind: account, pipelines, statuses, channels, lead_fields, contact_fields, company_fields, users, task_types,
            loss_reasons or one of the ..._enums.
        at: A time as in 2026-11-23T12:00 (UTC unless it names another zone); without it, now.
        raw: With --json: Kommo's own object beside the columns.
        json: Print everything as JSON.
    """
    from blocks.settings import Settings
    from store.kinds import KINDS
    from store.snapshots import read_snapshot
    from tasks.installation import open_database

    if kind is None:
        raise WrongUseError(
            f"Name what to show, as in kommo snapshot show {org} pipelines: {', '.join(KINDS)}."
        )
    if kind not in KINDS:
        raise WrongUseError(f"There is no kind {kind!r}. Kinds: {', '.join(KINDS)}.")
    if raw and not json:
        raise WrongUseError("--raw is for programs: say --json as well.")
    async with open_database(Settings()) as database:
        view = await read_snapshot(database, org, kind, at=_time(at), raw=raw)
    if json:
        print_json(
            {
                "org": view.org,
                "kind": view.kind,
                "taken_at": view.taken_at,
                "run_id": view.run_id,
                "items": view.items,
            }
        )
        return
    columns = _COLUMNS.get(kind) or (_ENUM_COLUMNS if kind.endswith("_enums") else _FIELD_COLUMNS)
    table(
        columns,
        [[_value(item, column) for column in columns] for item in view.items],
        title=f"{org} · {kind}",
    )
    say(
        f"{len(view.items)} {kind} of {org}, read {ago(view.taken_at, datetime.now(tz=UTC))} (run {view.run_id})"
    )


def _value(item: Mapping[str, Any], column: str) -> str:
    value = item.get(column)
    if isinstance(value, list) and column in {"statuses", "enums"}:
        return cell(
            " · ".join(str(child.get("name") or child.get("value") or child.get("id")) for child in value)
        )
    return cell(value)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUseError(
            f"{text!r} is not a time. Write it as 2026-11-23 or 2026-11-23T12:00:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


async def diff(
    org: str,
    *,
    from_run: Annotated[str | None, Parameter(name="--from")] = None,
    to_run: Annotated[str | None, Parameter(name="--to")] = None,
    json: bool = False,
) -> None:
    """Show what changed between two runs; without names, between the last two.

    Args:
        org: The org.
        from_run: The older run, as `kommo snapshot runs` names it.
        to_run: The newer run.
        json: Print the changes as JSON.
    """
    from blocks.settings import Settings
    from store.drift import diff as drift_between
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        drift = await drift_between(database, org, from_run=from_run, to_run=to_run)
    if json:
        print_json(drift)
        return
    if not drift.changes:
        say(f"Nothing changed between {drift.from_run} and {drift.to_run}.")
        return
    show_changes(drift)


async def runs(org: str, *, limit: int = 20, json: bool = False) -> None:
    """List the runs of an org, newest first.

    Args:
        org: The org.
        limit: How many.
        json: Print them as JSON.
    """
    from blocks.settings import Settings
    from store.snapshots import list_runs
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        found = await list_runs(database, org, limit=limit)
    if json:
        print_json(found)
        return
    if not found:
        say(f"There are no runs of {org}: kommo status lists the orgs, kommo sync ORG makes a run.")
        return
    table(
        ["run", "scope", "state", "started (UTC)", "requests", "why"],
        [
            (
                run.run_id,
                run.scope,
                state_text(run.state),
                cell(run.started_at),
                run.requests,
                cell(run.reason or ""),
            )
            for run in found
        ],
    )
