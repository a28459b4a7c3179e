"""W1, W2, W4: gateways and workers are killed at random under load, or the database is restarted: what was acknowledged
is stored, and takes effect exactly once. Prefect is away all the time, as far as the gateway knows."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from sandbox import Sandbox, running_sandbox
from store.database import Database
from store.inbox import DELIVERIES
from store.webhook_keys import create_key, hash_of_key
from tests.gateway.hooks import DOOR, FORM, form
from tests.proofs.support import kill, rounds
from tests.quick.running import KOMMO
from tests.syncing import quiet_config
from tests.webhooks.backlog_process import TURN_SECONDS, Wish, start
from tests.webhooks.backlog_support import assert_told_once, inbox, join, mirror, raw_records, told

pytestmark = pytest.mark.proof

ORG = "acme"
SENDERS = 6
WORKERS = 2
KILLS = 3
ENOUGH = 150
KOMMO_WAITS = 2.0


class Gateway:
    """A gateway as a process on one port, which can be killed and started again."""

    def __init__(self, place: tuple[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment: Mapping[str, str] = os.environ | {
            "KOMMO_DATABASE_URL": place[0],
            "KOMMO_DATABASE_SCHEMA": place[1],
            "KOMMO_CLIENT_ID": "proof",
            "KOMMO_CLIENT_SECRET": "proof",
            "APP_URL": "https://app.example.com",
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
        }
        self._process: Process | None = None

    async def start(self) -> None:
        """Begin; when this returns it answers."""
        command = (*KOMMO, "gateway", "--port", str(self._port), "--json")
        self._process = await asyncio.create_subprocess_exec(
            *command, env=self._environment, stdout=PIPE, stderr=DEVNULL
        )
        assert self._process.stdout is not None
        said = b""
        async with asyncio.timeout(60):
            while not said.rstrip().endswith(b"}"):
                line = await self._process.stdout.readline()
                assert line, "the gateway has ended"
                said += line
        assert json.loads(said)["url"] == self.url

    async def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            await kill(self._process)

    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None


class Kommo:
    """Somebody who edits leads, and Kommo that tells of each edit until it is heard."""

    def __init__(self, sandbox: Sandbox, door: str) -> None:
        self._sandbox = sandbox
        self._account = sandbox.account(ORG)
        self._door = door
        self._times = itertools.count(1_790_000_000)
        self._busy: set[int] = set()
        self.acknowledged: list[bytes] = []
        self.tries: Counter[str] = Counter()
        self.stop = asyncio.Event()

    async def edit_and_tell(self, http: httpx.AsyncClient, dice: random.Random) -> None:
        """One edit after the other, each told of before the next one of the same lead."""
        leads = self._account.entities["leads"]
        while not self.stop.is_set():
            lead = dice.choice([one["id"] for one in leads if one["id"] not in self._busy])
            self._busy.add(lead)
            at = next(self._times)
            values = {"price": dice.randrange(10_000), "updated_at": at}
            self._sandbox.change(ORG, "patch", kind="leads", id=lead, values=values)
            await self._tell(http, form(lead, account=self._account.id, at=at))
            self._busy.discard(lead)
            await asyncio.sleep(dice.uniform(0, 0.01))

    async def _tell(self, http: httpx.AsyncClient, body: bytes) -> None:
        headers = {"content-type": FORM, "user-agent": "amoCRM-Webhooks/3.0"}
        while True:
            headers["x-amocrm-requestid"] = secrets.token_hex(8)
            try:
                answer = await http.post(self._door, content=body, headers=headers)
            except httpx.HTTPError as error:
                self.tries[type(error).__name__] += 1
            else:
                self.tries[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    self.acknowledged.append(body)
                    return
                assert answer.status_code == 503, answer.status_code
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _load(kommo: Kommo, dice: random.Random) -> AsyncIterator[None]:
    """Edits go on for as long as the block lasts; at its end each of them has been acknowledged."""
    async with httpx.AsyncClient(timeout=KOMMO_WAITS) as http, asyncio.TaskGroup() as senders:
        for _ in range(SENDERS):
            senders.create_task(kommo.edit_and_tell(http, dice))
        try:
            yield
        finally:
            kommo.stop.set()


class Workers:
    """Workers of the backlog; who ends is replaced, as a schedule would do it."""

    def __init__(self, wish: Wish, dice: random.Random) -> None:
        self._wish = wish
        self._dice = dice
        self._running: list[BaseProcess] = []

    def replace_ended(self) -> None:
        self._running = [one for one in self._running if one.is_alive()]
        while len(self._running) < WORKERS:
            self._running.append(start(self._wish))

    async def kill_one(self) -> None:
        victim = self._dice.choice(self._running)
        victim.kill()
        await asyncio.to_thread(victim.join)
        self.replace_ended()

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.join()


Trouble = Callable[[Gateway, Workers], Any]


async def _prove(place: tuple[str, str], number: int, trouble: Trouble) -> None:
    """Load, trouble in the midst of it, and a count of everything at the end."""
    dice = random.Random()
    async with (
        running_sandbox(quiet_config(accounts=1, leads=40, contacts=1, companies=1)) as sandbox,
        Database.open(*place) as database,
    ):
        await database.ensure()
        org_key = secrets.token_urlsafe(32)
        account = sandbox.account(ORG)
        await join(database, sandbox, ORG)
        await create_key(database, ORG, account.id, hash_of_key(org_key), now=datetime.now(UTC))
        access = {one.subdomain: (one.host, one.admin_token) for one in sandbox.accounts}
        gateway, workers = Gateway(place), Workers(Wish(place, access, linger=60.0), dice)
        kommo = Kommo(sandbox, f"{gateway.url}{DOOR}/{org_key}")
        try:
            await gateway.start()
            workers.replace_ended()
            async with _load(kommo, dice):
                await asyncio.sleep(0.5)
                await trouble(gateway, workers)
                async with asyncio.timeout(60):
                    while len(kommo.acknowledged) < ENOUGH:  # noqa: ASYNC110 - what is waited for has no event
                        await asyncio.sleep(0.1)
            await _worked_off(database, workers)
        finally:
            workers.end()
            await gateway.kill()
        print(f"\nround {number}: {len(kommo.acknowledged)} acknowledged; tries: {dict(kommo.tries)}")  # noqa: T201 - shown with -s
        await _assert_exactly_once(database, sandbox, kommo)


async def _worked_off(database: Database, workers: Workers) -> None:
    deadline = time.monotonic() + TURN_SECONDS + 30
    while any(event.state == "pending" for event in await inbox(database)):
        assert time.monotonic() < deadline, "the backlog does not end"
        workers.replace_ended()
        await asyncio.sleep(0.1)


async def _assert_exactly_once(database: Database, sandbox: Sandbox, kommo: Kommo) -> None:
    async with database.read() as connection:
        bodies = Counter((await connection.execute(select(DELIVERIES.c.body))).scalars())
    assert len(set(kommo.acknowledged)) == len(kommo.acknowledged) >= ENOUGH
    assert set(bodies) == set(kommo.acknowledged)  # all was told until it was acknowledged

    events = await inbox(database)
    states = Counter(event.state for event in events)
    assert states["done"] == len(kommo.acknowledged)
    assert states["duplicate"] == bodies.total() - len(kommo.acknowledged)
    assert set(states) <= {"done", "duplicate"}

    done, outbox = [event for event in events if event.state == "done"], await told(database)
    assert_told_once(done, outbox)
    effective = {event.id for event in done if not (event.outcome or "").startswith("nothing")}
    assert {one for event in outbox for one in event.payload["event_ids"]} >= effective

    leads = sandbox.account(ORG).entities["leads"]
    heard = {int(event.entity_id) for event in done}
    raws = await raw_records(database, ORG)
    assert set(await mirror(database, ORG)) >= heard
    for lead in leads:
        if lead["id"] in heard:
            raw = raws[lead["id"]]
            assert (raw["price"], raw["updated_at"]) == (lead["price"], lead["updated_at"])


@pytest.mark.seconds(10)
async def test_w1_and_w2_kill_9_of_gateways_and_workers_and_what_was_acknowledged_takes_effect_once(
    quick: None, database_place: tuple[str, str]
) -> None:
    del quick  # it is in the environment
    dice = random.Random()

    async def killing(gateway: Gateway, workers: Workers) -> None:
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0.1, 0.6))
            await gateway.kill()
            await workers.kill_one()
            await gateway.start()

    for number in range(rounds(30)):
        await _prove(database_place, number, killing)
        await _emptied(database_place)


async def _emptied(place: tuple[str, str]) -> None:
    """As it was before the round."""
    from store.tables import metadata

    async with Database.open(*place) as database, database.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            await connection.execute(table.delete())


class OwnPostgres:
    """A PostgreSQL server of the test's own, which may be restarted without anybody else noticing."""

    def __init__(self, programs: Path, folder: Path, port: int) -> None:
        self._programs, self._folder, self._port = programs, folder, port
        self.url = f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"

    def make(self) -> None:
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", "--pgdata=data")
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._run("pg_ctl", "--pgdata=data", "--log=log", "--wait", f"--options={options}", "start")

    def restart(self) -> None:
        """As after a crash: nothing is written at the end, all is read from the journal again."""
        self._run("pg_ctl", "--pgdata=data", "--log=log", "--wait", "--mode=immediate", "restart")

    def stop(self) -> None:
        self._run("pg_ctl", "--pgdata=data", "--wait", "--mode=immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # A server does not run as root.
        as_somebody = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_somebody, str(self._programs / program), *arguments],
            cwd=self._folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )


def _programs() -> Path | None:
    """Where PostgreSQL's own programs are; they are seldom on the path."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "initdb").exists()), None)


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed here")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    # Not in pytest's folder, which only its owner may enter.
    folder = Path(f"/var/tmp/kommo-{secrets.token_hex(4)}")  # noqa: S108 - the name cannot be guessed
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    server = OwnPostgres(programs, folder, port)
    try:
        server.make()
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.whole_service
@pytest.mark.seconds(10)
@pytest.mark.skipif(sys.platform != "linux", reason="looks for PostgreSQL where Linux has it")
async def test_w1_and_w2_a_database_that_is_restarted_loses_and_doubles_nothing(
    quick: None, own_postgres: OwnPostgres
) -> None:
    del quick

    async def restarting(gateway: Gateway, workers: Workers) -> None:
        await asyncio.to_thread(own_postgres.restart)
        await asyncio.sleep(0.5)
        workers.replace_ended()
        assert gateway.lives()

    for number in range(rounds(10)):
        await _prove((own_postgres.url, f"round_{number}"), number, restarting)
