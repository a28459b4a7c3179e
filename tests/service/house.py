"""The installation: its ports, its secrets, its settings from the examples, its processes in their order."""

import asyncio
import base64
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import asyncpg
import httpx

from tests.proofs.support import control, sandbox_process
from tests.service.backends import postgres, redis, run
from tests.service.product import Product, running_product
from tests.service.supervisor import Service, Supervisor
from tests.service.units import FOLDER, read_settings, read_unit

PROGRAMS = Path(sys.executable).parent
PER_SECOND = 50
_PORTS = ("postgres", "redis", "api", "other_api", "gateway", "product", "sandbox")
# The backends go last: whoever still finishes something needs them.
_ORDER = {"worker": 0, "gateway": 1, "kommo-prefect-services": 2, "kommo-prefect-api": 3, "redis": 4}

# A run that has said that it lives, and then says nothing for 90 seconds, is dead: it was killed with its worker.
_DEAD_RUNS = {
    "name": "kommo: runs that died with their worker",
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "after": ["prefect.flow-run.heartbeat"],
        "expect": [
            f"prefect.flow-run.{state}"
            for state in ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed")
        ],
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": 90,
    },
    "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "message": "Its worker was killed."}],
}


@dataclass
class House:
    """A running installation.

    Attributes:
        folder: Where everything of it lies.
        ports: By name.
        supervisor: Keeps its processes running.
        secrets: By the name of the setting.
        product: Who is told.
        sandbox: The ready line of the stand-in for Kommo.
        prefect: A client of the first API server.
        say: Tells a person how it goes.
        key: The product's key for the gateway.
        orgs: The account (its subdomain) behind each org.
        contacts: A contact of each org, for actions.
    """

    folder: Path
    ports: dict[str, int]
    supervisor: Supervisor
    secrets: dict[str, str]
    say: Callable[[str], None]
    product: Product = field(init=False)
    sandbox: dict[str, Any] = field(init=False)
    prefect: httpx.AsyncClient = field(init=False)
    key: str = ""
    orgs: dict[str, str] = field(default_factory=dict)
    contacts: dict[str, int] = field(default_factory=dict)

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def api(self, which: str = "api") -> str:
        return f"http://127.0.0.1:{self.ports[which]}/api"

    @property
    def auth(self) -> tuple[str, str]:
        user, _, password = self.secrets["PREFECT_API_AUTH_STRING"].partition(":")
        return user, password

    def environment(self, *files: str, api: str = "api") -> dict[str, str]:
        """The environment of a unit that reads these files of settings."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "TMPDIR") if name in os.environ}
        kept |= {"HOME": str(self.folder / "state"), "PREFECT_HOME": str(self.folder / "state" / "prefect")}
        for file in files:
            kept |= read_settings(self.folder / "etc" / file)
        return kept | ({"PREFECT_API_URL": self.api(api)} if "kommo.env" in files else {})

    async def command(self, program: str, *arguments: str, json_answer: bool = False) -> Any:
        """Run `kommo` or `prefect` as an operator does."""
        text = await run(
            str(PROGRAMS / program),
            *arguments,
            environment=self.environment("kommo.env"),
            cwd=self.folder / "state",
        )
        return json.loads(text) if json_answer else text

    def unit(self, name: str, *, api: str = "api") -> Service:
        """A unit as its file says, with the paths and ports of this run."""
        unit = read_unit(
            name,
            {
                "/opt/kommo/venv/bin": str(PROGRAMS),
                "/var/lib/kommo": str(self.folder / "state"),
                "/var/lib/prefect": str(self.folder / "state"),
                "/etc/kommo": str(self.folder / "etc"),
                "--port 8020": f"--port {self.ports['gateway']}",
            },
        )
        environment = self.environment(*(Path(file).name for file in unit.files), api=api)
        return Service(name, unit.start, environment | unit.environment, unit.before, self.folder / "state")

    async def sql(self, query: LiteralString, *values: object, database: str = "kommo") -> list[Any]:
        """Look into a database, over a connection of its own."""
        connection = await asyncpg.connect(
            host=str(self.folder / "postgres"),
            port=self.ports["postgres"],
            user="postgres",
            database=database,
            timeout=3,
            server_settings={"search_path": "kommo,public"},
        )
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def steer(self, name: str, method: str = "POST", **body: Any) -> Any:
        """One call of the sandbox's control API."""
        return await control(self.sandbox["url"], name, method, body if method == "POST" else None)

    async def until(self, what: str, condition: Callable[[], Any], seconds: float = 300.0) -> float:
        """Wait for something; gives how long it took.

        Raises:
            TimeoutError: It did not come.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            try:
                if await condition():
                    return time.monotonic() - begun
            except (httpx.HTTPError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                pass
            await asyncio.sleep(0.25)
        raise TimeoutError(f"{what}: not within {seconds:.0f} s")

    async def answers(self, url: str, wanted: int = 200) -> bool:
        """Whether an address answers with this status."""
        async with httpx.AsyncClient(timeout=3) as client:
            return (await client.get(url)).status_code == wanted


def _free_ports() -> dict[str, int]:
    """Free ports; the sockets stay open until all are known, so that no two are the same."""
    with ExitStack() as stack:
        return {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for name in _PORTS
        }


def _secrets() -> dict[str, str]:
    """As the comments of the examples say how to make them."""
    auth = f"kommo:{secrets.token_hex(24)}"
    return {
        "kommo password": secrets.token_hex(24),
        "prefect password": secrets.token_hex(24),
        "KOMMO_SEALING_KEYS": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "KOMMO_EVENTS_SECRET": f"whsec_{base64.b64encode(os.urandom(32)).decode()}",
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
    }


def _write_settings(house: House) -> None:
    """The examples, filled in; nothing else is added but what lets loopback hosts in and names this run's ports."""
    integration = house.sandbox["integration"]
    ports, given = house.ports, house.secrets
    changed = {
        "KOMMO_DATABASE_URL": f"postgresql://kommo:{given['kommo password']}@127.0.0.1:{ports['postgres']}/kommo",
        "KOMMO_HOME": str(house.folder / "state"),
        "KOMMO_CLIENT_ID": integration["client_id"],
        "KOMMO_CLIENT_SECRET": integration["client_secret"],
        "KOMMO_REDIRECT_URI": integration["redirect_uri"],
        "KOMMO_WEBHOOK_URL": house.gateway,
        "APP_URL": f"http://127.0.0.1:{ports['product']}",
        "KOMMO_EVENTS_URL": f"http://127.0.0.1:{ports['product']}/events",
        "PREFECT_API_URL": house.api(),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": (
            f"postgresql+asyncpg://prefect:{given['prefect password']}@127.0.0.1:{ports['postgres']}/prefect"
        ),
        "PREFECT_REDIS_MESSAGING_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "PREFECT_SERVER_DOCKET_URL": f"redis://127.0.0.1:{ports['redis']}/1",
    } | {name: value for name, value in given.items() if name.isupper()}
    for name in ("kommo.env", "prefect-server.env"):
        found = read_settings(FOLDER / f"{name}.example")
        filled = {setting: changed.get(setting, value) for setting, value in found.items()}
        assert "CHANGE-ME" not in str(filled), f"{name}.example has a secret that nothing here makes"
        if name == "kommo.env":
            filled |= {
                "KOMMO_SANDBOX": "1",
                "KOMMO_AUTHORIZE_BASE": house.sandbox["www"],
                "KOMMO_REQUESTS_PER_SECOND": str(PER_SECOND),
            }
        file = house.folder / "etc" / name
        file.write_text("".join(f"{setting}={value}\n" for setting, value in filled.items()))
        file.chmod(0o600)


