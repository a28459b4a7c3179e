"""How the command line speaks: tables and colours on a terminal, plain text when piped, JSON when asked."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime

from pydantic import BaseModel
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

STATE_STYLES: Mapping[str, str] = {
    "connected": "green",
    "completed": "green",
    "saved": "green",
    "degraded": "yellow",
    "superseded": "yellow",
    "running": "cyan",
    "confirmed": "green",
    "intended": "cyan",
    "sent": "cyan",
    "unknown": "yellow",
    "refreshing": "cyan",
    "outcome_unknown": "yellow",
    "failed": "red",
    "reauthorization_required": "red",
    "abandoned": "red",
    "disconnected": "dim",
    "delivered": "green",
    "pending": "cyan",
    "dead": "red",
    "breaking": "red",
    "warning": "yellow",
    "info": "dim",
}


def print_json(value: object) -> None:
    """Write one JSON document to standard output; times as ISO 8601 in UTC."""
    from store.types import escape_halves

    written = json.dumps(value, indent=2, ensure_ascii=False, default=_json_default)
    sys.stdout.write(escape_halves(written) + "\n")
    sys.stdout.flush()  # a service that goes on is read by someone who waits for its first line


def _json_default(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def say(text: str, *, style: str | None = None) -> None:
    """One line for a person."""
    out.print(escape(text), style=style)


def complain(sentence: str) -> None:
    """One error for a person, on standard error."""
    err.print(f"[bold red]error:[/] {escape(sentence)}")


def state_text(state: str | None) -> str:
    """A state in its colour."""
    if state is None:
        return "–"
    style = STATE_STYLES.get(state)
    return f"[{style}]{escape(state)}[/]" if style else escape(state)


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago something was, as a person says it."""
    if moment is None:
        return "never"
    seconds = (now - moment).total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now" if seconds < 5 else f"{int(seconds)} s ago"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table; cells are rich markup, so text from outside must be escaped by `cell`."""
    lines = [[str(value) for value in row] for row in rows]
    if not out.is_terminal:
        _plain_table([list(columns), *lines])
        return
    grid = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for line in lines:
        grid.add_row(*line)
    out.print(grid)


def _plain_table(lines: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they must be: a pipe has no width to keep to, and a table that is cut there loses data."""
    texts = [[Text.from_markup(value, emoji=False).plain for value in line] for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        padded = (set_cell_size(text, width) for text, width in zip(line, widths, strict=True))
        out.print(Text("  ".join(padded).rstrip()))


def cell(value: object) -> str:
    """One value as a table cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | dict):
        return escape(json.dumps(value, ensure_ascii=False))
    # Text from a CRM may hold control characters; a terminal would obey them.
    return escape("".join(char if char.isprintable() else "�" for char in str(value)))
