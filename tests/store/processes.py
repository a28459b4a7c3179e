"""What the tests run as real processes: `python -m tests.store.processes <what> <database URL> <schema> …`."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import event

from store.budget import DatabaseBudget
from store.database import Database
from store.snapshots import begin_run, save_snapshot
from tests.store.builders import minutes, pipeline, status


async def ensure(db: Database) -> None:
    """Make the tables."""
    await db.ensure()


async def hammer(db: Database, begin: str, seconds: str, lane: str, *keys: str) -> None:
    """From the time `begin` on reserve as much as one can for some seconds; print the granted starting times."""
    budget = DatabaseBudget(db)
    await budget.status()  # connect before the time begins
    await asyncio.sleep(float(begin) - time.time())
    end = time.time() + float(seconds)
    starts: list[float] = []
    while time.time() < end:
        reservation = await budget.reserve(keys, lane)
        if reservation.granted:
            starts.append(time.time() + reservation.wait)
        await asyncio.sleep(reservation.wait)
    print(json.dumps(starts))  # noqa: T201 - the parent reads it


async def die_while_saving(db: Database, org: str) -> None:
    """Save a changed picture, and stop for ever in the middle of writing it."""
    statements = 0

    def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal statements
        if statement.startswith(("INSERT INTO", "UPDATE")) and "pipeline" in statement:
            statements += 1
            if statements == 2:
                print("in the middle", flush=True)  # noqa: T201 - the parent waits for it
                time.sleep(60)

    run_id = await begin_run(db, org, "all", now=minutes(5))
    event.listen(db.engine.sync_engine, "after_cursor_execute", stop)
    rows = {
        "pipelines": [pipeline(number, "Half") for number in range(1, 4)],
        "statuses": [status(1, number, "Half") for number in range(100, 3000)],
    }
    await save_snapshot(db, run_id, org, rows, read_started_at=minutes(5), now=minutes(5))


_COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "ensure": ensure,
    "hammer": hammer,
    "die_while_saving": die_while_saving,
}


async def main(command: str, url: str, schema: str, *arguments: str) -> None:
    async with Database.open(url, schema) as db:
        await _COMMANDS[command](db, *arguments)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
