"""The drift report for people, as Markdown."""

import re

from store.changes import Change, Drift
from store.kinds import KINDS
from store.severity import Severity

# A report is read by a person, and Prefect shows it as one page.
_MOST = 200
_LONGEST = 80
_SIGNS = {Severity.BREAKING: "🔴 breaking", Severity.WARNING: "🟠 warning", Severity.INFO: "info"}


def drift_markdown(drift: Drift) -> str:
    """The report: a summary and a table, weightiest first. Customers' texts are shown as text, never as markup."""
    counts = ", ".join(f"{number} {level}" for level, number in drift.counts().items() if number)
    lines = [f"# CRM drift of {escaped(drift.org)}", ""]
    since = f"run `{_code(drift.from_run)}`" if drift.from_run else "the snapshots before"
    lines += [f"From {since} to run `{_code(drift.to_run)}`: {counts or 'nothing changed'}.", ""]
    if drift.changes:
        lines += ["| severity | what | name | change | why |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(change) for change in drift.changes[:_MOST]]
        if len(drift.changes) > _MOST:
            lines += ["", f"… and {len(drift.changes) - _MOST} more."]
        lines.append("")
    if drift.not_compared:
        lines += [f"Read for the first time, so not compared: {', '.join(drift.not_compared)}.", ""]
    return "\n".join(lines)


def _row(change: Change) -> str:
    name = escaped(change.name or f"(no name, {change.key})")
    if change.parent:
        name = f"{escaped(change.parent)} / {name}"
    cells = (
        _SIGNS[change.severity],
        KINDS[change.kind].title,
        f"{name} ({escaped(change.key)})",
        _what(change),
        escaped(change.why, longest=None),
    )
    return f"| {' | '.join(cells)} |"


def _what(change: Change) -> str:
    if change.before is None or change.after is None:
        return change.change.value
    parts = [
        f"{escaped(key)}: {escaped(str(change.before[key]))} → {escaped(str(change.after[key]))}"
        for key in change.after
        if key in change.before
    ]
    return f"{change.change.value.replace('_', ' ')}: {'; '.join(parts)}" if parts else change.change.value


def escaped(text: str, longest: int | None = _LONGEST) -> str:
    """`text` on one line, cut, and with everything escaped that Markdown or HTML would take for its own."""
    line = " ".join(text.split())
    if longest is not None and len(line) > longest:
        line = f"{line[:longest]}…"
    return re.sub(r"([\\`*_{}\[\]<>|#~!&])", r"\\\1", line)


def _code(text: str) -> str:
    return text.replace("`", "'")
