"""What the tests of the backlog share: events as the intake stores them, orgs joined to a sandbox, no Prefect."""

import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import select

from kommo.budget import InProcessBudget, Lane
from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from sandbox import Sandbox
from store.connections import ConnectionRecord, put_connection
from store.database import Database
from store.inbox import EVENTS, NewDelivery, NewEvent, Saved, StoredEvent, save_deliveries
from store.mirror import record_states
from store.outbox import OutboxRecord, list_outbox
from store.tables import RecordRow, table_of
from tasks.backlog import BacklogReport, BacklogSession, drain
from tasks.backlog_turn import Options

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
FAST = Options(backoff=0.0, poll=0.02)
_numbers = itertools.count(1)


def happening(
    entity: str, action: str, entity_id: object, /, *, seconds: float | None = 0, **payload: Any
) -> NewEvent:
    """One change as the parser gives it, every one with a key of its own."""
    return NewEvent(
        entity=entity,
        action=action,
        entity_id=str(entity_id),
        parent=None,
        occurred_at=None if seconds is None else START + timedelta(seconds=seconds),
        unique_key=uuid.uuid4().hex,
        payload={"id": str(entity_id), **payload},
    )


def delivery(org: str, *events: NewEvent) -> NewDelivery:
    """A delivery of these events."""
    return NewDelivery(
        delivery_id=f"{next(_numbers):08d}-{uuid.uuid4().hex}",
        org=org,
        account_id=None,
        door="key",
        received_at=datetime.now(UTC),
        content_type="application/x-www-form-urlencoded",
        headers={},
        request_id=None,
        body=b"",
        events=events,
    )


def stored(event: NewEvent, number: int) -> StoredEvent:
    """The event as the store would give it back."""
    return StoredEvent(
        id=number,
        delivery_id=f"{number:08d}",
        position=0,
        org="acme",
        entity=event.entity,
        action=event.action,
        entity_id=event.entity_id,
        parent=event.parent,
        occurred_at=event.occurred_at,
        received_at=START + timedelta(seconds=number),
        unique_key=event.unique_key,
        payload=event.payload,
        state="pending",
        attempts=0,
        due_at=0.0,
        reason=None,
        settled_at=None,
        outcome=None,
    )


async def deliver(database: Database, org: str, *events: NewEvent) -> list[Saved]:
    """Put events into the inbox, each in a delivery of its own."""
    return await save_deliveries(database, [delivery(org, event) for event in events])


class SandboxClients:
    """Clients of a sandbox's accounts, without Prefect's blocks; counts the requests of each path."""

    def __init__(self, sandbox: Sandbox, *, per_second: float = 10_000, attempts: int = 1) -> None:
        self._sandbox = sandbox
        self._budget = InProcessBudget({"account": per_second, "egress": per_second}, SystemClock())
        self._attempts = attempts
        self.requests_sent = 0

    @asynccontextmanager
    async def use(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        access = next(one for one in self._sandbox.accounts if one.account_id == connection.account_id)
        async with KommoClient(
            parse_host(access.host, allow_loopback=True),
            StaticToken(SecretStr(access.admin_token)),
            budget=self._budget,
            account_key=f"account:{access.account_id}",
            lane=Lane.WEBHOOK,
            attempts=self._attempts,
        ) as client:
            try:
                yield client
            finally:
                self.requests_sent += client.requests_sent


async def join(database: Database, sandbox: Sandbox, *orgs: str, subdomain: str | None = None) -> None:
    """Connect orgs to the accounts of their name, or all to one account."""
    for org in orgs:
        account = sandbox.account(subdomain or org)
        await put_connection(
            database,
            org=org,
            block_name=f"org-{org}",
            host=account.host,
            account_id=account.id,
            token_kind="long_lived",
            now=datetime.now(UTC),
        )


class Announced:
    """Collects Prefect events instead of emitting them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def __call__(self, name: str, org: str, payload: dict[str, object]) -> None:
        self.events.append((name, org, payload))


def session_of(
    database: Database,
    clients: Any,
    *,
    announced: Announced | None = None,
    options: Options = FAST,
    **more: Any,
) -> BacklogSession:
    """A session as the flow makes it."""
    return BacklogSession(
        database=database,
        clients=clients,
        clock=SystemClock(),
        owner=uuid.uuid4().hex,
        announce=announced or Announced(),
        options=replace(options, **more),
    )


async def work(database: Database, clients: Any, **more: Any) -> BacklogReport:
    """Work off what is due."""
    return await drain(session_of(database, clients, **more), 0.0)


async def told(database: Database, org: str | None = None) -> list[OutboxRecord]:
    """The outbox, in its order."""
    return await list_outbox(database, org=org, limit=1_000_000)


async def types_told(database: Database, org: str | None = None) -> dict[str, int]:
    """How often each type was told."""
    return dict(Counter(event.type for event in await told(database, org)))


async def inbox(database: Database, org: str | None = None) -> list[StoredEvent]:
    """All events of the inbox, in the order of their arrival."""
    query = select(EVENTS).order_by(EVENTS.c.delivery_id, EVENTS.c.position)
    if org is not None:
        query = query.where(EVENTS.c.org == org)
    async with database.read() as connection:
        return [StoredEvent(**row) for row in (await connection.execute(query)).mappings()]


async def mirror(database: Database, org: str, entity: str = "leads") -> dict[int, str]:
    """The state of every record of the mirror."""
    return {number: facts.state for number, facts in (await record_states(database, org, entity)).items()}


async def raw_records(database: Database, org: str, entity: str = "leads") -> dict[int, Any]:
    """The JSON of every record of the mirror that is there."""
    table = table_of(RecordRow)
    query = select(table.c.record_id, table.c.raw).where(
        table.c.org == org, table.c.entity == entity, table.c.state == "present"
    )
    async with database.read() as connection:
        return {row.record_id: row.raw for row in await connection.execute(query)}


def assert_told_once(events: Sequence[StoredEvent], outbox: Sequence[OutboxRecord]) -> None:
    """No inbox event stands twice behind one type, and no outbox id comes twice."""
    seen: Counter[tuple[str, int]] = Counter()
    for one in outbox:
        seen.update((one.type, number) for number in one.payload["event_ids"])
    assert {pair: count for pair, count in seen.items() if count > 1} == {}
    assert len({one.event_id for one in outbox}) == len(outbox)
    assert {number for _, number in seen} <= {event.id for event in events}
