"""An org's data as one file: a ZIP with a file of JSON lines for each table, and a page that says what it is."""

import asyncio
import base64
import hashlib
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from kommo.clock import Clock, SystemClock
from store.database import Database
from store.errors import UnknownConnectionError
from store.exporting import LEFT_OUT, exported_tables, pages_of
from store.types import escape_halves
from tasks.files import whole_file

_README = """\
Everything that is stored of the org {org}, as of {at}.

One file for each table; each line is one row as JSON, times in UTC. Tables of versions (`valid_from`, `valid_to`)
hold the history, too: what holds now has no `valid_to`. A body that is no text is given as {{"base64": ...}}.
`manifest.json` has the number of rows and the SHA-256 of each file.

Left out, because they hold secrets or nothing about the account:
{left_out}
"""


class ExportReport(BaseModel):
    """What was written, in rows by table."""

    org: str
    file: str
    tables: dict[str, int]


async def export(org: str, file: Path, *, database: Database, clock: Clock | None = None) -> ExportReport:
    """Write everything that is stored of an org into a ZIP file; page by page, so that memory stays small.

    The file appears under its name when it is whole, readable by its owner only.

    Args:
        org: the product's tenant.
        file: where to; an older one is replaced.
        database: an open database.
        clock: source of time.

    Raises:
        UnknownConnectionError: nothing is stored of the org.
        FileNotWrittenError: the file cannot be written.
    """
    at = (clock or SystemClock()).now()
    tables: dict[str, int] = {}
    digests: dict[str, str] = {}
    with whole_file(file) as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as packed:
        for table in exported_tables():
            with packed.open(f"{table.name}.jsonl", "w", force_zip64=True) as lines:
                digest = hashlib.sha256()
                tables[table.name] = 0
                async for rows in pages_of(database, table, org):
                    await asyncio.to_thread(_write, lines, digest, rows)
                    tables[table.name] += len(rows)
            digests[table.name] = digest.hexdigest()
        if not any(tables.values()):
            raise UnknownConnectionError(f"Nothing is stored of {org!r}. `kommo status` lists the orgs.")
        packed.writestr("manifest.json", _manifest(org, at, tables, digests))
        left_out = "\n".join(f"- {name}: {why}" for name, why in LEFT_OUT.items())
        packed.writestr(
            "README.txt", _README.format(org=org, at=f"{at:%Y-%m-%d %H:%M} UTC", left_out=left_out)
        )
    return ExportReport(org=org, file=str(file), tables=tables)


def _write(lines: IO[bytes], digest: "hashlib._Hash", rows: list[dict[str, Any]]) -> None:
    for row in rows:
        line = escape_halves(json.dumps(row, ensure_ascii=False, default=_plain)).encode() + b"\n"
        digest.update(line)
        lines.write(line)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    return str(value)


def _manifest(org: str, at: datetime, tables: dict[str, int], digests: dict[str, str]) -> str:
    files = {f"{name}.jsonl": {"rows": tables[name], "sha256": digests[name]} for name in tables}
    return json.dumps({"org": org, "at": at.isoformat(), "files": files}, indent=2)
