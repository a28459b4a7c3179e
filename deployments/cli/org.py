"""`kommo org`: everything that is kept of one org, given out or removed for good."""

import getpass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deployments.cli.asking import confirm_by_name
from deployments.cli.output import cell, out, print_json, say, table
from deployments.cli.run import WrongUseError


async def export(org: str, *, to: Path | None = None, json: bool = False) -> None:
    """Write everything that is stored of an org into one ZIP file, without secrets.

    Args:
        org: The org.
        to: The file; by default ORG.zip in this folder.
        json: Print what was written as JSON.
    """
    from blocks.settings import Settings
    from tasks.export import export as write
    from tasks.installation import open_database

    file = to or Path(f"{org}.zip")
    if not file.parent.is_dir():
        raise WrongUseError(f"--to {str(file)!r}: there is no folder {str(file.parent)!r}.")
    async with open_database(Settings()) as database:
        report = await write(org, file, database=database)
    if json:
        print_json(report)
        return
    table(["table", "rows"], [(cell(name), count) for name, count in report.tables.items() if count])
    say(f"{sum(report.tables.values())} rows written to {report.file}.")


async def erase(
    org: str,
    *,
    yes: bool = False,
    dry_run: bool = False,
    by: str | None = None,
    prefect_database_url: Annotated[
        str | None, Parameter(env_var="PREFECT_SERVER_DATABASE_CONNECTION_URL")
    ] = None,
    json: bool = False,
) -> None:
    """Remove every trace of an org: our rows, its tokens, its runs, logs and artifacts at Prefect.

    One line of the audit stays, which says that it was done. Kommo itself and the product keep what they have.

    Args:
        org: The org; connected or not.
        yes: Do not ask.
        dry_run: Only say what is stored.
        by: Who asked for it, for the audit; by default the name of this machine's user.
        prefect_database_url: Where Prefect keeps its data, to remove its events as well: its API cannot.
        json: Print what was removed as JSON.
    """
    import sys

    from blocks.settings import Settings
    from tasks.erase import erase as remove
    from tasks.erase import what_is_kept
    from tasks.installation import open_database

    settings = Settings()
    async with open_database(settings) as database:
        report = await what_is_kept(org, database=database)
        if not dry_run:
            if not yes:
                if not sys.stdin.isatty():
                    raise WrongUseError("This removes everything for good: say --yes as well.")
                confirm_by_name(f"Remove every trace of {org}?", org)
            report = await remove(
                org,
                settings,
                database=database,
                by=by or getpass.getuser(),
                prefect_database_url=prefect_database_url,
            )
    if json:
        print_json(report)
        return
    rows = [("our database", cell(name), count) for name, count in sorted(report.rows.items())]
    if report.prefect is not None:
        rows += [("Prefect", "runs", report.prefect.runs), ("Prefect", "artifacts", report.prefect.artifacts)]
        rows += [
            ("Prefect's database", cell(name), count) for name, count in (report.prefect.rows or {}).items()
        ]
    table(["where", "what", "removed" if report.prefect else "stored"], [row for row in rows if row[2]])
    if report.prefect is None:
        say("Nothing was removed.")
        return
    out.print(f"[green]Erased[/] {cell(org)}. One line of the audit says so.")
    if report.prefect.left:
        left = ", ".join(f"{count} in {name}" for name, count in report.prefect.left.items())
        say(
            f"Prefect's database still names it ({left}): look for deployments or automations made for it.",
            style="yellow",
        )
    if report.events_left:
        say(
            "Prefect's API can delete no events: those about it end by Prefect's own retention, after seven days by "
            "default. To remove them now, give --prefect-database-url.",
            style="yellow",
        )
    say("What processes have written to log files or a journal is not reached from here: let it rotate.")
