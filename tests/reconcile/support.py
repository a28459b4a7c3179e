"""An org whose webhooks arrive: a sandbox that sends them, a receiver that takes them in, workers that work on them."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from kommo.budget import InProcessBudget
from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from kommo.webhooks import parse
from sandbox import Sandbox, SandboxConfig, running_sandbox
from store.backlog import Failure, end_turn, fail_events, pending_events, take_turn
from store.connections import ConnectionRecord, put_connection
from store.database import Database
from store.inbox import NewDelivery, NewEvent, save_deliveries
from store.mirror import get_record, record_states
from store.outbox import OutboxRecord, list_outbox
from store.subscriptions import Subscription
from store.webhook_keys import find_key, hash_of_key
from tasks.backlog import BacklogReport, BacklogSession, drain
from tasks.reconcile import GRACE, Reconciler, ReconcileReport
from tasks.subscription import HOOK_PATH, Door, Found, setup_webhook
from tasks.webhook_health import HealthReport, HealthSession, check_webhooks
from tests.sandbox.webhook_support import Receiver, receiving
from tests.syncing import quiet_config

PUBLIC = "https://app.example.com"
DOOR = Door(PUBLIC + HOOK_PATH)
SMALL = quiet_config(accounts=2, leads=8, contacts=5, companies=4)


class WorldClock(SystemClock):
    """The sandbox's clock: an hour of an outage passes in a moment."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._sandbox.world.clock(), UTC)


@dataclass
class Office:
    """One org."""

    database: Database
    sandbox: Sandbox
    receiver: Receiver
    clock: WorldClock
    connection: ConnectionRecord
    client: KommoClient
    announced: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    turned_away: int = 0
    _taken: int = 0

    @property
    def requests_sent(self) -> int:
        return self.client.requests_sent

    @asynccontextmanager
    async def use(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        assert connection.org == self.connection.org
        yield self.client

    @property
    def hooks(self) -> list[dict[str, Any]]:
        return [dict(hook) for hook in self.sandbox.account("acme").webhooks]

    async def subscribe(self, door: Door = DOOR) -> tuple[Subscription, Found | None]:
        return await setup_webhook(
            self.client, self.connection, door, database=self.database, clock=self.clock
        )

    def change(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        return self.sandbox.change("acme", name, **arguments)

    def ids(self, entity: str) -> list[int]:
        account = self.sandbox.account("acme")
        held = account.tasks if entity == "tasks" else account.entities[entity]
        return [record["id"] for record in held if not record.get("is_deleted")]

    def rename(self, entity: str, number: int, name: str) -> None:
        key = "text" if entity == "tasks" else "name"
        self.change("update_record", entity=entity, id=number, values={key: name})

    async def sent(self) -> None:
        assert await self.sandbox.world.webhooks.settle(10)

    async def pass_time(self, seconds: float) -> None:
        await self.sandbox.world.webhooks.advance(seconds)

    async def take_in(self) -> int:
        """What has arrived goes into the inbox, as the gateway does it."""
        await self.sent()
        hits, self._taken = self.receiver.hits[self._taken :], len(self.receiver.hits)
        deliveries = []
        for hit in hits:
            key = await find_key(self.database, hash_of_key(hit.target.rpartition("/")[2]))
            if key is None:
                self.turned_away += 1
                continue
            parsed = parse(
                hit.body, hit.headers["content-type"], request_id=hit.headers["x-amocrm-requestid"]
            )
            names = ("entity", "action", "entity_id", "parent", "occurred_at", "unique_key", "payload")
            events = [NewEvent(**{name: getattr(one, name) for name in names}) for one in parsed.events]
            deliveries.append(
                NewDelivery(
                    delivery_id=uuid.uuid4().hex,
                    org=key.org,
                    account_id=parsed.account_id,
                    door="key",
                    received_at=self.clock.now(),
                    content_type=None,
                    headers={},
                    request_id=None,
                    body=hit.body,
                    events=events,
                )
            )
        await save_deliveries(self.database, deliveries, now=self.sandbox.world.clock)
        return len(deliveries)

    async def lose(self) -> None:
        """What has arrived is forgotten, as if it had never been sent."""
        await self.sent()
        self._taken = len(self.receiver.hits)

    async def work(self) -> BacklogReport:
        """The backlog is worked off."""
        session = BacklogSession(
            database=self.database, clients=self, clock=self.clock, owner="test", announce=self._announce
        )
        return await drain(session, 0)

    async def give_up(self) -> None:
        """What waits in the backlog becomes dead letters."""
        turn = await take_turn(self.database, "test", 30, now=self.sandbox.world.clock)
        assert turn is not None
        events = await pending_events(self.database, turn, 100, now=self.sandbox.world.clock)
        failures = [Failure(event.id, "given up", None) for event in events]
        assert await fail_events(self.database, turn, failures, now=self.clock.now())
        assert await end_turn(self.database, turn)

    async def reconcile(self, since: datetime, **options: Any) -> ReconcileReport:
        worker = Reconciler(self.database, self.client, self.connection, self.clock)
        return await worker.run(since, **options)

    async def check(self, **options: Any) -> HealthReport:
        session = HealthSession(
            database=self.database, clients=self, door=DOOR, clock=self.clock, announce=self._announce
        )
        return await check_webhooks.fn(session, orgs=None, grace=GRACE, **options)

    def _announce(self, name: str, org: str, payload: dict[str, object]) -> None:
        self.announced.append((name, org, payload))

    async def told(self, after: int = 0) -> list[OutboxRecord]:
        return await list_outbox(self.database, after_id=after, limit=10_000)

    async def assert_level(self, entity: str, ids: list[int]) -> None:
        """The mirror has these records as the sandbox has them."""
        account = self.sandbox.account("acme")
        held = {r["id"]: r for r in (account.tasks if entity == "tasks" else account.entities[entity])}
        states = await record_states(self.database, "acme", entity, ids)
        for number in ids:
            if held[number].get("is_deleted"):
                assert states[number].state == "deleted", (entity, number)
                continue
            found = await get_record(self.database, "acme", entity, number)
            assert found is not None, (entity, number)
            assert (found.state, found.raw["updated_at"]) == ("present", held[number]["updated_at"])
            key = "text" if entity == "tasks" else "name"
            assert found.raw[key] == held[number][key]


@asynccontextmanager
async def opened(
    database: Database, config: SandboxConfig = SMALL, *, admin: bool = True
) -> AsyncIterator[Office]:
    """An org that is connected to the sandbox's first account; nothing is subscribed yet."""
    async with running_sandbox(config) as sandbox, receiving() as receiver:
        sandbox.world.webhooks.configure(routes={PUBLIC: receiver.url})
        access = sandbox.accounts[0]
        clock = WorldClock(sandbox)
        connection = await put_connection(
            database,
            org="acme",
            block_name="acme",
            host=access.host,
            account_id=access.account_id,
            account_name="Acme",
            subdomain=access.subdomain,
            token_kind="long_lived",
            state="connected",
            now=clock.now(),
        )
        async with KommoClient(
            parse_host(access.host, allow_loopback=True),
            StaticToken(SecretStr(access.admin_token if admin else access.plain_token)),
            budget=InProcessBudget(None, SystemClock()),
            account_key="account:1",
            attempts=2,
        ) as client:
            yield Office(database, sandbox, receiver, clock, connection, client)
