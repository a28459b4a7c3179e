"""How well the gateway takes webhooks in: `python -m tests.benchmarks.intake [--seconds 60] [--flood 30] [URL …]`.

For each database (by default SQLite, and PostgreSQL where KOMMO_TEST_POSTGRES_URL is set): a bare endpoint that makes
one INSERT per request, the gateway at its most, the gateway at a fixed rate, a flood, whether all that was
acknowledged is in the inbox, and once, and whether a worker then works it all off. Client, server and database share
the machine.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import func, select, text

from sandbox import SandboxConfig, running_sandbox
from store.database import Database
from store.inbox import DELIVERIES, DUPLICATE, EVENTS
from store.webhook_keys import create_key, hash_of_key
from tasks.backlog import drain
from tasks.backlog_turn import Options
from tests.syncing import UNTHROTTLED
from tests.webhooks.backlog_support import SandboxClients, join, session_of

ROOT = Path(__file__).parents[3]
KOMMO = Path(sys.executable).with_name("kommo")
ACCOUNT = 31234567
POSTGRES = os.environ.get("KOMMO_TEST_POSTGRES_URL", "")


def template() -> str:
    """A changed lead as Kommo sends it: 22 fields, 1.2 kB; `@@` is the number of the delivery."""
    fields = {
        "account[subdomain]": "acme",
        "account[id]": str(ACCOUNT),
        "account[_links][self]": "https://acme.kommo.com",
        "leads[update][0][id]": "@@",
        "leads[update][0][name]": "Deal with Ann",
        "leads[update][0][status_id]": "67548605",
        "leads[update][0][old_status_id]": "67548601",
        "leads[update][0][price]": "1000",
        "leads[update][0][responsible_user_id]": "11087001",
        "leads[update][0][last_modified]": "1726572758",
        "leads[update][0][modified_user_id]": "11087001",
        "leads[update][0][created_user_id]": "11087001",
        "leads[update][0][date_create]": "1726572752",
        "leads[update][0][pipeline_id]": "8572500",
        "leads[update][0][account_id]": str(ACCOUNT),
        "leads[update][0][custom_fields][0][id]": "1016236",
        "leads[update][0][custom_fields][0][name]": "Client type",
        "leads[update][0][custom_fields][0][values][0][value]": "VIP",
        "leads[update][0][custom_fields][0][values][0][enum]": "867970",
        "leads[update][0][tags][0][name]": "hot",
        "leads[update][0][created_at]": "1726572752",
        "leads[update][0][updated_at]": "1726572758",
    }
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='@')}" for name, value in fields.items())


@dataclass
class Place:
    """A database of the benchmark's own, with a hook key in it."""

    url: str
    schema: str
    key: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What a gateway on it needs; Prefect is where nobody answers, and need not be (W4)."""
        return os.environ | {
            "KOMMO_DATABASE_URL": self.url,
            "KOMMO_DATABASE_SCHEMA": self.schema,
            "KOMMO_CLIENT_ID": "benchmark",
            "KOMMO_CLIENT_SECRET": "benchmark",
            "APP_URL": "https://app.example.com",
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
        }


@asynccontextmanager
async def place(url: str, folder: Path) -> AsyncIterator[tuple[Place, Database]]:
    """A migrated database; on PostgreSQL a schema of its own."""
    if url == "sqlite":
        url = f"sqlite:///{folder / 'benchmark.db'}"
    found = Place(url, f"bench_{uuid.uuid4().hex[:8]}", secrets.token_urlsafe(32))
    async with Database.open(found.url, found.schema) as database:
        await database.ensure()
        await create_key(database, "acme", ACCOUNT, hash_of_key(found.key), now=datetime.now(UTC))
        try:
            yield found, database
        finally:
            if database.address.schema:
                async with database.begin() as connection:
                    await connection.execute(text(f'DROP SCHEMA "{found.schema}" CASCADE'))


@asynccontextmanager
async def running(
    *command: str | Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, Process]]:
    """A server as a process; gives its address."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=ROOT, env=environment, stdout=PIPE, stderr=DEVNULL
    )
    try:
        assert process.stdout is not None
        said = b""
        async with asyncio.timeout(60):
            while not said.rstrip().endswith(b"}"):
                said += await process.stdout.readline()
        yield json.loads(said)["url"], process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def load(url: str, **plan: Any) -> dict[str, Any]:
    """Run the load as a process of its own."""
    given = {"url": url, "template": template(), "connections": 64, "rate": 0.0} | plan
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.intake.load"), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    out, _ = await process.communicate(json.dumps(given).encode())
    result: dict[str, Any] = json.loads(out)
    return result


def milliseconds(times: list[float]) -> dict[str, float]:
    """Median, 99th percentile and longest."""
    if len(times) < 2:
        return {}
    cuts = statistics.quantiles(times, n=100)
    return {
        name: round(value * 1000, 1)
        for name, value in (("p50", cuts[49]), ("p99", cuts[98]), ("max", max(times)))
    }


def resident(process: Process) -> float:
    """MiB of memory that a process has."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def cpu_seconds(process: Process) -> float:
    """Processor time that a process has used: says what a request costs, however busy the machine is."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def verified(database: Database, acknowledged: list[int]) -> dict[str, int]:
    """Whether each acknowledged delivery is in the inbox, and none twice as new."""
    async with database.read() as connection:
        stored = set((await connection.execute(select(DELIVERIES.c.request_id))).scalars())
        new = select(EVENTS.c.entity_id).where(EVENTS.c.state != DUPLICATE)
        twice = await connection.execute(new.group_by(EVENTS.c.entity_id).having(func.count() > 1))
        events = set((await connection.execute(new)).scalars())
        number_twice = len(twice.all())
    wanted = {str(number) for number in acknowledged}
    return {
        "acknowledged": len(wanted),
        "deliveries_missing": len(wanted - stored),
        "events_missing": len(wanted - events),
        "twice_as_new": number_twice,
    }


