"""How fast records are read: `python -m tests.benchmarks.records.ours [--records 100000] [--limit 7] [--database URL]`.

One process reads leads and contacts of a sandbox (a process of its own, started here unless --sandbox says where one
is) into an empty database: everything, then everything again, unchanged. It is the code of the flow `sync-records` with
the shared request budget, without Prefect around it. Prints one JSON object; seconds are those of the readings alone,
processor time and memory those of this process.
"""

import argparse
import asyncio
import json
import math
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import text

from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from kommo.recordkinds import RECORD_KINDS
from store.budget import DatabaseBudget
from store.connections import put_connection
from store.database import Database
from store.record_sync import RecordMode, count_records
from tasks.record_reading import KindReader
from tasks.record_session import session_of

ROOT = Path(__file__).parents[3]
UNCOUNTED = 0


@dataclass(frozen=True)
class Kommo:
    """Where the sandbox is, and who may ask."""

    host: str
    token: str
    account_id: int


@asynccontextmanager
async def sandbox(records: int, limit: int) -> AsyncIterator[Kommo]:
    """A sandbox as a process of its own, with so many leads and contacts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox", "--port", "0", "--json", "--accounts", "1"),
        *("--leads", str(records), "--contacts", str(records), "--limit", str(limit)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        assert process.stdout is not None
        account = json.loads(await process.stdout.readline())["accounts"][0]
        yield Kommo(account["host"], account["admin_token"], account["account_id"])
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def empty_database(url: str | None, *, keep: bool = False) -> AsyncIterator[Database]:
    """A file in a temporary folder, or a schema of its own on PostgreSQL, removed at the end unless it is kept."""
    if url is not None and keep:
        async with Database.open(url) as database:
            await database.upgrade()
            yield database
        return
    if url is None or url.startswith("sqlite"):
        with tempfile.TemporaryDirectory() as folder:
            async with Database.open(url or f"sqlite+aiosqlite:///{folder}/store.db") as database:
                await database.ensure()
                yield database
        return
    schema = f"bench_{uuid.uuid4().hex[:12]}"
    async with Database.open(url, schema) as database:
        await database.ensure()
        try:
            yield database
        finally:
            async with database.begin() as connection:
                await connection.execute(text(f'drop schema "{schema}" cascade'))


async def _warm(kommo: Kommo, kinds: Sequence[str], limit: int) -> None:
    """Have the sandbox render every record once, and only then be as strict as Kommo.

    Rendering a page for the first time holds up its one thread for longer than the budget has to spare: it would note
    requests as later than they came.
    """
    address = f"http://127.0.0.1:{kommo.host.rpartition(':')[2]}"
    headers = {"Host": kommo.host, "Authorization": f"Bearer {kommo.token}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60) as asking:
        for kind in kinds:
            resource, page = RECORD_KINDS[kind].resource, 1
            while True:
                params = [(name, value) for name, value in resource.params() if name not in {"limit", "page"}]
                asked = httpx.QueryParams([*params, ("limit", "250"), ("page", str(page))])
                if (await asking.get(resource.path, params=asked)).status_code == 204:
                    break
                page += 1
            # A reading goes by the time of the last change, and then asks for what is deleted.
            asked = httpx.QueryParams(
                [("order[updated_at]", "asc"), ("filter[updated_at][to]", "2000000000")]
            )
            await asking.get(resource.path, params=asked)
        (
            await asking.post("/_sandbox/limits", json={"per_account": limit, "per_ip": limit})
        ).raise_for_status()
        (await asking.delete("/_sandbox/requests")).raise_for_status()


async def read_all(
    database: Database, kommo: Kommo, kinds: list[str], limit: int, *, mode: RecordMode = RecordMode.FULL
) -> dict[str, Any]:
    """Read the kinds once, and say what it took."""
    clock = SystemClock()
    connection = await put_connection(
        database,
        org="bench",
        block_name="bench",
        host=kommo.host,
        account_id=kommo.account_id,
        token_kind="long_lived",
        now=clock.now(),
    )
    rate = limit or UNCOUNTED
    async with KommoClient(
        parse_host(kommo.host, allow_loopback=True),
        StaticToken(SecretStr(kommo.token)),
        budget=DatabaseBudget(database, limits={"account": rate, "egress": rate}),
        account_key=f"account:{kommo.account_id}",
        clock=clock,
    ) as client:
        session = await session_of(connection, client, database, clock)
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        counts = [await KindReader(session, RECORD_KINDS[kind], mode).read() for kind in kinds]
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
    rows = sum(count.records for count in counts)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, Any] = {
        "rows": rows,
        "rows_per_second": round(rows / seconds),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "cpu_seconds_per_100000": round(cpu / max(rows, 1) * 100_000, 3),
        "peak_rss_mb": round(after.ru_maxrss / 1024, 1),
        "requests": client.requests_sent,
        "added": sum(count.added for count in counts),
        "changed": sum(count.changed for count in counts),
    }
    if limit:
        found["ideal_seconds"] = round(client.requests_sent / limit, 3)
        found["of_ideal"] = round(seconds / (client.requests_sent / limit), 4)
        found["pages_of_250"] = sum(math.ceil(count.records / 250) for count in counts)
    return found


async def measure(wanted: argparse.Namespace) -> dict[str, Any]:
    """Both readings of one database."""
    kinds = wanted.kinds.split(",")
    async with empty_database(wanted.database, keep=wanted.keep) as database:
        if wanted.sandbox:
            host, token, account = wanted.sandbox.split(" ")
            return await _both(database, Kommo(host, token, int(account)), kinds, wanted)
        async with sandbox(wanted.records, 0) as kommo:
            if wanted.limit:
                await _warm(kommo, kinds, wanted.limit)
            return await _both(database, kommo, kinds, wanted)


async def _both(
    database: Database, kommo: Kommo, kinds: list[str], wanted: argparse.Namespace
) -> dict[str, Any]:
    first = await read_all(database, kommo, kinds, wanted.limit)
    present = {one.entity: one.present for one in await count_records(database, "bench")}
    first["present"] = present
    if not wanted.once:
        first["again"] = await read_all(database, kommo, kinds, wanted.limit)
    return {"database": database.dialect, **first}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000, help="leads, and as many contacts")
    parser.add_argument("--limit", type=int, default=0, help="requests per second; 0: unthrottled")
    parser.add_argument("--kinds", default="leads,contacts")
    parser.add_argument("--database", help="URL; by default a new SQLite file")
    parser.add_argument("--sandbox", help="'HOST TOKEN ACCOUNT_ID' of one that runs")
    parser.add_argument("--keep", action="store_true", help="leave what was read in the database")
    parser.add_argument("--once", action="store_true", help="not again, unchanged")
    parser.add_argument("--profile", type=Path, help="where to write what the profiler of Python saw")
    wanted = parser.parse_args()
    if wanted.profile:
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
        found = asyncio.run(measure(wanted))
        profile.disable()
        profile.dump_stats(wanted.profile)
    else:
        found = asyncio.run(measure(wanted))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
