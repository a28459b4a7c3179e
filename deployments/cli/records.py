"""`kommo records`: read an org's records, count them, look at them, ask about them in SQL."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.progress import Progress, TaskID

from deployments.cli.output import ago, cell, err, print_json, say, state_text, table
from deployments.cli.run import WrongUseError, many_imports, must_be_known

if TYPE_CHECKING:
    from tasks.record_reports import RecordsReport


async def sync(org: str, *kinds: str, full: bool = False, json: bool = False) -> None:
    """Read an org's records into the store: what changed since the last time, the first time everything.

    Args:
        org: The org.
        kinds: Such as leads contacts; without any, all kinds.
        full: Read everything again, and see what is gone.
        json: Print the report as JSON.
    """
    from deployments.cli.sync import shown_progress

    check_kinds(kinds)
    await must_be_known(org)
    with many_imports():
        from flows.sync_records import sync_records
        from store.record_sync import RecordMode
    from tasks.errors import RecordsFailedError

    failure: RecordsFailedError | None = None
    with shown_progress():
        try:
            report = await sync_records(
                org, list(kinds) or None, RecordMode.FULL if full else RecordMode.INCREMENTAL
            )
        except RecordsFailedError as error:
            report, failure = error.report, error
    if json:
        print_json(report)
    else:
        show_records_report(report)
    if failure is not None:
        raise failure


def show_records_report(report: RecordsReport) -> None:
    """What one reading came to, a line for each kind."""
    table(
        ["kind", "read", "state", "records", "new", "changed", "gone", "requests", "seconds", "note"],
        [
            (
                one.kind,
                cell(f"{one.mode}, gone on with" if one.resumed else one.mode),
                state_text("completed" if one.state == "complete" else one.state),
                one.records,
                one.added,
                one.changed,
                one.gone,
                one.requests,
                f"{one.seconds:.1f}",
                cell(one.note or ""),
            )
            for one in report.kinds
        ],
    )
    say(report.summary())


async def count(org: str, *, json: bool = False) -> None:
    """Count an org's records by kind, and say how fresh they are.

    Args:
        org: The org.
        json: Print everything as JSON.
    """
    from blocks.settings import Settings
    from kommo.recordkinds import RECORD_KINDS
    from store.connections import get_connection
    from store.record_sync import count_records
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        await get_connection(database, org)
        counts = await count_records(database, org)
    if json:
        print_json([_count_as_json(one) for one in counts])
        return
    if not counts:
        say(f"There are no records of {org} yet: kommo records sync {org}")
        return
    order, now = list(RECORD_KINDS), datetime.now(tz=UTC)
    counts.sort(key=lambda one: order.index(one.entity) if one.entity in order else len(order))
    table(
        [
            "kind",
            "there",
            "deleted",
            "missing",
            "newest change (UTC)",
            "last reading",
            "mode",
            "ended",
            "why",
        ],
        [
            (
                one.entity,
                one.present,
                one.deleted,
                one.missing,
                cell(one.newest),
                "–"
                if one.sync is None
                else state_text("completed" if one.sync.state == "complete" else one.sync.state),
                "–" if one.sync is None else one.sync.mode,
                "–" if one.sync is None or one.sync.finished_at is None else ago(one.sync.finished_at, now),
                cell((one.sync.reason if one.sync else None) or ""),
            )
            for one in counts
        ],
        title=f"{org} · records",
    )


def _count_as_json(one: object) -> object:
    from dataclasses import asdict

    return asdict(one)  # type: ignore[call-overload]  # a RecordCount


async def show(
    org: str, kind: str | None = None, record_id: int | None = None, *, limit: int = 20, json: bool = False
) -> None:
    """Show records of one kind, or everything of one of them.

    Args:
        org: The org.
        kind: Such as leads.
        record_id: One record's id.
        limit: How many.
        json: Print them as JSON, with Kommo's own object.
    """
    from blocks.settings import Settings
    from store.mirror import get_record
    from store.record_queries import list_records
    from tasks.installation import open_database

    if kind is None:
        from kommo.recordkinds import RECORD_KINDS

        raise WrongUseError(f"Name a kind, as in kommo records show {org} leads: {', '.join(RECORD_KINDS)}.")
    check_kinds([kind])
    async with open_database(Settings()) as database:
        if record_id is None:
            found = await list_records(database, org, kind, limit=limit)
        else:
            one = await get_record(database, org, kind, record_id)
            if one is None:
                raise WrongUseError(f"There is no {record_id} among the {kind} of {org}.")
            found = [one]
    if json or record_id is not None:
        print_json(found if record_id is None else found[0])
        return
    if not found:
        say(f"There are no {kind} of {org}: kommo records sync {org} {kind}")
        return
    table(
        ["id", "name", "responsible", "pipeline", "status", "updated (UTC)", "from"],
        [
            (
                one.record_id,
                cell(one.name),
                cell(one.responsible_user_id),
                cell(one.pipeline_id),
                cell(one.status_id),
                cell(one.updated_at),
                one.source,
            )
            for one in found
        ],
        title=f"{org} · {kind}",
    )


async def sql(
    question: Annotated[str, Parameter(allow_leading_hyphen=True)], *, limit: int = 1_000, json: bool = False
) -> None:
    """Ask in SQL; nothing can be changed by it.

    Tables: record, record_sync, record_version. Views: current_leads, current_contacts, current_companies,
    current_tasks, record_field_value, record_link, record_tag, record_timeline.

    Args:
        question: One SELECT; - reads it from standard input.
        limit: At most so many rows.
        json: Print the rows as JSON objects.
    """
    from blocks.settings import Settings
    from store.record_queries import ask_in_sql
    from tasks.installation import open_database

    asked = sys.stdin.read() if question == "-" else question
    async with open_database(Settings()) as database:
        answer = await ask_in_sql(database, asked, limit=limit)
    if json:
        print_json([dict(zip(answer.columns, row, strict=True)) for row in answer.rows])
        return
    table([cell(name) for name in answer.columns], [[cell(value) for value in row] for row in answer.rows])
    if answer.more:
        say(f"There are more rows; these are the first {limit} (--limit).")


async def export(
    org: str,
    *kinds: str,
    format: str = "jsonl",  # noqa: A002 - the option's name
    to: Path = Path("records"),
    wide: bool = False,
    raw: bool = False,
    escape_formulas: bool = False,
    json: bool = False,
) -> None:
    """Write records into files, one for each kind, as they all stood at one moment.

    Args:
        org: The org.
        kinds: Such as leads contacts; without any, all kinds of which there are records.
        format: parquet, csv or jsonl.
        to: The folder; it is made if it is missing.
        wide: A column for each custom field of leads, contacts and companies.
        raw: Kommo's own object as well.
        escape_formulas: In CSV, an apostrophe before what a spreadsheet would take for a formula.
        json: Print what was written as JSON.
    """
    from blocks.settings import Settings
    from store.connections import get_connection
    from store.record_sync import count_records
    from tasks.installation import open_database
    from tasks.record_export import Format, export_records

    check_kinds(kinds)
    if format not in set(Format):
        raise WrongUseError(f"--format is one of {', '.join(Format)}, not {format!r}.")
    async with open_database(Settings()) as database:
        await get_connection(database, org)
        held = {one.entity: one.present for one in await count_records(database, org)}
        wanted = list(kinds) or [kind for kind, number in held.items() if number]
        if not wanted:
            raise WrongUseError(f"There are no records of {org} yet: kommo records sync {org}")
        with _export_progress(held) as step:
            written = await export_records(
                database,
                org,
                wanted,
                to,
                Format(format),
                wide=wide,
                raw=raw,
                escape_formulas=escape_formulas,
                step=step,
            )
    if json:
        print_json(written)
        return
    table(
        ["kind", "rows", "bytes", "file"],
        [(one.kind, one.rows, one.bytes, cell(one.file)) for one in written],
    )


@contextlib.contextmanager
def _export_progress(held: dict[str, int]) -> Iterator[Callable[[str, int], None]]:
    """A bar for each kind on a terminal; elsewhere the table at the end says it all."""
    if not err.is_terminal:
        yield lambda _kind, _rows: None
        return
    with Progress(console=err, transient=True) as bar:
        rows: dict[str, TaskID] = {}

        def step(kind: str, written: int) -> None:
            if kind not in rows:
                rows[kind] = bar.add_task(kind, total=held.get(kind))
            bar.update(rows[kind], completed=written)

        yield step


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse a kind that there is not, in a sentence that names those that there are."""
    from kommo.recordkinds import RECORD_KINDS

    for kind in kinds:
        if kind not in RECORD_KINDS:
            raise WrongUseError(f"There is no kind {kind[:50]!r}. Kinds: {', '.join(RECORD_KINDS)}.")