async def worked_off(database: Database) -> dict[str, Any]:
    """Work off the backlog as the flow does; Kommo knows none of these leads, so each is noted as missing."""
    async with running_sandbox(SandboxConfig(limits=UNTHROTTLED, accounts=1)) as sandbox:
        await join(database, sandbox, "acme")
        begun = time.monotonic()
        await drain(session_of(database, SandboxClients(sandbox), options=Options()), 0.0)
        seconds = time.monotonic() - begun
    async with database.read() as connection:
        counted = await connection.execute(select(EVENTS.c.state, func.count()).group_by(EVENTS.c.state))
        return {"seconds": round(seconds, 1), **{row[0]: row[1] for row in counted}}


async def watch_memory(process: Process, seen: list[float]) -> None:
    """Note the memory twice a second, until cancelled."""
    while True:
        seen.append(resident(process))
        await asyncio.sleep(0.5)


async def measure(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All of it on one database."""
    told: dict[str, Any] = {"database": url.partition(":")[0].partition("+")[0]}
    short = arguments.short
    with tempfile.TemporaryDirectory() as folder:
        async with place(url, Path(folder)) as (found, database):
            rates: dict[str, list[float]] = {"bare": [], "gateway": []}
            acknowledged: list[int] = []
            first = 1

            async def run(door: str, **plan: Any) -> dict[str, Any]:
                nonlocal first
                result = await load(door, first=first, **plan)
                first += 10_000_000
                return result

            bare_command = (sys.executable, "-m", "tests.benchmarks.intake.bare", found.url, found.schema)
            gateway_command = (KOMMO, "gateway", "--port", "0", "--json")
            async with (
                running(*bare_command) as (bare, beside),
                running(*gateway_command, environment=found.environment) as (gateway, process),
            ):
                door = f"{gateway}/api/webhooks/kommo/{found.key}"
                for name, address in (("bare", bare), ("gateway", door)):  # warm
                    result = await run(address, seconds=1.0)
                    if name == "gateway":
                        acknowledged += result["acknowledged"]
                used = {"bare": 0.0, "gateway": 0.0}
                processes = {"bare": beside, "gateway": process}
                for _ in range(arguments.rounds):  # by turns, so that both have the same machine
                    for name, address in (("bare", bare), ("gateway", door)):
                        before = cpu_seconds(processes[name])
                        result = await run(address, seconds=short)
                        used[name] += cpu_seconds(processes[name]) - before
                        rates[name].append(len(result["acknowledged"]) / short)
                        if name == "gateway":
                            acknowledged += result["acknowledged"]
                capacity = statistics.median(rates["gateway"])
                for name, seconds in used.items():
                    number = sum(rates[name]) * short
                    told[f"{name}_cpu_us_each"] = round(seconds / number * 1e6)
                told["bare_per_second"] = round(statistics.median(rates["bare"]))
                told["gateway_per_second"] = round(capacity)
                told["ratio"] = round(capacity / statistics.median(rates["bare"]), 2)
                for name, address in (("bare", bare), ("gateway", door)):
                    seconds = arguments.seconds if name == "gateway" else min(arguments.seconds, short)
                    before = cpu_seconds(processes[name])
                    result = await run(address, rate=arguments.rate, seconds=seconds)
                    cpu = cpu_seconds(processes[name]) - before
                    told[f"{name}_at_{arguments.rate:g}_per_second"] = milliseconds(result["times"]) | {
                        "seconds": seconds,
                        "cpu_us_each": round(cpu / max(1, len(result["times"])) * 1e6),
                        "statuses": result["statuses"],
                        "broken": result["broken"],
                    }
                    if name == "gateway":
                        acknowledged += result["acknowledged"]
                if arguments.flood:
                    seen: list[float] = []
                    watching = asyncio.create_task(watch_memory(process, seen))
                    result = await run(
                        door, rate=10 * capacity, seconds=arguments.flood, connections=1000, drop=True
                    )
                    watching.cancel()
                    acknowledged += result["acknowledged"]
                    half = len(seen) // 2
                    told["flood"] = {
                        "offered": round(10 * capacity * arguments.flood),
                        "no_free_connection": result["left_out"],
                        "statuses": result["statuses"],
                        "broken": result["broken"],
                        "acknowledged": milliseconds(result["times"]),
                        "refused": milliseconds(result["refusal_times"]),
                        "memory_mib": {
                            "before": seen[0],
                            "first_half": max(seen[:half] or seen),
                            "second_half": max(seen[half:]),
                        },
                    }
                told["verify"] = await verified(database, acknowledged)
            told["worked_off"] = await worked_off(database)
    return told


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="*", default=["sqlite", *([POSTGRES] if POSTGRES else [])])
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--short", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flood", type=float, default=30.0)
    arguments = parser.parse_args()
    failed = 0
    for url in arguments.urls:
        told = await measure(url, arguments)
        print(json.dumps(told, indent=2), flush=True)
        checks = told["verify"]
        failed += any(checks[name] for name in ("deliveries_missing", "events_missing", "twice_as_new"))
        failed += bool(told["worked_off"].keys() & {"pending", "dead"})
    return failed


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
