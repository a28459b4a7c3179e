"""How fast the outbox is told: `python -m tests.benchmarks.outbox.deliver [--events N] [--url URL] [--orgs N]`.

Events that are in the outbox already when it begins go to a fast receiver, which is a process of its own: of 2 000
subjects over 20 orgs, then the same number of one org. The bar: 500 events/s.

The database is SQLite in a temporary directory, or the one that --url names (in a schema of its own).
"""

import argparse
import asyncio
import json
import multiprocessing
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy import text

from store.database import Database
from store.outbox import OutboxEvent, add_events, list_outbox
from tasks.deliver import deliver
from tasks.deliver_org import Options
from tests.outbox.support import session_of

SUBJECTS = 2000
_PER_SAVE = 1000
_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class FastReceiver(asyncio.Protocol):
    """Answers every request as soon as its last byte is there, and looks at nothing else."""

    counts: dict[str, int] = {"requests": 0}  # noqa: RUF012 - one for all connections, on purpose

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self.counts["requests"] += 1
            self._transport.write(_ANSWER)


async def _serve(pipe: Connection) -> None:
    server = await asyncio.get_running_loop().create_server(FastReceiver, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await asyncio.to_thread(pipe.recv)
    pipe.send(FastReceiver.counts["requests"])


def _receive(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


@contextmanager
def fast_receiver() -> Iterator[tuple[str, Connection]]:
    """A receiver as a process of its own; its address, and a pipe that gives the number of requests when asked."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_receive, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/events", ours
    finally:
        process.kill()
        process.join()


def event(number: int, orgs: int) -> OutboxEvent:
    """An event of the size that most have: a lead with its fields."""
    lead = number % SUBJECTS
    record = {
        "id": lead,
        "name": f"Deal {lead}",
        "price": number,
        "custom_fields_values": [
            {"field_id": field, "field_name": f"Field {field}", "values": [{"value": "x" * 20}]}
            for field in range(8)
        ],
    }
    return OutboxEvent(
        "kommo.lead.updated", f"org-{lead % orgs}", f"lead:{lead}", {"n": number, "record": record}
    )


async def measure(database: Database, events: int, orgs: int) -> dict[str, Any]:
    """Fill, deliver, and say how it went."""
    for begin in range(0, events, _PER_SAVE):
        rows = [event(number, orgs) for number in range(begin, min(events, begin + _PER_SAVE))]
        async with database.begin() as connection:
            await add_events(connection, rows, datetime.now(UTC))
    with fast_receiver() as (url, pipe):
        begun, cpu = time.perf_counter(), time.process_time()
        report = await deliver(session_of(database, url, options=Options()), 0.0)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        pipe.send(None)
        requests = pipe.recv()
    assert report.delivered == events == requests, report
    assert not report.outbox, report.outbox
    assert len(await list_outbox(database, state="delivered", limit=events + 1)) == events
    return {
        "database": database.dialect,
        "events": events,
        "orgs": orgs,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "events_per_second": round(events / seconds),
    }


async def run(url: str | None, events: int, orgs: list[int]) -> list[dict[str, Any]]:
    """One measurement for each number of orgs, on a database each."""
    results = []
    for count in orgs:
        folder, schema = Path(tempfile.mkdtemp(prefix="outbox-")), f"bench_{uuid.uuid4().hex[:12]}"
        try:
            async with Database.open(url or f"sqlite:///{folder}/bench.db", schema) as database:
                await database.ensure()
                results.append(await measure(database, events, count))
                if url:
                    async with database.begin() as connection:
                        await connection.execute(text(f'DROP SCHEMA "{schema}" CASCADE'))
        finally:
            shutil.rmtree(folder)
    return results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--orgs", type=int, nargs="*", default=[20, 1])
    parser.add_argument("--url", help="a PostgreSQL database; without it, SQLite")
    asked = parser.parse_args()
    print(json.dumps(asyncio.run(run(asked.url, asked.events, asked.orgs)), indent=2))


if __name__ == "__main__":
    main()
