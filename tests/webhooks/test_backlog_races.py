"""What happens to a connection, an event or a clock while a turn is worked (W2, W3)."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.connection import KommoConnection
from blocks.settings import Settings
from kommo.budget import Lane
from kommo.client import KommoClient
from kommo.clock import SystemClock
from kommo.errors import ErrorKind, KommoError
from sandbox import Sandbox, running_sandbox
from store.connections import ConnectionRecord, ConnectionState, get_connection, put_connection, set_state
from store.database import Database
from store.inbox import NewEvent, save_deliveries
from tasks import backlog_turn
from tasks.backlog import drain
from tasks.backlog_clients import OpenClients
from tasks.backlog_read import Reading, read_records
from tasks.deliveries import read_again
from tasks.errors import AppIncompleteError
from tasks.records import new_record
from tests.gateway.hooks import form
from tests.syncing import quiet_config
from tests.webhooks.backlog_support import (
    SandboxClients,
    deliver,
    delivery,
    happening,
    inbox,
    join,
    mirror,
    session_of,
    types_told,
    work,
)


@pytest.fixture
async def kommo() -> AsyncIterator[Sandbox]:
    async with running_sandbox(quiet_config(accounts=2, leads=6, contacts=2, companies=2)) as sandbox:
        yield sandbox


@pytest.fixture
async def clients(kommo: Sandbox, database: Database) -> SandboxClients:
    """Clients of the sandbox; the org `acme` is joined to its account."""
    await join(database, kommo, "acme")
    return SandboxClients(kommo)


def leads_of(kommo: Sandbox) -> list[int]:
    return [lead["id"] for lead in kommo.account("acme").entities["leads"]]


class Meanwhile:
    """Clients with something that happens once an org's client is in use."""

    def __init__(self, inner: Any, happens: Any, error: Exception | None = None) -> None:
        self._inner, self._happens, self._error = inner, happens, error

    @property
    def requests_sent(self) -> int:
        return int(self._inner.requests_sent)

    @asynccontextmanager
    async def use(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        async with self._inner.use(connection) as client:
            await self._happens()
            if self._error is not None:
                raise self._error
            yield client


async def test_a_turn_does_not_bring_back_a_connection_that_was_ended_meanwhile(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    async def state(name: str, code: str) -> None:
        await set_state(database, "acme", name, "why", reason_code=code, now=datetime.now(UTC))

    async def ended() -> None:
        await state("disconnected", "disconnected_here")

    await state("degraded", "webhook_backlog")
    await deliver(database, "acme", happening("leads", "update", leads_of(kommo)[0]))
    await work(database, Meanwhile(clients, ended))
    assert (await get_connection(database, "acme")).state == "disconnected"


async def test_t4_a_turn_does_not_hide_that_somebody_must_connect_again(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    async def state(name: str, code: str) -> None:
        await set_state(database, "acme", name, "why", reason_code=code, now=datetime.now(UTC))

    async def refused() -> None:
        await state("reauthorization_required", "token_refused")

    await state("degraded", "webhook_backlog")
    await deliver(database, "acme", happening("leads", "update", leads_of(kommo)[0]))
    await work(database, Meanwhile(clients, refused))
    assert (await get_connection(database, "acme")).state == "reauthorization_required"


async def test_t4_what_was_refused_of_the_former_token_says_nothing_of_the_new_one(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    async def replaced() -> None:
        await join(database, kommo, "acme")

    refusal = KommoError(ErrorKind.UNAUTHORIZED, method="GET", path="/api/v4/leads", status=401)
    await deliver(database, "acme", happening("leads", "update", leads_of(kommo)[0]))
    await work(database, Meanwhile(clients, replaced, refusal))
    assert (await get_connection(database, "acme")).state == "connected"


class OneBlock:
    """Stands in for Prefect's blocks; counts how often they are read."""

    loads = 0

    async def load(self, org: str) -> KommoConnection:
        self.loads += 1
        return KommoConnection(org=org, host="acme.kommo.com", access_token=SecretStr("eyJ-a-token"))


async def test_t4_a_client_with_the_former_token_is_not_used_any_more(database: Database) -> None:
    blocks: Any = OneBlock()

    async def connected() -> ConnectionRecord:
        return await put_connection(
            database,
            org="acme",
            block_name="acme",
            host="acme.kommo.com",
            token_kind="long_lived",
            account_id=1,
            now=datetime.now(UTC),
        )

    open_ones = OpenClients(
        database, Settings(), SystemClock(), blocks, AppIncompleteError("none"), lane=Lane.WEBHOOK
    )
    first = await connected()
    for connection in (first, first, await connected()):
        async with open_ones.use(connection):
            pass
    await open_ones.aclose()
    assert blocks.loads == 2


@pytest.mark.parametrize("state", ["connected", "degraded", "outcome_unknown", "reauthorization_required"])
async def test_only_a_new_consent_leads_back_from_disconnected(
    database: Database, kommo: Sandbox, clients: SandboxClients, state: str
) -> None:
    del clients
    now = datetime.now(UTC)
    await set_state(database, "acme", ConnectionState.DISCONNECTED, "A person did it.", now=now)
    assert not await set_state(database, "acme", state, "late news", now=now)
    found = await get_connection(database, "acme")
    assert (found.state, found.reason) == ("disconnected", "A person did it.")
    await join(database, kommo, "acme")
    assert (await get_connection(database, "acme")).state == "connected"


class Refusing:
    """Reads nothing of some leads, as if each of them were too much for Kommo."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)
        self._real = read_records

    async def __call__(self, client: Any, entity: str, ids: Sequence[int], known: Any) -> Reading:
        bad = self.bad & set(ids)
        good = [number for number in ids if number not in bad]
        reading = await self._real(client, entity, good, known) if good else Reading()
        reading.blamed |= dict.fromkeys(bad, "Kommo cannot give it.")
        return reading


async def test_w3_events_that_keep_coming_do_not_use_up_the_attempts_of_those_before_them(
    database: Database, kommo: Sandbox, clients: SandboxClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead = leads_of(kommo)[0]
    monkeypatch.setattr(backlog_turn, "read_records", Refusing(lead))
    for second in range(6):
        await deliver(database, "acme", happening("leads", "update", lead, seconds=second))
        await work(database, clients, backoff=60.0)
    found = await inbox(database, "acme")
    assert [(event.state, event.attempts) for event in found] == [("pending", 1)] * 6


class Wrong(SystemClock):
    """The clock of a machine that is wrong by some seconds."""

    def __init__(self, seconds: float) -> None:
        self._off = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._off


async def worked_by(database: Database, clients: Any, clock: SystemClock, **options: Any) -> None:
    session = session_of(database, clients, **options)
    session.clock = clock
    session.owner = uuid.uuid4().hex
    await drain(session, 0.0)


async def test_w3_a_machine_with_a_wrong_clock_waits_as_long_as_the_others_before_it_tries_again(
    database: Database, kommo: Sandbox, clients: SandboxClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("the processes on one file share a machine and its clock")
    slow, fast = leads_of(kommo)[:2]
    monkeypatch.setattr(backlog_turn, "read_records", Refusing(slow, fast))
    await deliver(database, "acme", happening("leads", "update", slow))
    await worked_by(database, clients, Wrong(-3600), backoff=60.0)
    await deliver(database, "acme", happening("leads", "update", fast))
    await worked_by(database, clients, Wrong(3600), backoff=60.0)
    now = datetime.now(UTC).timestamp()
    assert [event.attempts for event in await inbox(database)] == [1, 1]
    assert all(45 < event.due_at - now < 75 for event in await inbox(database))


async def test_w2_a_deletion_is_seen_also_if_a_machine_whose_clock_is_fast_read_the_record_before(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("the processes on one file share a machine and its clock")
    lead = leads_of(kommo)[0]
    await deliver(database, "acme", happening("leads", "update", lead))
    await worked_by(database, clients, Wrong(300))
    kommo.change("acme", "delete_record", entity="leads", id=lead)
    await deliver(database, "acme", happening("leads", "delete", lead, seconds=None))
    await worked_by(database, clients, Wrong(0))
    assert await mirror(database, "acme") == {lead: "deleted"}
    assert (await types_told(database))["kommo.lead.deleted"] == 1


async def test_w3_what_only_postgresqls_driver_refuses_stands_alone_too(
    database: Database, kommo: Sandbox, clients: SandboxClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("it takes numbers of any size")
    good, bad = leads_of(kommo)[:2]

    def spoilt(raw: Any, **given: Any) -> Any:
        record = new_record(raw, **given)
        return replace(record, responsible_user_id=2**70) if record.record_id == bad else record

    monkeypatch.setattr("tasks.backlog_write.new_record", spoilt)
    await deliver(database, "acme", happening("leads", "update", good), happening("leads", "update", bad))
    await work(database, clients, attempts=1)
    by_lead = {event.entity_id: event for event in await inbox(database)}
    assert (by_lead[str(good)].state, by_lead[str(bad)].state) == ("done", "dead")
    assert str(2**70) not in (by_lead[str(bad)].reason or "")


async def test_t5_a_fault_of_this_program_is_logged_by_its_place_and_not_by_what_it_holds(
    database: Database,
    kommo: Sandbox,
    clients: SandboxClients,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(*_: Any) -> Reading:
        raise KeyError("+31 20 123 45 67")

    monkeypatch.setattr(backlog_turn, "read_records", broken)
    await deliver(database, "acme", happening("leads", "update", leads_of(kommo)[0]))
    report = await work(database, clients)
    assert "KeyError" in report.paused["acme"]
    assert "KeyError at broken (test_backlog_races.py:" in caplog.text
    assert "+31" not in caplog.text


async def test_w3_an_id_with_many_noughts_before_it_is_no_id(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    good = leads_of(kommo)[0]
    forged = "0" * 19 + "1" + "9" * 30
    await deliver(database, "acme", happening("leads", "update", good), happening("leads", "delete", forged))
    await work(database, clients, attempts=1)
    assert {event.entity_id: event.state for event in await inbox(database)} == {
        str(good): "done",
        forged: "dead",
    }


async def test_w1_a_delivery_whose_events_the_database_refuses_does_not_stop_the_others_from_being_read_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (
        replace(delivery("acme"), body=form(number, account=None), reason="Not read.") for number in (1, 2)
    )
    await save_deliveries(database, [bad, good])
    from tasks import deliveries

    real = deliveries.inbox_events

    def spoilt(told: Any) -> tuple[NewEvent, ...]:
        events = real(told)
        return tuple(
            replace(event, occurred_at=datetime(2026, 1, 1)) if event.entity_id == "1" else event  # noqa: DTZ001 - as a store may give it
            for event in events
        )

    monkeypatch.setattr(deliveries, "inbox_events", spoilt)
    done = await read_again(database)
    assert (done.read, done.events, list(done.still)) == (1, 1, [bad.delivery_id])
    assert [event.entity_id for event in await inbox(database)] == ["2"]
    monkeypatch.setattr(deliveries, "inbox_events", real)
    assert (await read_again(database)).read == 1


async def test_a_delivery_of_another_account_is_not_let_in_when_it_is_read_again(database: Database) -> None:
    await put_connection(
        database,
        org="acme",
        block_name="acme",
        host="acme.kommo.com",
        token_kind="long_lived",
        account_id=31234567,
        now=datetime.now(UTC),
    )
    foreign = replace(delivery("acme"), body=form(1, account=5), reason="Not read.")
    own = replace(delivery("acme"), body=form(2, account=31234567), reason="Not read.")
    await save_deliveries(database, [foreign, own])
    done = await read_again(database)
    assert (done.read, list(done.still)) == (1, [foreign.delivery_id])
    assert "account" in done.still[foreign.delivery_id]
    assert [event.entity_id for event in await inbox(database)] == ["2"]
