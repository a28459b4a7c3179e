"""A fleet of thousands on this machine: `python -m tests.proofs.fleet --connections 1000 --shards 4`.

Starts what it needs (a Prefect server on a PostgreSQL database of its own, a sandbox with as many small accounts and a
limit per account, a store on another database), seeds the connections, and lets one process per shard call the flows:
`refresh` is the token refresh of all, `sync` the sync of all set-ups. Each part has a bound of time; a shard that dies
is started again and goes on where it ended. At the end all is compared with the sandbox, and everything is removed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

POSTGRES = os.environ.get("KOMMO_TEST_POSTGRES_URL", "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres")
ROOT = Path(__file__).parents[2]
PARTS = ("refresh", "sync")
_STARTS = 3


def say(text: str) -> None:
    """Progress goes to standard error, so that standard output is the answer."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextlib.asynccontextmanager
async def database_for(name: str) -> AsyncIterator[str]:
    """A PostgreSQL database for as long as the block lasts."""
    import asyncpg

    plain, made = POSTGRES.replace("+asyncpg", ""), f"{name}_{secrets.token_hex(4)}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(plain)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    await run(f'create database "{made}"')
    try:
        yield f"{POSTGRES.rpartition('/')[0]}/{made}"
    finally:
        await run(f'drop database if exists "{made}" with (force)')


@contextlib.asynccontextmanager
async def process(*command: str, out: int = DEVNULL, **more: Any) -> AsyncIterator[Process]:
    """A process for as long as the block lasts."""
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=out, **more)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.terminate()
            try:
                await asyncio.wait_for(started.wait(), 20)
            except TimeoutError:
                started.kill()
                await started.wait()


@contextlib.asynccontextmanager
async def prefect_server(database: str) -> AsyncIterator[tuple[Process, str]]:
    """A Prefect server; its process and the address of its API."""
    import prefect

    with socket.create_server(("127.0.0.1", 0)) as door:
        port, descriptor = door.getsockname()[1], door.fileno()
        command = [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent)),
            *("--factory", "prefect.server.api.server:create_app", "--lifespan", "on"),
            *("--fd", str(descriptor), "--log-level", "error"),
        ]
        settings = os.environ | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
        async with process(*command, env=settings, pass_fds=[descriptor]) as server:
            door.close()
            api = f"http://127.0.0.1:{port}/api"
            await asyncio.to_thread(post, f"{api}/health", None)
            yield server, api


def post(url: str, body: object) -> Any:
    """One request with JSON to and fro; a GET where there is no body."""
    import urllib.request

    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=180) as answer:  # noqa: S310 - loopback
        return json.load(answer)


async def one_shard(part: str, shard: str, *, seconds: float, concurrency: int) -> dict[str, Any]:
    """One process that calls the flow for one shard; started again if it dies."""
    until, starts = time.monotonic() + seconds, 0
    while True:
        starts += 1
        command = (sys.executable, "-m", "tests.proofs.fleet", "--work", part, "--shard", shard)
        async with process(*command, "--concurrency", str(concurrency), out=PIPE) as worker:
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    out, _ = await worker.communicate()
            except TimeoutError:
                return {"shard": shard, "starts": starts, "error": f"not done after {seconds:.0f} s"}
        if worker.returncode == 0:
            return {"shard": shard, "starts": starts, **json.loads(out.splitlines()[-1])}
        say(f"  shard {shard} ended with {worker.returncode}")
        if starts == _STARTS:
            return {"shard": shard, "starts": starts, "error": f"ended with {worker.returncode}"}


async def work(part: str, shard: str, concurrency: int) -> None:
    """What the process of a shard does."""
    from flows.fleet_sync import full_crm_sync_all
    from flows.token_refresh import token_refresh
    from tasks.errors import FleetSyncFailedError, RefreshRunFailedError

    report: Any
    try:
        if part == "refresh":
            report = await token_refresh("6h", shard=shard, concurrency=concurrency)
        else:
            # Whoever is started again goes on where it ended.
            report = await full_crm_sync_all(shard=shard, synced_within="12h", concurrency=concurrency)
    except (FleetSyncFailedError, RefreshRunFailedError) as error:
        report = error.report
    used = resource.getrusage(resource.RUSAGE_SELF)
    shown = report.model_dump(mode="json")
    shown["failures"] = shown["failures"][:5]
    answer = {
        "report": shown,
        "cpu": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
    }
    print(json.dumps(answer))


