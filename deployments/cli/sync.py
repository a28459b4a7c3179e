"""`kommo sync`: an ad-hoc run of the sync flows, with its progress in the terminal."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from deployments.cli.output import cell, err, print_json, say, state_text, table
from deployments.cli.run import WrongUseError, many_imports, must_be_known

if TYPE_CHECKING:
    from store.drift import Change, Drift
    from tasks.progress import Step
    from tasks.reports import SyncReport
    from tasks.scopes import Scope, SyncScope


async def sync(
    org: str | None = None, *, scope: str = "all", all_orgs: bool = False, json: bool = False
) -> None:
    """Read an org's Kommo set-up, save what changed, and say what that means.

    Args:
        org: The org to sync.
        scope: What to read: all (of the set-up), funnels, channels, fields; records, or everything (one org only).
        all_orgs: Sync every connected org instead of one.
        json: Print the report as JSON.
    """
    from tasks.scopes import SyncScope

    if (org is None) == (not all_orgs):
        raise WrongUseError("Name one org, or say --all-orgs.")
    try:
        wanted = SyncScope(scope)
    except ValueError:
        raise WrongUseError(f"--scope is one of {', '.join(SyncScope)}, not {scope!r}.") from None
    if org is None:
        if wanted.has_records or wanted.set_up is None:
            raise WrongUseError("Records are read an org at a time: kommo sync ORG --scope records")
        await _sync_fleet(wanted.set_up, json=json)
    else:
        await sync_one(org, wanted, json=json)


async def sync_one(org: str, scope: SyncScope, *, json: bool = False) -> SyncReport:
    """Run the flow for one org and show its report; a failed sync is shown as far as it came, then raised."""
    await must_be_known(org)
    with many_imports():
        from flows.full_sync import full_crm_sync
    from tasks.errors import RecordsFailedError, SyncFailedError
    from tasks.reports import SyncReport

    failure: SyncFailedError | RecordsFailedError | None = None
    with shown_progress():
        try:
            report = await full_crm_sync(org, scope)
        except SyncFailedError as error:
            report, failure = error.report, error
        except RecordsFailedError as error:
            report, failure = SyncReport.of_records(error.report), error
    if json:
        print_json(report)
    else:
        show_report(report)
    if failure is not None:
        raise failure
    return report


async def _sync_fleet(scope: Scope, *, json: bool) -> None:
    with many_imports():
        from flows.fleet_sync import full_crm_sync_all
    from tasks.errors import FleetSyncFailedError

    failure: FleetSyncFailedError | None = None
    with shown_progress():
        try:
            report = await full_crm_sync_all(scope)
        except FleetSyncFailedError as error:
            report, failure = error.report, error
    if json:
        print_json(report)
    else:
        if report.failures:
            rows = [(cell(one.org), state_text("failed"), cell(one.reason)) for one in report.failures]
            table(["org", "sync", "why"], rows)
        say(report.summary())
    if failure is not None:
        raise failure


def show_report(report: SyncReport) -> None:
    """What one sync came to: its kinds, what changed since the run before, and the records."""
    if report.kinds:
        _show_kinds(report)
    if report.records is not None:
        from deployments.cli.records import show_records_report

        show_records_report(report.records)


def _show_kinds(report: SyncReport) -> None:
    table(
        ["kind", "state", "items", "added", "changed", "removed", "why"],
        [
            (
                kind.kind,
                state_text(kind.state),
                kind.items,
                kind.added,
                kind.changed,
                kind.removed,
                cell(kind.reason or ""),
            )
            for kind in report.kinds
        ],
    )
    say(report.summary())
    show_changes(report.drift)


def show_changes(drift: Drift) -> None:
    """Drift as a table, what breaks first."""
    from store.kinds import KINDS

    if not drift.changes:
        return
    table(
        ["severity", "what", "name", "change", "why it matters"],
        [
            (
                state_text(change.severity.value),
                KINDS[change.kind].title,
                cell(f"{change.parent} / {change.name}" if change.parent else change.name),
                cell(_change_text(change)),
                cell(change.why),
            )
            for change in drift.changes
        ],
        title="What changed",
    )


def _change_text(change: Change) -> str:
    word = change.change.value.replace("_", " ")
    if change.before is None or change.after is None:
        return word
    return f"{word}: " + "; ".join(
        f"{key} {change.before.get(key)!r} → {value!r}" for key, value in change.after.items()
    )


class _Said(logging.Handler):
    """What holds everything up is said where somebody waits: a quiet of five minutes looks like a fault otherwise."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"note: {record.getMessage()}", markup=False, highlight=False)


@contextlib.contextmanager
def _waits_are_said() -> Iterator[None]:
    logger, said = logging.getLogger("kommo.sending"), _Said()
    before = logger.level
    logger.addHandler(said)
    logger.setLevel(logging.WARNING)  # other logs are muted at a terminal
    try:
        yield
    finally:
        logger.removeHandler(said)
        logger.setLevel(before)


@contextlib.contextmanager
def shown_progress() -> Iterator[None]:
    """A bar on a terminal, a line per group elsewhere; on standard error, so that a pipe gets only the answer."""
    from tasks.progress import listen_to_progress

    if not err.is_terminal:

        def line(step: Step) -> None:
            if step.under_way is not None:
                return
            outcome = "failed" if step.failed else "done"
            err.print(f"{step.org}: {step.group} {outcome} ({step.done}/{step.total})")

        listen_to_progress(line)
        with _waits_are_said():
            yield
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
    with bar, _waits_are_said():
        rows: dict[str, TaskID] = {}
        waiting = bar.add_task("starting Prefect", total=None)

        def advance(step: Step) -> None:
            bar.update(waiting, visible=False)
            if step.org not in rows:
                rows[step.org] = bar.add_task(step.org, total=step.total)
            told = f" · {step.under_way}" if step.under_way else ""
            bar.update(rows[step.org], completed=step.done, description=f"{step.org} · {step.group}{told}")

        listen_to_progress(advance)
        yield
