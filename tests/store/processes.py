"""What the tests run as real processes: `python -m tests.store.processes <what> <database URL> <schema> …`."""

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import event

from store.budget import DatabaseBudget
from store.claims import holder, note_step, release, still_ours, take_claim
from store.database import Database
from store.oauth_states import TakenState, take_state
from store.snapshots import begin_run, save_snapshot
from tests.store.builders import minutes, pipeline, status


async def _all_are_ready() -> None:
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    await asyncio.to_thread(sys.stdin.readline)


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


async def take_states(db: Database, tasks: str, *hashes: str) -> None:
    """Try for each state with so many tasks at once; print the state for each that got it."""
    await _all_are_ready()
    for state_hash in hashes:
        taken = await asyncio.gather(*(take_state(db, state_hash, minutes(1)) for _ in range(int(tasks))))
        for one in taken:
            if isinstance(one, TakenState):
                print(state_hash)  # noqa: T201 - the parent reads it


async def hold_claims(db: Database, org: str, rounds: str) -> None:
    """Take the claim so many times; print the serial, beginning and end of each hold."""
    holds: list[tuple[int, float, float]] = []
    await holder(db, org)  # connect before it begins
    await _all_are_ready()
    while len(holds) < int(rounds):
        claim = await take_claim(db, org, uuid.uuid4().hex, 60.0)
        if claim is None:
            await asyncio.sleep(random.uniform(0.001, 0.05))
            continue
        held_from = time.monotonic()
        await asyncio.sleep(0.002)
        holds.append((claim.serial, held_from, time.monotonic()))
        assert await note_step(db, claim, "done")
        assert await release(db, claim)
    print(json.dumps(holds))  # noqa: T201 - the parent reads it


async def hold_and_hang(db: Database, org: str, seconds: str) -> None:
    """Take the claim, note a step, and hang."""
    claim = await take_claim(db, org, "hanging", float(seconds))
    assert claim is not None
    await note_step(db, claim, "calling", "fp-1")
    print(json.dumps({"serial": claim.serial}), flush=True)  # noqa: T201 - the parent waits for it
    await asyncio.sleep(60)


async def hold_and_wake(db: Database, org: str, seconds: str) -> None:
    """Take the claim, wait to be told to go on, and print what of it is left."""
    claim = await take_claim(db, org, "sleeper", float(seconds))
    assert claim is not None
    await _all_are_ready()
    told = {
        "ours": await still_ours(db, claim),
        "noted": await note_step(db, claim, "woken up"),
        "released": await release(db, claim),
    }
    print(json.dumps(told))  # noqa: T201 - the parent reads it


_COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "ensure": ensure,
    "hammer": hammer,
    "die_while_saving": die_while_saving,
    "take_states": take_states,
    "hold_claims": hold_claims,
    "hold_and_hang": hold_and_hang,
    "hold_and_wake": hold_and_wake,
}


async def main(command: str, url: str, schema: str, *arguments: str) -> None:
    async with Database.open(url, schema) as db:
        await _COMMANDS[command](db, *arguments)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
