"""Working off the backlog against a sandbox: each event takes effect once, the mirror says what Kommo says (W2, W3)."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from kommo.clock import SystemClock
from sandbox import Sandbox, running_sandbox
from store.backlog import backlog_counts, dead_letters, end_pause, end_turn, fail_events, replay, take_turn
from store.connections import ConnectionState, get_connection
from store.database import Database
from store.inbox import save_deliveries
from store.mirror import get_record
from tasks import backlog_turn
from tasks.backlog import drain
from tasks.backlog_trouble import LONGEST_PAUSE, PERSON_PAUSE
from tasks.backlog_turn import TurnWorker
from tasks.backlog_write import write_batch
from tests.syncing import quiet_config
from tests.turns import measured
from tests.webhooks.backlog_support import (
    FAST,
    Announced,
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
    types_told,
    work,
)


@pytest.fixture
async def kommo() -> AsyncIterator[Sandbox]:
    async with running_sandbox(quiet_config(accounts=3, leads=20, contacts=8, companies=4)) as sandbox:
        yield sandbox


@pytest.fixture
async def clients(kommo: Sandbox, database: Database) -> SandboxClients:
    """Clients of the sandbox; the org `acme` is joined to its account."""
    await join(database, kommo, "acme")
    return SandboxClients(kommo)


def lead_ids(kommo: Sandbox, account: str = "acme") -> list[int]:
    return [lead["id"] for lead in kommo.account(account).entities["leads"]]


async def states(database: Database, org: str = "acme") -> list[str]:
    return [event.state for event in await inbox(database, org)]


async def test_w2_each_event_takes_effect_once(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    account, leads = kommo.account("acme"), lead_ids(kommo)
    contact, company, task = (
        next(iter(known))["id"]
        for known in (account.entities["contacts"], account.entities["companies"], account.tasks)
    )
    announced = Announced()
    await deliver(
        database,
        "acme",
        happening("leads", "add", leads[0]),
        happening("leads", "status", leads[0], status_id="142", old_status_id="10"),
        happening("leads", "update", leads[0]),
        happening("leads", "responsible", leads[1], responsible_user_id="1"),
        happening("contacts", "add", contact),
        happening("companies", "update", company),
        happening("tasks", "add", task),
        happening("messages", "add", "a-b", type="incoming", text="Hello"),
        happening("pigeons", "add", 1),
    )
    report = await work(database, clients, announced=announced)
    assert (report.events, report.failed, report.dead) == (9, 0, 0)
    outbox = await told(database)
    wanted = {
        "kommo.lead.created": 1,
        "kommo.lead.updated": 1,
        "kommo.lead.status_changed": 1,
        "kommo.lead.responsible_changed": 1,
        "kommo.contact.created": 1,
        "kommo.company.updated": 1,
        "kommo.task.created": 1,
        "kommo.message.received": 1,
        "kommo.event.unknown": 1,
    }
    assert report.told == await types_told(database) == wanted
    events = await inbox(database)
    assert_told_once(events, outbox)
    assert {(event.state, event.outcome is not None) for event in events} == {("done", True)}
    assert set(await mirror(database, "acme")) == set(leads[:2])
    created = next(event for event in outbox if event.type == "kommo.lead.created")
    assert created.payload["record"]["id"] == leads[0]
    assert created.payload["record"] == (await raw_records(database, "acme"))[leads[0]]
    assert created.payload["account_id"] == account.id
    assert {name for name, _, _ in announced.events} == set(wanted)
    assert (
        "kommo.lead.created",
        "acme",
        {"org": "acme", "account_id": account.id, "count": 1, "ids": [leads[0]]},
    ) in (announced.events)
    # Nothing is left, so nothing happens again.
    assert (await work(database, clients)).turns == 0
    assert len(await told(database)) == len(outbox)


async def test_w2_a_repeated_delivery_has_no_effect(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    update = happening("leads", "update", lead_ids(kommo)[0])
    for _ in range(2):
        await save_deliveries(database, [delivery("acme", update), delivery("acme", update)])
        await work(database, clients)
    assert await types_told(database) == {"kommo.lead.updated": 1}
    assert sorted(await states(database)) == ["done", "duplicate", "duplicate", "duplicate"]


async def test_w2_a_creation_told_by_several_hooks_is_told_once(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    lead = lead_ids(kommo)[0]
    for number in range(2):
        # The second as a stage's automation sends it: the lead came into its stage.
        await deliver(database, "acme", happening("leads", "add", lead, seconds=number))
        await work(database, clients)
    assert await types_told(database) == {"kommo.lead.created": 1}
    assert await states(database) == ["done", "done"]


async def test_deleted_restored_and_gone_without_a_word(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    first, second, third, *_ = lead_ids(kommo)
    await deliver(database, "acme", *(happening("leads", "add", lead) for lead in (first, second)))
    await work(database, clients)

    kommo.change("acme", "delete_record", entity="leads", id=first)
    kommo.change("acme", "delete_record", entity="leads", id=third)
    deletion = happening("leads", "delete", first, seconds=None)
    await deliver(
        database,
        "acme",
        deletion,
        happening("leads", "delete", second, seconds=None),
        happening("leads", "update", third),
    )
    await work(database, clients)
    assert await mirror(database, "acme") == {first: "deleted", second: "present", third: "missing"}
    assert (await types_told(database))["kommo.lead.deleted"] == 1
    assert (await types_told(database))["kommo.lead.missing"] == 1
    record = await get_record(database, "acme", "leads", first)
    assert record is not None
    assert record.raw["id"] == first  # a tombstone keeps what was known

    # The same deletion again, as Kommo repeats those without a time: known already.
    await deliver(database, "acme", happening("leads", "delete", first, seconds=None))
    await work(database, clients)
    assert (await inbox(database))[-1].outcome == "nothing: known already"

    kommo.change("acme", "restore_record", entity="leads", id=first)
    kommo.change("acme", "restore_record", entity="leads", id=third)
    await deliver(database, "acme", happening("leads", "restore", first), happening("leads", "update", third))
    await work(database, clients)
    assert set((await mirror(database, "acme")).values()) == {"present"}
    back = [event.payload for event in await told(database) if event.type == "kommo.lead.restored"]
    assert {(one["id"], one["old_state"]) for one in back} == {(first, "deleted"), (third, "missing")}

    kommo.change("acme", "delete_record", entity="leads", id=first)
    await deliver(database, "acme", happening("leads", "delete", first, seconds=None))
    await work(database, clients)
    assert (await mirror(database, "acme"))[first] == "deleted"
    assert (await types_told(database))["kommo.lead.deleted"] == 2
    assert_told_once(await inbox(database), await told(database))


async def test_a_deletion_of_a_lead_that_is_still_there_is_not_believed(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    lead = lead_ids(kommo)[0]
    await deliver(database, "acme", happening("leads", "delete", lead, seconds=None))
    await work(database, clients)
    assert await told(database) == []
    assert await mirror(database, "acme") == {lead: "present"}
    assert (await inbox(database))[0].outcome == "nothing: it is still there"


async def test_w3_a_poison_event_becomes_a_dead_letter_the_rest_flows_and_a_replay_heals(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    poison, *others = lead_ids(kommo)[:6]
    kommo.change("acme", "patch", kind="leads", id=poison, values={"updated_at": "yesterday"})
    await deliver(
        database,
        "acme",
        happening("leads", "update", poison),
        *(happening("leads", "update", lead) for lead in others),
        happening("leads", "update", "not-a-number"),
    )
    report = await work(database, clients)
    assert (report.events, report.dead) == (5, 2)
    assert (await inbox(database))[0].attempts == 5
    letters = await dead_letters(database, "acme")
    assert {letter.entity_id: letter.reason for letter in letters} == {
        str(poison): "Kommo's answer cannot be read: updated_at is not a whole number.",
        "not-a-number": "The id in the event is not one that Kommo gives; the event may be forged.",
    }
    [sick] = [letter.id for letter in letters if letter.entity_id == str(poison)]
    assert set(await mirror(database, "acme")) == set(others)

    kommo.change("acme", "patch", kind="leads", id=poison, values={"updated_at": 1_790_000_000})
    assert await replay(database, ids=[sick]) == 1
    await work(database, clients)
    assert poison in await mirror(database, "acme")
    assert (await types_told(database)) == {"kommo.lead.updated": 6}
    assert_told_once(await inbox(database), await told(database))
    # Once more: it is no dead letter now, so nothing is put back.
    assert await replay(database, ids=[sick]) == 0


async def test_w3_attempts_are_spread_out(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    lead = lead_ids(kommo)[0]
    kommo.change("acme", "patch", kind="leads", id=lead, values={"updated_at": "yesterday"})
    await deliver(database, "acme", happening("leads", "update", lead))
    begun = time.time()
    report = await work(database, clients, backoff=5.0)
    assert (report.failed, report.dead) == (1, 0)
    [event] = await inbox(database)
    assert (event.state, event.attempts) == ("pending", 1)
    assert 4.5 < event.due_at - begun < 30


async def test_w3_a_row_that_the_database_refuses_does_not_take_the_others_with_it(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    poison, *others = lead_ids(kommo)[:4]
    await deliver(
        database,
        "acme",
        happening("leads", "update", poison),
        *(happening("leads", "update", lead) for lead in others),
    )
    rule, no_rule = _refusal(database, poison)
    async with database.begin() as connection:
        await connection.exec_driver_sql(rule)
    try:
        report = await work(database, clients)
    finally:
        async with database.begin() as connection:  # other tests get the same tables
            await connection.exec_driver_sql(no_rule)
    assert (report.events, report.dead) == (3, 1)
    [letter] = await dead_letters(database)
    assert letter.entity_id == str(poison)
    assert letter.reason is not None
    assert "The database refused a row" in letter.reason
    assert set(await mirror(database, "acme")) == set(others)


def _refusal(database: Database, record_id: int) -> tuple[str, str]:
    """A rule by which the mirror refuses one record, as a fault of ours would look; and how to end it."""
    if database.dialect == "sqlite":
        when = f"BEFORE INSERT ON record WHEN NEW.record_id = {record_id}"
        return f"CREATE TRIGGER poison {when} BEGIN SELECT RAISE(ABORT, 'poison'); END", "DROP TRIGGER poison"
    alter = f'ALTER TABLE "{database.address.schema}".record'
    return (
        f"{alter} ADD CONSTRAINT poison CHECK (record_id <> {record_id})",
        f"{alter} DROP CONSTRAINT poison",
    )


@pytest.mark.parametrize(
    ("fault", "state", "longest"),
    [
        ("429", ConnectionState.CONNECTED, 301.0),
        ("500", ConnectionState.CONNECTED, LONGEST_PAUSE),
        ("reset", ConnectionState.CONNECTED, LONGEST_PAUSE),
        ("401", ConnectionState.REAUTHORIZATION_REQUIRED, PERSON_PAUSE),
        ("403_html", ConnectionState.CONNECTED, LONGEST_PAUSE),
    ],
)
async def test_w3_a_fault_of_nobodys_event_rests_the_org_and_counts_no_attempt(
    database: Database, kommo: Sandbox, clients: SandboxClients, fault: str, state: str, longest: float
) -> None:
    await join(database, kommo, "globex")
    leads = lead_ids(kommo)[:2]
    await deliver(database, "acme", *(happening("leads", "update", lead) for lead in leads))
    await deliver(database, "acme", happening("messages", "add", "a-b"))
    # A 429 slows everybody down and a block stops everybody on this address (R2): then no other org can go on.
    alone = fault in {"429", "403_html"}
    if not alone:
        await deliver(database, "globex", happening("leads", "update", lead_ids(kommo, "globex")[0]))
    kommo.world.faults.add(kind=fault, account="acme", path="/leads")
    report = await work(database, clients)
    # What needs no answer of Kommo's is told all the same, and the other org does not notice.
    others = {} if alone else {"kommo.lead.updated": 1}
    assert report.told == {"kommo.message.received": 1, **others}, report
    assert set(report.paused) == {"acme"}
    assert {event.attempts for event in await inbox(database)} == {0}
    [row] = [one for one in await backlog_counts(database) if one.org == "acme"]
    assert (row.pending, row.dead, row.reason) == (2, 0, report.paused["acme"])
    assert 0.5 < row.paused_until - time.time() <= longest
    assert (await get_connection(database, "acme")).state == state
    # While it rests, nobody asks Kommo again.
    assert (await work(database, clients)).turns == 0


async def test_an_org_that_is_not_connected_rests_and_loses_nothing(
    database: Database, clients: SandboxClients
) -> None:
    await deliver(database, "nobody", happening("leads", "update", 1))
    report = await work(database, clients)
    assert "not connected" in report.paused["nobody"]
    assert await states(database, "nobody") == ["pending"]


async def test_the_state_that_the_backlog_has_set_it_takes_back(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    account = kommo.account("acme")
    account.paid = False
    lead = lead_ids(kommo)[0]
    await deliver(database, "acme", happening("leads", "update", lead))
    await work(database, clients)
    assert (await get_connection(database, "acme")).state == ConnectionState.DEGRADED
    account.paid = True
    await end_pause_of(database, "acme")
    await work(database, clients)
    assert (await get_connection(database, "acme")).state == ConnectionState.CONNECTED
    assert await states(database) == ["done"]


async def test_a_turn_does_not_wait_for_as_long_as_kommo_asks_everybody_to(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    lead = lead_ids(kommo)[0]
    await deliver(database, "acme", happening("leads", "update", lead))
    kommo.world.faults.add(kind="slow", delay=2.0, path="/leads")
    report = await work(database, clients, turn_seconds=0.3)
    assert "could not be read in time" in report.paused["acme"]
    assert report.seconds < 1.8
    assert [(event.state, event.attempts) for event in await inbox(database)] == [("pending", 0)]


async def end_pause_of(database: Database, org: str) -> None:
    assert await end_pause(database, org)


async def test_w2_a_turn_that_was_lost_writes_nothing(
    database: Database, kommo: Sandbox, clients: SandboxClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead = lead_ids(kommo)[0]
    await deliver(database, "acme", happening("leads", "update", lead))
    taken: list[str] = []

    async def write_late(*arguments: Any) -> Any:
        await asyncio.sleep(0.6)  # longer than the turn lasts
        another = await take_turn(database, "another", 30.0)
        taken.append(another.owner if another else "nobody")
        return await write_batch(*arguments)

    monkeypatch.setattr(backlog_turn, "write_batch", write_late)
    options = replace(FAST, turn_seconds=0.5)
    turn = await take_turn(database, "one", options.turn_seconds)
    assert turn is not None
    report = await TurnWorker(database, clients, SystemClock(), options).work(turn)
    assert (report.lost, report.done, taken[0]) == (True, 0, "another")
    assert not await end_turn(database, turn)
    assert await told(database) == []
    assert await mirror(database, "acme") == {}
    [event] = await inbox(database)
    assert (event.state, event.attempts) == ("pending", 0)
    assert not await fail_events(database, turn, [], now=event.received_at)


@pytest.mark.seconds(2)
@pytest.mark.timing
async def test_what_comes_while_it_lingers_is_taken_within_a_second(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    leads = lead_ids(kommo)
    session = session_of(database, clients, poll=0.3)
    lingering = asyncio.create_task(drain(session, 1.8))
    waits = []
    for lead in leads[:3]:
        await asyncio.sleep(0.25)
        await deliver(database, "acme", happening("leads", "update", lead))
        begun = time.monotonic()
        # On a machine that is busy its time may be over before the last one has come.
        while "pending" in await states(database) and not lingering.done():  # noqa: ASYNC110 - another's transaction
            await asyncio.sleep(0.02)
        waits.append(time.monotonic() - begun)
    report = await lingering
    with measured():
        assert report.events == 3
        assert max(waits) < 1.0
        assert 1.7 < report.seconds < 3.5


async def test_it_asks_kommo_as_little_as_it_can(
    database: Database, clients: SandboxClients, kommo: Sandbox
) -> None:
    """At most distinct/250 + 1 requests for an org and kind, however many turns it takes."""
    distinct = 620
    events = [
        happening("leads", "update", 1_000_000 + number % distinct, seconds=number)
        for number in range(3 * distinct)
    ]
    events += [happening("contacts", "update", 5_000_000 + number) for number in range(30)]
    await save_deliveries(database, [delivery("acme", *events)])
    kommo.world.log.entries.clear()
    report = await work(database, clients, turn_events=1000)
    assert report.turns >= 2
    paths = [entry.path for entry in kommo.world.log.entries]
    assert paths.count("/api/v4/leads") <= distinct / 250 + 1
    assert paths.count("/api/v4/contacts") <= 2
    assert report.events == len(events)


async def test_the_report_says_what_is_left(
    database: Database, kommo: Sandbox, clients: SandboxClients
) -> None:
    lead = lead_ids(kommo)[0]
    kommo.change("acme", "patch", kind="leads", id=lead, values={"updated_at": "yesterday"})
    await deliver(database, "acme", happening("leads", "update", lead), happening("messages", "add", "a-b"))
    report = await work(database, clients, backoff=60.0)
    [row] = report.backlog
    assert (row.org, row.pending, row.dead) == ("acme", 1, 0)
    assert 0 <= row.oldest_seconds < 60
    assert report.summary().startswith("1 events settled in 1 turns, 1 told, 1 requests")
    assert "1 wait, the oldest for" in report.summary()
