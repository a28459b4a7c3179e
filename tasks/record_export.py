"""An org's records as files for other programs: Parquet, CSV or JSON lines, one for each kind.

Written page by page, so that memory does not grow with the account; a file appears under its name when it is whole, and
its owner alone may read it.
"""

import asyncio
import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

from pydantic import BaseModel

from store.database import Database
from store.record_queries import EXPORTED, current_fields, pages_of_records
from store.types import clean_text
from tasks.errors import DataPlaneError
from tasks.files import whole_file

_FIELDS_OF = {"leads": "lead_fields", "contacts": "contact_fields", "companies": "company_fields"}
_MOMENTS = frozenset({"created_at", "updated_at", "closed_at"})
_TEXTS = frozenset({"key", "name", "type", "parent_entity", "raw"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]


class Format(StrEnum):
    """What a file is written as."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


class ExportError(DataPlaneError):
    """The files could not be written; the sentence says what to do."""


class ExportedKind(BaseModel):
    """One file."""

    kind: str
    file: str
    rows: int
    bytes: int


class _Writer(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class Wide:
    """A column for each custom field of a kind, named as it is in Kommo; of two with one name each has its id, too.

    Args:
        fields: id and name of each.
    """

    def __init__(self, fields: Sequence[tuple[int, str]]) -> None:
        taken = Counter(clean_text(name).casefold() for _, name in fields)
        taken.update(EXPORTED)
        self.columns: Mapping[int, str] = {
            number: clean_text(name)
            if taken[clean_text(name).casefold()] == 1
            else f"{clean_text(name)} ({number})"
            for number, name in fields
        }

    def values(self, raw: Mapping[str, Any]) -> Row:
        """A record's values by column: one as it is, several as a list."""
        found: Row = dict.fromkeys(self.columns.values())
        for field in raw.get("custom_fields_values") or ():
            column = self.columns.get(field.get("field_id"))
            if column is not None:
                values = [value.get("value") for value in field.get("values") or ()]
                found[column] = values[0] if len(values) == 1 else values or None
        return found


async def export_records(
    database: Database,
    org: str,
    kinds: Sequence[str],
    folder: Path,
    form: Format,
    *,
    wide: bool = False,
    raw: bool = False,
    escape_formulas: bool = False,
    step: Callable[[str, int], None] = lambda _kind, _rows: None,
) -> list[ExportedKind]:
    """Write the records that are there, each kind as it all stood at one moment.

    Args:
        database: an open database.
        org: the product's tenant.
        kinds: which.
        folder: where to; made if it is missing.
        form: what the files are.
        wide: a column for each custom field of leads, contacts and companies.
        raw: Kommo's own object as a column of JSON (in JSON lines: as it is).
        escape_formulas: in CSV, put an apostrophe before what a spreadsheet would take for a formula.
        step: told each kind and how many of its rows are written.

    Raises:
        ExportError: pyarrow is missing, or the custom fields of a kind are not known.
        FileNotWrittenError: a file cannot be written.
    """
    if form is Format.PARQUET:
        _need_pyarrow()
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    return [
        await _export_kind(
            database, org, kind, folder, form, wide=wide, raw=raw, escape_formulas=escape_formulas, step=step
        )
        for kind in kinds
    ]


async def _export_kind(
    database: Database,
    org: str,
    kind: str,
    folder: Path,
    form: Format,
    *,
    wide: bool,
    raw: bool,
    escape_formulas: bool,
    step: Callable[[str, int], None],
) -> ExportedKind:
    spread = await _wide_of(database, org, kind) if wide and kind in _FIELDS_OF else None
    columns = [*EXPORTED, *(spread.columns.values() if spread else ()), *(["raw"] if raw else ())]
    file = folder / f"{kind}.{form.value}"
    written = 0
    with whole_file(file) as out:
        writer = _open(out, form, columns, escape_formulas=escape_formulas)
        async with aclosing(pages_of_records(database, org, kind)) as pages:
            async for page in pages:
                rows = [_row(one, spread, raw=raw) for one in page]
                await asyncio.to_thread(writer.write, rows)
                written += len(rows)
                step(kind, written)
        await asyncio.to_thread(writer.close)
    return ExportedKind(kind=kind, file=str(file), rows=written, bytes=file.stat().st_size)


async def _wide_of(database: Database, org: str, kind: str) -> Wide:
    fields = await current_fields(database, org, _FIELDS_OF[kind])
    if not fields:
        raise ExportError(f"The custom fields of {kind} are not known yet: kommo sync {org} --scope fields")
    return Wide(fields)


def _row(record: Row, spread: Wide | None, *, raw: bool) -> Row:
    content = record["raw"]
    row = {name: record[name] for name in EXPORTED}
    if spread is not None:
        row |= spread.values(content)
    return row | {"raw": content} if raw else row


def _open(out: IO[bytes], form: Format, columns: Sequence[str], *, escape_formulas: bool) -> _Writer:
    if form is Format.PARQUET:
        return _Parquet(out, columns)
    return _Csv(out, columns, escape_formulas=escape_formulas) if form is Format.CSV else _JsonLines(out)


class _JsonLines:
    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, rows: Sequence[Row]) -> None:
        self._out.write("".join(f"{json.dumps(row, default=_shown)}\n" for row in rows).encode("ascii"))

    def close(self) -> None:
        self._out.flush()


class _Csv:
    """Lines end as RFC 4180 says; nothing is an empty cell; lists and objects are JSON."""

    def __init__(self, out: IO[bytes], columns: Sequence[str], *, escape_formulas: bool) -> None:
        self._out = out
        self._columns = columns
        self._escape = escape_formulas
        self._write([columns])

    def write(self, rows: Sequence[Row]) -> None:
        self._write([[self._cell(row[name]) for name in self._columns] for row in rows])

    def close(self) -> None:
        self._out.flush()

    def _cell(self, value: object) -> object:
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        told = _text(value)
        return f"'{told}" if self._escape and told.startswith(_FORMULA) else told

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        lines: list[str] = []
        csv.writer(_Lines(lines)).writerows(rows)
        self._out.write("".join(lines).encode("utf-8"))


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> None:
        self._lines.append(text)


class _Parquet:
    """Numbers are int64, times are microseconds in UTC, custom fields and everything else are text."""

    def __init__(self, out: IO[bytes], columns: Sequence[str]) -> None:
        arrow, parquet = _need_pyarrow()
        self._arrow = arrow
        self._schema = arrow.schema([(name, self._type(name)) for name in columns])
        self._writer = parquet.ParquetWriter(out, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        columns = [[self._value(name, row[name]) for row in rows] for name in self._schema.names]
        arrays = [
            self._arrow.array(values, type=kind)
            for values, kind in zip(columns, self._schema.types, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()

    def _type(self, name: str) -> Any:  # noqa: ANN401 - pyarrow says nothing of its types
        if name in _MOMENTS:
            return self._arrow.timestamp("us", tz="UTC")
        return self._arrow.int64() if name in EXPORTED and name not in _TEXTS else self._arrow.string()

    def _value(self, name: str, value: object) -> object:
        if value is None or (name in EXPORTED and name not in _TEXTS):
            return value
        return _text(value)


def _need_pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise ExportError(
            "Parquet needs pyarrow, which is not installed: uv sync --extra parquet (or --format csv)."
        ) from None


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _text(value: object) -> str:
    if isinstance(value, str):
        return clean_text(value)
    return _shown(value) if isinstance(value, datetime) else json.dumps(value)