async def measured(part: str, options: argparse.Namespace, world: "World") -> dict[str, Any]:
    """Run one part in all shards, and say what it cost."""
    from tests.proofs.fleet_checks import check_refresh, check_sync
    from tests.proofs.fleet_meters import meter, postgres_cpu
    from tests.proofs.fleet_seed import ask

    say(f"{part}: {options.connections} connections in {options.shards} processes")
    await ask(world.sandbox, "requests", "DELETE")
    services = {"prefect": world.prefect.pid, "sandbox": world.kommo.pid}
    before = {name: meter(pid) for name, pid in services.items()}
    runs, postgres = world.runs(), postgres_cpu()
    watching = asyncio.create_task(watch(part, world, options.connections))
    begun = time.monotonic()
    shards = await asyncio.gather(
        *(
            one_shard(
                part,
                f"{number}/{options.shards}",
                seconds=options.minutes * 60,
                concurrency=options.concurrency,
            )
            for number in range(1, options.shards + 1)
        )
    )
    wall = time.monotonic() - begun
    watching.cancel()
    after, postgres_after = {name: meter(pid) for name, pid in services.items()}, postgres_cpu()
    await asyncio.sleep(options.settle)  # Prefect records its task runs later
    runs_after, windows = world.runs(), await ask(world.sandbox, "windows")
    say(f"{part}: {wall:.0f} s; comparing with the sandbox")
    check = check_refresh if part == "refresh" else check_sync
    async with world.database() as database:
        checked = await check(database, world.sandbox, world.orgs)
    return {
        "part": part,
        "wall": round(wall, 1),
        "shards": shards,
        "cpu": {name: round(after[name].cpu - before[name].cpu, 1) for name in services}
        | {
            "postgres": None
            if postgres is None or postgres_after is None
            else round(postgres_after - postgres, 1)
        },
        "peak_mb": {name: after[name].peak for name in services},
        "runs": {name: runs_after[name] - runs[name] for name in runs},
        "requests": windows["total"],
        "fullest_second_of_an_account": max(windows["max_per_account"].values(), default=0),
        "check": shortened(checked),
        "holds": holds(part, checked, options.connections),
    }


def shortened(checked: dict[str, Any]) -> dict[str, Any]:
    """Lists as their length and their first few."""
    return {
        name: f"{len(value)}: {list(value)[:3]}" if isinstance(value, list | dict) and value else value
        for name, value in checked.items()
    }


def holds(part: str, checked: dict[str, Any], number: int) -> bool:
    """Whether everything that must hold does."""
    done = checked["refreshed_once" if part == "refresh" else "synced"] == number
    return done and not any(value for value in checked.values() if isinstance(value, list | dict))


async def watch(part: str, world: "World", number: int) -> None:
    """Say every half a minute how far it is."""
    from sqlalchemy import func, select

    from store.tables import Connection, table_of

    columns, begun = table_of(Connection).c, time.monotonic()
    column = columns.refreshed_at if part == "refresh" else columns.last_synced_at
    async with world.database() as database:
        async with database.read() as connection:
            first = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        while True:
            await asyncio.sleep(30)
            query = select(func.count()).select_from(table_of(Connection)).where(column >= first)
            async with database.read() as connection:
                done = (await connection.execute(query)).scalar_one()
            say(f"  {done} of {number} after {time.monotonic() - begun:.0f} s")


class World:
    """What was started."""

    def __init__(self, prefect: Process, api: str, kommo: Process, sandbox: str) -> None:
        self.prefect = prefect
        self.api = api
        self.kommo = kommo
        self.sandbox = sandbox
        self.orgs: dict[str, str] = {}

    def runs(self) -> dict[str, int]:
        """How many runs Prefect knows of."""
        return {name: post(f"{self.api}/{name}/count", {}) for name in ("flow_runs", "task_runs")}

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[Any]:
        """The store."""
        from blocks.settings import Settings
        from tasks.installation import open_database

        async with open_database(Settings()) as database:
            yield database


