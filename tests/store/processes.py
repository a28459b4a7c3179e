"""What the tests run as real processes: `python -m tests.store.processes <what> <database URL> <schema> …`."""

import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from store.audit import AuditNote
from store.backlog import end_turn, pending_events, settle, take_turn
from store.budget import DatabaseBudget
from store.claims import holder, note_step, release, take_claim
from store.connections import mark_attempt_failed, set_state
from store.database import Database
from store.inbox import save_deliveries
from store.oauth_states import TakenState, take_state
from store.outbox import OutboxEvent
from store.snapshots import begin_run, save_snapshot
from tests.store.builders import minutes, pipeline, status
from tests.store.hooks import change, delivery


def say(line: str) -> None:
    """Print a line for the parent, whole: several processes may share the output."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


@dataclass(frozen=True)
class _StartingLine:
    """The ends of the pipes by which forked processes say that they are ready, and learn that all are."""

    ready: int
    go: int


_line: _StartingLine | None = None


async def _all_are_ready() -> None:
    """Wait for the other processes, or, in a process by itself, for a line from the parent."""
    if _line is None:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        return
    os.write(_line.ready, b".")
    await asyncio.to_thread(os.read, _line.go, 1)


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
    say(json.dumps(starts))


async def die_while_saving(db: Database, org: str) -> None:
    """Save a changed picture, and stop for ever in the middle of writing it."""
    statements = 0

    def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal statements
        if statement.startswith(("INSERT INTO", "UPDATE")) and "pipeline" in statement:
            statements += 1
            if statements == 2:
                say("in the middle")
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
                say(state_hash)


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
    say(json.dumps(holds))


async def hold_and_hang(db: Database, org: str, seconds: str) -> None:
    """Take the claim, note a step, and hang."""
    claim = await take_claim(db, org, "hanging", float(seconds))
    assert claim is not None
    await note_step(db, claim, "calling", "fp-1")
    say(json.dumps({"serial": claim.serial}))
    await asyncio.sleep(60)


async def hold_and_wake(db: Database, org: str, seconds: str) -> None:
    """Take the claim, wait to be told to go on, and print what of it is left."""
    claim = await take_claim(db, org, "sleeper", float(seconds))
    assert claim is not None
    await _all_are_ready()
    told = {
        "ours": await note_step(db, claim, "awake", seconds=0.0),
        "noted": await note_step(db, claim, "woken up"),
        "released": await release(db, claim),
    }
    say(json.dumps(told))


async def report_failure(db: Database, org: str) -> None:
    """Report the same change of a connection's state as the other processes do; print what was answered."""
    await _all_are_ready()
    event = OutboxEvent("integration_error", org, "connection", {})
    note, now = AuditNote("failed", {}), minutes(1)
    changed = await set_state(db, org, "failed", "why", events=[event], audit=note, now=now)
    say(str(changed))


async def report_dead(db: Database, org: str) -> None:
    """Report that a pair is finally refused, as the other processes do; print what was answered."""
    await _all_are_ready()
    told = await mark_attempt_failed(
        *(db, org),
        next_refresh_at=None,
        reason="Kommo refuses it.",
        reason_code="revoked",
        state="reauthorization_required",
        seen="a",
        events=[OutboxEvent("integration_error", org, "connection", {})],
        audit=AuditNote("dead", {}),
        now=minutes(1),
    )
    say(told)


async def write_deliveries(db: Database, tasks: str, *keys: str) -> None:
    """Write the same events as all others do, in so many tasks and each time in another order; print what was new."""
    await holder(db, "acme")  # connect before it begins
    await _all_are_ready()

    async def write() -> int:
        batch = [delivery(change(key)) for key in random.sample(keys, len(keys))]
        return sum(saved.new for saved in await save_deliveries(db, batch))

    say(str(sum(await asyncio.gather(*(write() for _ in range(int(tasks)))))))


async def work_off(db: Database) -> None:
    """Take turns and settle what is due until nothing is left; print what was settled."""
    worked: list[tuple[str, str]] = []
    owner, idle = uuid.uuid4().hex, 0
    await _all_are_ready()
    while idle < 5:
        turn = await take_turn(db, owner, 60.0)
        if turn is None:
            idle += 1
            await asyncio.sleep(0.05)
            continue
        idle = 0
        events = await pending_events(db, turn, 4)
        async with db.begin() as connection:
            assert await settle(connection, turn, [(one.id, None) for one in events], now=minutes(1))
        worked += [(one.org, one.unique_key) for one in events]
        assert await end_turn(db, turn)
    say(json.dumps(worked))


_COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "ensure": ensure,
    "hammer": hammer,
    "die_while_saving": die_while_saving,
    "take_states": take_states,
    "hold_claims": hold_claims,
    "hold_and_hang": hold_and_hang,
    "hold_and_wake": hold_and_wake,
    "report_failure": report_failure,
    "report_dead": report_dead,
    "write_deliveries": write_deliveries,
    "work_off": work_off,
}


async def main(command: str, url: str, schema: str, *arguments: str) -> None:
    async with Database.open(url, schema) as db:
        await _COMMANDS[command](db, *arguments)


def fork(times: int, arguments: list[str]) -> int:
    """Run `main` in so many processes, which share the imports: twenty starts would take longer than what they do."""
    global _line  # noqa: PLW0603 - a process has one
    ready, tell_ready = os.pipe()
    go, tell_go = os.pipe()
    children = []
    for _ in range(times):
        child = os.fork()
        if child == 0:
            os.close(tell_go)
            _line = _StartingLine(tell_ready, go)
            try:
                asyncio.run(main(*arguments))
            except BaseException:
                os.write(tell_ready, b".")  # the others must not wait for this one
                raise
            os._exit(0)
        children.append(child)
    os.close(tell_ready)
    waiting = times
    while waiting and (said := os.read(ready, waiting)):
        waiting -= len(said)
    os.close(tell_go)
    return max(os.waitpid(child, 0)[1] for child in children)


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        sys.exit(min(1, fork(int(sys.argv[2]), sys.argv[3:])))
    asyncio.run(main(*sys.argv[1:]))