async def _make_databases(house: House) -> None:
    """The statements of docs/setups/one-server.md."""
    for name in ("kommo", "prefect"):
        password = house.secrets[f"{name} password"]
        connection = await asyncpg.connect(
            host=str(house.folder / "postgres"),
            port=house.ports["postgres"],
            user="postgres",
            database="postgres",
        )
        try:
            await connection.execute(f"create role {name} login password '{password}'")
            await connection.execute(f"create database {name} owner {name}")
            await connection.execute(f"revoke connect on database {name} from public")
        finally:
            await connection.close()


@asynccontextmanager
async def running_house(folder: Path, accounts: int, say: Callable[[str], None]) -> AsyncIterator[House]:
    """Everything started, deployments made, no org connected yet.

    Args:
        folder: An empty folder that other users may pass through.
        accounts: How many the stand-in for Kommo holds.
        say: Tells a person how it goes.
    """
    for name in ("etc", "state", "logs", "pictures"):
        (folder / name).mkdir()
    supervisor = Supervisor(folder / "logs", secrets.token_hex(4))
    house = House(folder, _free_ports(), supervisor, _secrets(), say)
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(
            supervisor.stop_all, lambda name: next((rank for part, rank in _ORDER.items() if part in name), 5)
        )
        callback = f"{house.gateway}/api/v1/crm/kommo/callback"
        house.sandbox = await stack.enter_async_context(
            sandbox_process(
                *("--accounts", str(accounts), "--leads", "60", "--contacts", "20", "--companies", "10"),
                *(
                    "--talks",
                    "4",
                    "--limit",
                    str(PER_SECOND),
                    "--retry-after",
                    "1",
                    "--redirect-uri",
                    callback,
                ),
            )
        )
        house.product = await stack.enter_async_context(
            running_product(house.secrets["KOMMO_EVENTS_SECRET"], house.ports["product"])
        )
        house.prefect = await stack.enter_async_context(
            httpx.AsyncClient(base_url=house.api(), auth=house.auth, timeout=30)
        )
        _write_settings(house)
        supervisor.add(await postgres(folder / "postgres", house.ports["postgres"]))
        supervisor.add(redis(folder / "redis", house.ports["redis"]))
        await house.until("PostgreSQL", lambda: house.sql("select 1", database="postgres"))
        await _make_databases(house)
        say(f"databases: {await house.command('kommo', 'db', 'upgrade')}".strip())
        for port in ("api", "other_api"):
            supervisor.add(house.unit(f"kommo-prefect-api@{house.ports[port]}"))
            await house.until(port, partial(house.answers, f"{house.api(port)}/ready"), 400)
        supervisor.add(house.unit("kommo-prefect-services"))
        supervisor.add(house.unit("kommo-gateway", api="other_api"))
        say((await house.command("kommo", "deploy", "--hourly")).strip())
        await house.prefect.post("/automations/", json=_DEAD_RUNS)
        for number in (1, 2):
            supervisor.add(house.unit(f"kommo-worker@{number}"))
        await house.until("the gateway", lambda: house.answers(f"{house.gateway}/readyz"))
        house.key = (
            await house.command(
                "kommo", "keys", "api", "create", "product", "--all-orgs", "--json", json_answer=True
            )
        )["key"]
        await house.until("two workers", lambda: _online(house, 2))
        say(f"everything runs after {time.monotonic() - begun:.0f} s")
        yield house


async def _online(house: House, wanted: int) -> bool:
    answer = await house.prefect.post("/work_pools/kommo/workers/filter", json={})
    answer.raise_for_status()
    online = [worker for worker in answer.json() if worker["status"] == "ONLINE"]
    return len(online) >= wanted
