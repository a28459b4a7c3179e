"""Small CRMs for the tests, and the shortest way to save one."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from store.database import Database
from store.kinds import find_kind
from store.snapshots import Item, Saved, begin_run, finish_run, save_snapshot
from tests.quick.running import QUICK

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def minutes(number: float) -> datetime:
    """A moment some minutes after the start of the tests' time."""
    return START + timedelta(minutes=number)


def item(kind: str, raw: Mapping[str, Any] | None = None, **columns: Any) -> Item:
    """An item whose raw JSON holds its columns as Kommo would name them, and a link that changes with every read."""
    found = find_kind(kind)
    plain = {found.columns[name]: value for name, value in columns.items()}
    return Item(found.key(columns), columns, {**plain, **(raw or {})})


def _item(kind: str, given: Mapping[str, Any], **defaults: Any) -> Item:
    return item(kind, None, **{**defaults, **given})


def pipeline(number: int, name: str = "Sales", **columns: Any) -> Item:
    return _item("pipelines", columns, pipeline_id=number, name=name, sort=number, is_main=False)


def status(pipeline_id: int, number: int, name: str = "New", **columns: Any) -> Item:
    return _item("statuses", columns, pipeline_id=pipeline_id, status_id=number, name=name, sort=number)


def field(number: int, name: str = "Budget", **columns: Any) -> Item:
    return _item("lead_fields", columns, field_id=number, name=name, type="text", sort=number)


def enum(field_id: int, number: int, value: str, **columns: Any) -> Item:
    return _item("lead_field_enums", columns, field_id=field_id, enum_id=number, value=value)


async def save(
    db: Database,
    at: float,
    rows: Mapping[str, Sequence[Item]],
    org: str = "acme",
    read_at: float | None = None,
) -> tuple[str, dict[str, Saved]]:
    """A whole run that saves these rows `at` some minutes; gives the run's id and what was saved."""
    now = minutes(at)
    run_id = await begin_run(db, org, "all", now=now)
    read_started_at = minutes(at if read_at is None else read_at)
    saved = await save_snapshot(db, run_id, org, rows, read_started_at=read_started_at, now=now)
    await finish_run(db, run_id, "completed", requests=1, now=now)
    return run_id, saved


async def start_process(*arguments: str) -> asyncio.subprocess.Process:
    """One of the processes of `processes.py`, which can be killed by its id."""
    return await _start(sys.executable, "-m", "tests.store.processes", *arguments)


async def _start(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run_processes(*commands: Sequence[str]) -> list[str]:
    """Run several of them at once; gives what each printed. One that fails fails the test, with its error.

    The test asks for the fixture `quick`.
    """
    processes = [await _start(*QUICK, "tests.store.processes", *command) for command in commands]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors.decode()
    return [output.decode() for output, _ in outputs]


async def run_many(times: int, *command: str) -> list[str]:
    """Run one of them in so many processes that begin at the same moment; gives the lines that they printed."""
    (output,) = await run_processes(("--fork", str(times), *command))
    return output.splitlines()
