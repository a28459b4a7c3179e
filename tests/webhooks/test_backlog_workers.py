"""Several workers on one inbox, and orgs side by side: nothing is worked twice, nobody starves (W2)."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from sandbox import Sandbox, running_sandbox
from store.backlog import end_turn, take_turn
from store.database import Database
from store.errors import DatabaseUnavailableError
from store.inbox import NewEvent, save_deliveries
from tasks import backlog
from tasks.backlog import drain
from tests.syncing import quiet_config
from tests.turns import measured
from tests.webhooks.backlog_support import (
    SandboxClients,
    assert_told_once,
    deliver,
    delivery,
    happening,
    inbox,
    join,
    mirror,
    raw_records,
    session_of,
    told,
    work,
)


@pytest.fixture
async def kommo() -> AsyncIterator[Sandbox]:
    async with running_sandbox(quiet_config(accounts=3, leads=30, contacts=3, companies=2)) as sandbox:
        yield sandbox


def held(sandbox: Sandbox, account: str) -> dict[int, dict[str, object]]:
    """What the sandbox holds of each lead that is not in the bin."""
    return {
        lead["id"]: {key: lead[key] for key in ("id", "name", "status_id", "price", "updated_at")}
        for lead in sandbox.account(account).entities["leads"]
        if not lead["is_deleted"]
    }


async def mirrored(database: Database, org: str) -> dict[int, dict[str, object]]:
    """The same of the mirror."""
    return {
        number: {key: raw[key] for key in ("id", "name", "status_id", "price", "updated_at")}
        for number, raw in (await raw_records(database, org)).items()
    }


class Office:
    """People who edit the leads of some accounts, and the webhooks that tell of it."""

    def __init__(self, sandbox: Sandbox, orgs: Sequence[str], seed: int = 1) -> None:
        self._sandbox = sandbox
        self._orgs = orgs
        self._dice = random.Random(seed)
        self._messages = itertools.count()

    def edit(self) -> tuple[str, list[NewEvent]]:
        """One edit, and what Kommo sends of it: often several events, now and then something old."""
        org = self._dice.choice(self._orgs)
        leads = self._sandbox.account(org).entities["leads"]
        lead = self._dice.choice([known["id"] for known in leads])
        where = {"entity": "leads", "id": lead}
        if self._dice.random() < 0.1:
            deleted = (leads.get(lead) or {})["is_deleted"]
            self._sandbox.change(org, "restore_record" if deleted else "delete_record", **where)
            return org, [happening("leads", "restore" if deleted else "delete", lead, seconds=None)]
        price = self._dice.randrange(10_000)
        self._sandbox.change(
            org,
            "patch",
            kind="leads",
            id=lead,
            values={"price": price, "updated_at": self._sandbox.world.now()},
        )
        events = [happening("leads", "update", lead, price=str(price))]
        if self._dice.random() < 0.3:
            events.append(happening("leads", "status", lead, status_id="142"))
        if self._dice.random() < 0.2:
            events.append(happening("messages", "add", f"m-{next(self._messages)}", chat_id="c"))
        self._dice.shuffle(events)
        return org, events


@pytest.mark.seconds(4)
@pytest.mark.parametrize("workers", [2, 4])
async def test_w2_several_workers_on_one_inbox_work_no_event_twice_and_the_mirror_is_level(
    database: Database, kommo: Sandbox, workers: int
) -> None:
    orgs = ["acme", "globex", "romashka"]
    await join(database, kommo, *orgs)
    office, done = Office(kommo, orgs), asyncio.Event()

    async def edit() -> None:
        for _ in range(60):
            org, events = office.edit()
            await deliver(database, org, *events)
        done.set()

    async def worker() -> int:
        clients = SandboxClients(kommo)
        settled = 0
        while True:
            ended = done.is_set()
            session = session_of(database, clients, turn_events=20, batch_events=7)
            report = await drain(session, 0.0, concurrency=2)
            settled += report.events
            if ended:
                return settled

    editing = asyncio.create_task(edit())
    settled = await asyncio.gather(*(worker() for _ in range(workers)))
    await editing
    assert (await work(database, SandboxClients(kommo))).events == 0
    events, outbox = await inbox(database), await told(database)
    assert {event.state for event in events} == {"done"}
    assert sum(settled) == len(events)
    assert_told_once(events, outbox)
    quiet = ("nothing: ",)
    effective = {event.id for event in events if not (event.outcome or "").startswith(quiet)}
    assert {number for one in outbox for number in one.payload["event_ids"]} >= effective
    for org in orgs:
        there = await mirrored(database, org)
        assert there == {
            number: lead for number, lead in held(kommo, org).items() if number in await mirror(database, org)
        }


async def test_a_flood_of_one_org_does_not_starve_another(database: Database, kommo: Sandbox) -> None:
    await join(database, kommo, "acme", "globex")
    flood = [happening("messages", "add", f"m-{number}", chat_id="c") for number in range(3000)]
    await save_deliveries(database, [delivery("acme", *flood)])
    running = asyncio.create_task(
        drain(session_of(database, SandboxClients(kommo), turn_events=200), 0.0, concurrency=1)
    )
    while not await told(database, "acme"):  # noqa: ASYNC110 - another's transaction
        await asyncio.sleep(0.01)
    [lead, *_] = held(kommo, "globex")
    await deliver(database, "globex", happening("leads", "update", lead))
    begun = time.monotonic()
    while not await told(database, "globex"):  # noqa: ASYNC110 - another's transaction
        await asyncio.sleep(0.01)
    waited = time.monotonic() - begun
    left = sum(event.state == "pending" for event in await inbox(database, "acme"))
    assert left > 0, "the flood was over before the other org came"
    assert waited < 2.0
    assert (await running).events == 3001


async def test_each_shard_works_its_own_orgs_and_all_together_all(database: Database, kommo: Sandbox) -> None:
    orgs = [f"org-{number}" for number in range(12)]
    await join(database, kommo, *orgs, subdomain="acme")
    for org in orgs:
        await deliver(database, org, happening("messages", "add", "a-b"))
    clients = SandboxClients(kommo)
    first = await drain(session_of(database, clients), 0.0, shard=(0, 2))
    assert 0 < first.events < 12
    second = await drain(session_of(database, clients), 0.0, shard=(1, 2))
    assert first.events + second.events == 12
    await deliver(database, "org-1", happening("messages", "add", "c-d"))
    await deliver(database, "org-2", happening("messages", "add", "c-d"))
    assert (await drain(session_of(database, clients), 0.0, orgs=["org-2"])).events == 1
    assert [event.state for event in await inbox(database, "org-1")] == ["done", "pending"]


async def test_a_database_that_goes_away_for_a_moment_is_waited_for(
    database: Database, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await join(database, kommo, "acme")
    await deliver(database, "acme", happening("messages", "add", "a-b"))
    away = iter([True, False, True])

    def sometimes(real: Any) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            if next(away, False):
                raise DatabaseUnavailableError("The database does not answer.")
            return await real(*arguments, **more)

        return call

    monkeypatch.setattr(backlog, "take_turn", sometimes(take_turn))
    monkeypatch.setattr(backlog, "end_turn", sometimes(end_turn))
    report = await drain(session_of(database, SandboxClients(kommo), turn_seconds=0.3), 1.0)
    assert (report.events, [event.state for event in await inbox(database)]) == (1, ["done"])
    monkeypatch.setattr(backlog, "_OUTAGE_SECONDS", 0.1)
    away = iter([True] * 100)
    with pytest.raises(DatabaseUnavailableError):
        await drain(session_of(database, SandboxClients(kommo)), 30.0)


@pytest.mark.timing
async def test_many_orgs_are_worked_side_by_side(database: Database, kommo: Sandbox) -> None:
    """Twelve orgs whose Kommo takes 0.6 s to answer are through long before twelve times 0.6 s."""
    orgs = [f"org-{number}" for number in range(12)]
    await join(database, kommo, *orgs, subdomain="acme")
    [lead, *_] = held(kommo, "acme")
    for org in orgs:
        await deliver(database, org, happening("leads", "update", lead))
    kommo.world.faults.add(kind="slow", delay=0.6, path="/leads")
    report = await drain(session_of(database, SandboxClients(kommo)), 0.0, concurrency=12)
    assert report.events == 12
    with measured():
        assert report.seconds < 4.8