@contextlib.asynccontextmanager
async def world_of(options: argparse.Namespace) -> AsyncIterator[World]:
    """Start everything and seed the fleet."""
    from cryptography.fernet import Fernet

    async with contextlib.AsyncExitStack() as stack:
        prefect_database = await stack.enter_async_context(database_for("kommo_fleet_prefect"))
        store = await stack.enter_async_context(database_for("kommo_fleet"))
        for name in [name for name in os.environ if name.startswith(("KOMMO_", "PREFECT_"))]:
            del os.environ[name]
        os.environ.update(
            PREFECT_SERVER_DATABASE_CONNECTION_URL=prefect_database,
            PREFECT_SERVER_ENCRYPTION_KEY=Fernet.generate_key().decode(),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_SERVER_UI_ENABLED="false",
            DO_NOT_TRACK="1",
            PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE="50",
            PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE="50",
            PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL="1",
            PREFECT_LOGGING_LEVEL="WARNING",
            KOMMO_DATABASE_URL=store,
            KOMMO_SANDBOX="1",
            KOMMO_REQUESTS_PER_SECOND="7",
            KOMMO_EGRESS_REQUESTS_PER_SECOND="0",
        )
        say("starting Prefect and the sandbox")
        server, api = await stack.enter_async_context(prefect_server(prefect_database))
        os.environ["PREFECT_API_URL"] = api
        arguments = (
            "--accounts",
            str(options.connections),
            "--limit",
            "7",
            "--ip-limit",
            "0",
            "--retry-after",
            "1",
        )
        command = (sys.executable, "-m", "sandbox", "--port", "0", "--json", "--small", *arguments)
        kommo = await stack.enter_async_context(process(*command, out=PIPE, limit=2**22))
        assert kommo.stdout is not None
        ready = json.loads(await asyncio.wait_for(kommo.stdout.readline(), 120))
        world = World(server, api, kommo, ready["url"])
        for name in ("client_id", "client_secret", "redirect_uri"):
            os.environ[f"KOMMO_{name.upper()}"] = ready["integration"][name]
        await seed(world, options)
        yield world


async def seed(world: World, options: argparse.Namespace) -> None:
    """Connections that are all due."""
    from blocks.app import KommoApp
    from blocks.settings import Settings
    from store.database import Database
    from tests.proofs.fleet_seed import HOURS_OLD, ask, seed_fleet

    say(f"seeding {options.connections} connections")
    pairs = await ask(world.sandbox, "pairs", "POST", {"accounts": "all", "age": HOURS_OLD * 3600})
    settings = Settings()
    assert settings.database_url is not None
    async with Database.open(settings.database_url.get_secret_value(), settings.database_schema) as database:
        await database.upgrade()
        world.orgs = await seed_fleet(database, KommoApp.from_environment(), pairs)


def show(answer: dict[str, Any]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, width=130)
    for part in answer["parts"]:
        table = Table(title=f"{part['part']}, {answer['connections']} connections: {part['wall']} s wall")
        for name in ("process", "CPU s", "peak MB", "what"):
            table.add_column(name)
        for shard in part["shards"]:
            report = shard.get("report", {})
            what = shard.get("error") or ", ".join(
                f"{name} {report[name]}"
                for name in ("due", "refreshed", "completed", "failed", "requests", "rows", "outcomes")
                if report.get(name)
            )
            table.add_row(f"shard {shard['shard']}", str(shard.get("cpu")), str(shard.get("peak_mb")), what)
        for name, cpu in part["cpu"].items():
            table.add_row(name, str(cpu), str(part["peak_mb"].get(name, "")), "")
        console.print(table)
        console.print(
            f"{part['runs']['flow_runs']} flow runs, {part['runs']['task_runs']} task runs, "
            f"{part['requests']} requests, "
            f"fullest second of an account {part['fullest_second_of_an_account']}; {part['check']}"
        )
        console.print("holds" if part["holds"] else "DOES NOT HOLD")


async def main(options: argparse.Namespace) -> int:
    """Run the parts that were asked for; 1 if anything does not hold."""
    if options.work:
        await work(options.work, options.shard, options.concurrency)
        return 0
    # Who is told to end removes what was made, as after an interruption at the terminal.
    here = asyncio.current_task()
    assert here is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, here.cancel)
    answer: dict[str, Any] = {"connections": options.connections, "processes": options.shards, "parts": []}
    async with world_of(options) as world:
        for part in options.parts.split(","):
            answer["parts"].append(await measured(part, options, world))
            print(json.dumps(answer), flush=True)  # what is known so far, should a later part break
    show(answer)
    return 0 if all(part["holds"] for part in answer["parts"]) else 1


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.fleet", description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=4, help="as many processes")
    parser.add_argument("--parts", default=",".join(PARTS), help="refresh, sync or both")
    parser.add_argument("--concurrency", type=int, default=32, help="orgs at a time in each process")
    parser.add_argument("--minutes", type=float, default=25, help="bound of each part")
    parser.add_argument("--settle", type=float, default=10, help="seconds for Prefect to record its runs")
    parser.add_argument("--work", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--shard", default="1/1", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(options())))
