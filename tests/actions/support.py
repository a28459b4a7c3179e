"""What the tests of actions share: an org on a sandbox with its snapshots, a session, what the sandbox counted."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from kommo.budget import InProcessBudget, Lane, RateBudget
from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from sandbox import Sandbox
from sandbox.state import Account
from store.connections import ConnectionRecord, put_connection
from store.database import Database
from store.outbox import OutboxRecord, list_outbox
from store.snapshots import begin_run, save_snapshot
from tasks.actions import ActionSession, CreateTask, Options
from tasks.readers import read_group
from tasks.scopes import Group
from tasks.session import SyncSession

FAST = Options(
    patience=10.0,
    lease=3.0,
    send_within=1.0,
    longest_request=1.0,
    absence_after=0.1,
    look_again=0.0,
    poll=0.1,
    finish=1.0,
    most_sends=20,
)
"""Times for a sandbox, which does no work later than it answers."""
TILL = 1_800_000_000


@dataclass(frozen=True)
class Access:
    """How an account of a sandbox is reached; goes to other processes as well."""

    host: str
    account_id: int
    token: str


def access_of(sandbox: Sandbox, subdomain: str = "acme", *, plain: bool = False) -> Access:
    """An account's administrator, or one who is none."""
    one = next(one for one in sandbox.accounts if one.subdomain == subdomain)
    return Access(one.host, one.account_id, one.plain_token if plain else one.admin_token)


class AccessClients:
    """Clients with a given token, without Prefect's blocks."""

    def __init__(self, access: Access, budget: RateBudget | None = None, lane: Lane = Lane.ACTION) -> None:
        self._budget = budget or InProcessBudget({"account": 10_000, "egress": 10_000}, SystemClock())
        self.client = KommoClient(
            parse_host(access.host, allow_loopback=True),
            StaticToken(SecretStr(access.token)),
            budget=self._budget,
            account_key=f"account:{access.account_id}",
            lane=lane,
        )
        self.forgotten = 0

    @asynccontextmanager
    async def use(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        del connection
        yield self.client

    def forget(self, org: str) -> None:
        del org
        self.forgotten += 1

    async def aclose(self) -> None:
        await self.client.aclose()

    @property
    def requests_sent(self) -> int:
        return self.client.requests_sent


_READ: dict[tuple[str, int], dict[str, Any]] = {}


async def join(database: Database, access: Access, org: str = "acme", *, like: str | None = None) -> None:
    """Connect an org, and save its set-up as a sync does.

    Args:
        database: The store.
        access: The account.
        org: The org.
        like: A name for sandboxes that are made alike: what one of them has is not read from the next one again.
    """
    now = datetime.now(UTC)
    connection = await put_connection(
        database,
        org=org,
        block_name=f"org-{org}",
        host=access.host,
        account_id=access.account_id,
        token_kind="long_lived",
        now=now,
    )
    run_id = await begin_run(database, org, "all", None, now=now)
    rows = _READ.get((like or "", access.account_id))
    if rows is None:
        rows = await _read(database, connection, access, run_id)
        if like:
            _READ[like, access.account_id] = rows
    await save_snapshot(database, run_id, org, rows, read_started_at=now, now=datetime.now(UTC))


async def _read(
    database: Database, connection: ConnectionRecord, access: Access, run_id: str
) -> dict[str, Any]:
    clients = AccessClients(access)
    async with clients.use(connection) as client:
        session = SyncSession(
            org=connection.org,
            connection=connection,
            client=client,
            database=database,
            run_id=run_id,
            clock=SystemClock(),
        )
        groups = [await read_group(session, group) for group in Group]
    await clients.aclose()
    return {kind: items for rows in groups for kind, items in rows.items()}


@asynccontextmanager
async def session_on(
    database: Database, access: Access, *, budget: RateBudget | None = None, **options: Any
) -> AsyncIterator[ActionSession]:
    """A session as a process has it."""
    clients = AccessClients(access, budget)
    session = ActionSession(
        database=database,
        clients=clients,
        clock=SystemClock(),
        owner=uuid.uuid4().hex,
        options=replace(FAST, **options),
    )
    try:
        yield session
    finally:
        await session.aclose()
        await clients.aclose()


@dataclass
class World:
    """An org `acme` on a sandbox."""

    database: Database
    sandbox: Sandbox

    @property
    def account(self) -> Account:
        return self.sandbox.account("acme")

    @property
    def access(self) -> Access:
        return access_of(self.sandbox)

    @property
    def lead_id(self) -> int:
        return int(next(iter(self.account.entities["leads"]))["id"])

    def lead(self) -> dict[str, Any]:
        """The first lead, as it is now."""
        found = self.account.entities["leads"].get(self.lead_id)
        assert found is not None
        return dict(found)

    def session(self, **options: Any) -> Any:
        return session_on(self.database, self.access, **options)

    def requests(self, method: str, path: str) -> int:
        """How many requests of this kind have come in."""
        return sum(
            1 for entry in self.sandbox.world.log.entries if entry.method == method and path in entry.path
        )

    def drop_answers(self, rate: float = 1.0, *, times: int | None = None, method: str = "POST") -> None:
        """Do the work, and lose the answer."""
        self.sandbox.world.faults.add(kind="reset_after", rate=rate, times=times, method=method)

    def tasks(self, text: str) -> list[dict[str, Any]]:
        return [task for task in self.account.tasks if task["text"] == text]

    async def told(self) -> list[OutboxRecord]:
        return [
            one
            for one in await list_outbox(self.database, limit=1_000_000)
            if one.type.startswith("kommo.action.")
        ]


def a_task(world: World, text: str = "Call back", **values: Any) -> CreateTask:
    """A task for the first lead."""
    lead: dict[str, Any] = {"complete_till": TILL, "entity_type": "leads", "entity_id": world.lead_id}
    return CreateTask(text=text, **(lead | values))


def a_key() -> str:
    """An idempotency key that nobody else has."""
    return uuid.uuid4().hex
