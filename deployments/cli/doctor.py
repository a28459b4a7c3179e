"""`kommo doctor`: everything that can be set up wrongly, with what to type."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments.cli.output import cell, out, print_json, say, table
from deployments.cli.run import WrongUseError, many_imports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.doctor import Row

_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "fault": "red"}


async def doctor(
    *,
    only: Annotated[list[str] | None, Parameter(negative="")] = None,
    timeout: float = 10.0,  # noqa: ASYNC109 - it is of each check, not of this
    ping: bool = False,
    json: bool = False,
) -> None:
    """Look at everything that can be set up wrongly, and say what to type.

    It changes nothing, and each check stands for itself. Exit code 1 if there is a fault; warnings are shown.

    Args:
        only: Only this check; may be given several times.
        timeout: Seconds that each check may take.
        ping: Also send one signed test event to the product's address.
        json: Print what was found as JSON.
    """
    with many_imports():
        from blocks.settings import Settings
        from deployments.doctor import ALL_CHECKS
        from tasks.doctor import open_surroundings, run_checks

    names = [check.name for check in ALL_CHECKS]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise WrongUseError(f"There is no check {unknown[0]!r}. There are: {', '.join(names)}.")
    if timeout <= 0:
        raise WrongUseError("--timeout is a number of seconds above 0.")
    checks = [check for check in ALL_CHECKS if not only or check.name in only]
    async with open_surroundings(Settings(), ping=ping) as around:
        rows = await run_checks(checks, around, seconds=timeout)
    counts = Counter(row.level.value for row in rows)
    if json:
        print_json(
            {
                "ok": not counts["fault"],
                "faults": counts["fault"],
                "warnings": counts["warning"],
                "checks": rows,
            }
        )
    else:
        _show(rows, counts)
    if counts["fault"]:
        sys.exit(1)


def _show(rows: Sequence[Row], counts: Counter[str]) -> None:
    left_out = [row.name for row in rows if row.level == "skipped"]
    rows = [row for row in rows if row.level != "skipped"]
    if out.is_terminal:
        group = ""
        for row in rows:
            if row.group != group:
                group = row.group
                out.print(f"\n[bold]{cell(group)}[/]")
            out.print(
                f"  [{_STYLES[row.level]}]{_MARKS[row.level]}[/] {cell(row.name):<18} {cell(row.sentence)}"
            )
            if row.fix and row.level in {"warning", "fault"}:
                out.print(f"    {'':<18} [cyan]→ {cell(row.fix)}[/]")
        out.print()
    else:
        table(
            ("state", "check", "what is so", "what to do"),
            [(row.level.value, cell(row.name), cell(row.sentence), cell(row.fix or "")) for row in rows],
        )
    if left_out:
        say(f"Not looked at, because of something above: {', '.join(left_out)}.", style="dim")
    well = f"{counts['ok']} well"
    if counts["fault"]:
        out.print(f"[red]{counts['fault']} faults[/], {counts['warning']} warnings, {well}.")
    else:
        say(f"No faults, {counts['warning']} warnings, {well}.")


_MARKS = {"ok": "✓", "skipped": "·", "warning": "!", "fault": "✗"}
