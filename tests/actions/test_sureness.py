"""No action is done twice, taken for another one, or called done when nobody has seen that it was (R3)."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest
from sqlalchemy import update

from blocks.connection import KommoConnection
from blocks.settings import Settings
from kommo.clock import SystemClock
from kommo.errors import ErrorKind, KommoError
from store import action_journal
from store.actions import TABLE, ActionState
from store.connections import get_connection, put_connection
from store.errors import DatabaseBusyError
from tasks.actions import (
    ActionKind,
    AddNote,
    UpdateDealField,
    check_key,
    make_wish,
    perform,
    perform_many,
)
from tasks.actions.clients import ActionClients
from tasks.actions.facts import Facts
from tasks.errors import InvalidActionError, WrongAccountError
from tests.actions.leaving import altered, left_behind, settled
from tests.actions.support import World, a_key, a_task


@pytest.fixture
def world(sqlite_world: World) -> World:
    """What Kommo is asked does not depend on our database."""
    return sqlite_world


async def move(world: World) -> None:
    """Connect the org to another account."""
    was = await get_connection(world.database, "acme")
    await put_connection(
        world.database,
        org="acme",
        block_name=was.block_name,
        host=was.host,
        account_id=(was.account_id or 0) + 1,
        token_kind=was.token_kind,
        now=datetime.now(UTC),
    )


@pytest.mark.parametrize("marked", [False, True])
async def test_r3_what_was_meant_for_one_account_is_never_sent_to_another(world: World, marked: bool) -> None:
    action_id = await left_behind(world, a_task(world), "key-1", marked=marked)
    await move(world)
    record = await settled(world, action_id)
    state = ActionState.UNKNOWN if marked else ActionState.FAILED
    assert (record.state, record.reason_code) == (state, "account_changed")
    assert world.tasks("Call back") == []


async def test_r3_an_org_that_moves_while_an_action_waits_is_noticed(world: World) -> None:
    world.sandbox.world.faults.add(kind="429", times=1, method="POST", path="/tasks", retry_after=30.0)
    async with world.session(patience=1.0) as session:
        first = await perform(session, "acme", a_task(world), "key-1")
        assert (first.state, first.reason_code) == (ActionState.INTENDED, "rate_limited")
        await move(world)
        session.options = replace(session.options, patience=5.0)
        record = await perform(session, "acme", a_task(world), "key-1")
    assert (record.state, record.reason_code) == (ActionState.FAILED, "account_changed")
    assert world.tasks("Call back") == []


async def test_r3_credentials_of_another_account_than_the_connections_are_not_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block is saved before the connection; whoever comes between has one of each."""
    connection = await get_connection(world.database, "acme")
    block = KommoConnection(org="acme", host=world.access.host, account_id=connection.account_id)

    class Blocks:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def load(self, org: str) -> KommoConnection:
            assert org == "acme"
            return block

    monkeypatch.setattr("tasks.actions.clients.PrefectBlocks", Blocks)
    clients = ActionClients(world.database, Settings(sandbox=True), SystemClock())
    async with clients.use(connection) as client:
        assert client.host.name == world.access.host
    clients.forget("acme")
    block.account_id = 4711
    with pytest.raises(WrongAccountError, match="two Kommo accounts"):
        async with clients.use(connection):
            pass
    await clients.aclose()


async def test_r3_who_is_held_up_while_the_mark_is_made_does_not_send_on_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark was made at its beginning; by its end somebody else may have the action."""

    async def slow(real: Any, *args: Any, **more: Any) -> set[int]:
        marked: set[int] = await real(*args, **more)
        await asyncio.sleep(0.3)
        return marked

    altered(monkeypatch, "mark_sent", slow)
    async with world.session(send_within=0.2, patience=0.8, finish=0.0) as session:
        await perform(session, "acme", a_task(world), "key-1")
    assert world.requests("POST", "/tasks") == 0


class Sleeper(SystemClock):
    """The clock of a machine that was asleep: its monotonic clock has stood still."""

    asleep = timedelta()

    def now(self) -> datetime:
        return super().now() + self.asleep


async def test_r3_a_machine_that_was_asleep_does_not_send_on_an_old_mark(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Sleeper()

    async def sleepy(real: Any, *args: Any, **more: Any) -> set[int]:
        marked: set[int] = await real(*args, **more)
        clock.asleep += timedelta(seconds=90)
        return marked

    altered(monkeypatch, "mark_sent", sleepy)
    async with world.session(patience=0.5, finish=0.0) as session:
        session.clock = clock
        await perform(session, "acme", a_task(world), "key-1")
    assert world.requests("POST", "/tasks") == 0


async def test_r3_trouble_with_one_request_does_not_make_another_one_be_sent_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses the mark of a note while a task waits for its turn; the task is not looked up yet."""
    task = await left_behind(world, a_task(world), "key-1")
    note = AddNote(entity_type="leads", entity_id=world.lead_id, text="Called")
    await left_behind(world, note, "key-2")
    async with world.database.begin() as connection:
        long_ago = datetime.now(UTC) - timedelta(seconds=60)
        await connection.execute(update(TABLE).values(created_at=long_ago))
    refused: list[bool] = []

    async def busy(real: Any, database: Any, plans: Any, *args: Any, **more: Any) -> Any:
        if not refused and any(plan["call"] == "note" for plan, _ in plans.values()):
            refused.append(True)
            raise DatabaseBusyError("busy")
        return await real(database, plans, *args, **more)

    async def late(real: Any, client: Any, request: Sequence[Any], gate: Any) -> Any:
        await asyncio.sleep(0.4)
        return await real(client, request, gate)

    altered(monkeypatch, "mark_sent", busy)
    altered(monkeypatch, "send", late)
    record = await settled(world, task, send_within=1.0)
    assert refused
    assert (record.state, record.attempts) == (ActionState.CONFIRMED, 1)
    assert len(world.tasks("Call back")) == 1


async def test_an_answer_that_the_database_did_not_take_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[bool] = []

    async def busy(real: Any, *args: Any, **more: Any) -> Any:
        if not refused:
            refused.append(True)
            raise DatabaseBusyError("busy")
        return await real(*args, **more)

    altered(monkeypatch, "conclude", busy)
    async with world.session() as session:
        record = await perform(session, "acme", a_task(world), "key-1")
    assert record.result == {"task_id": world.tasks("Call back")[0]["id"]}
    assert world.requests("GET", "/tasks") == 0


async def test_an_update_that_may_be_undone_by_an_earlier_one_stays(world: World) -> None:
    """The later one is unknown, which may be done: the earlier one does not overwrite it."""
    first = UpdateDealField(deal_id=world.lead_id, field_id="price", value=1)
    second = UpdateDealField(deal_id=world.lead_id, field_id="price", value=2)
    action_id = await left_behind(world, first, "key-1")
    await left_behind(world, second, "key-2")
    async with world.database.begin() as connection:
        later = update(TABLE).where(TABLE.c.idempotency_key == "key-2")
        await connection.execute(later.values(state="unknown", due_at=action_journal.NEVER))
    record = await settled(world, action_id)
    assert (record.state, record.reason_code) == (ActionState.FAILED, "superseded")
    assert world.requests("PATCH", "/leads") == 0


@pytest.mark.parametrize("kind", [ErrorKind.LIMIT, ErrorKind.FORBIDDEN, ErrorKind.NOT_FOUND])
async def test_one_element_for_which_all_are_refused_fails_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: ErrorKind
) -> None:
    async def picky(real: Any, client: Any, elements: Sequence[Any], gate: Any) -> Any:
        if any(one["text"] == "Task 1" for one in elements):
            raise KommoError(kind, method="POST", path="/api/v4/tasks", status=422)
        return await real(client, elements, gate)

    altered(monkeypatch, "create_tasks", picky)
    async with world.session() as session:
        wishes = [(a_task(world, f"Task {number}"), a_key()) for number in range(3)]
        records = await perform_many(session, "acme", wishes)
    assert [record.state.value for record in records] == ["confirmed", "failed", "confirmed"]
    assert [len(world.tasks(f"Task {number}")) for number in range(3)] == [1, 0, 1]


async def test_a_request_that_is_too_large_for_kommo_is_sent_in_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    async def slow(real: Any, client: Any, elements: Sequence[Any], gate: Any) -> Any:
        sizes.append(len(elements))
        if len(elements) > 2:
            raise KommoError(ErrorKind.GATEWAY, method="POST", status=504, outcome_unknown=True)
        return await real(client, elements, gate)

    altered(monkeypatch, "create_tasks", slow)
    async with world.session() as session:
        wishes = [(a_task(world, f"Task {number}"), a_key()) for number in range(5)]
        records = await perform_many(session, "acme", wishes)
    assert sorted(sizes) == [1, 2, 2, 5]
    assert {record.state for record in records} == {ActionState.CONFIRMED}


@pytest.mark.parametrize("named", [True, False])
async def test_r3_an_answer_in_another_order_gives_nobody_the_id_of_another(
    world: World, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Kommo names the elements by their places, or not at all."""

    async def turned(real: Any, *args: Any) -> list[dict[str, Any]]:
        made = await real(*args)
        told = [{"id": one["id"], **({"request_id": str(n)} if named else {})} for n, one in enumerate(made)]
        return told[::-1]

    altered(monkeypatch, "create_tasks", turned)
    async with world.session() as session:
        wishes = [(a_task(world, f"Task {number}"), a_key()) for number in range(3)]
        records = await perform_many(session, "acme", wishes)
    ids = [world.tasks(f"Task {number}")[0]["id"] for number in range(3)]
    assert [record.result["task_id"] for record in records] == ids
    assert len(world.account.tasks) == len({one["id"] for one in world.account.tasks})


async def test_what_goes_wrong_is_logged_without_what_was_to_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("the customer's words")

    altered(monkeypatch, "send", broken)
    with caplog.at_level(logging.DEBUG, logger="tasks"):
        async with world.session(patience=0.3) as session:
            record = await perform(session, "acme", a_task(world), "key-1")
    assert "RuntimeError" in caplog.text
    assert "customer's words" not in caplog.text + str(record)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {"price": [1, float("-inf")]}, 10**5000, _deep(900), _deep(5000)],
    ids=["nan", "infinite", "within", "endless", "deep", "deeper"],
)
def test_a_value_that_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidActionError, match="value: "):
        make_wish(ActionKind.UPDATE_DEAL_FIELD, {"deal_id": 1, "field_id": 2, "value": value})


async def test_what_was_known_of_a_crm_is_not_held_for_longer_than_it_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.actions.facts.REMEMBERED", 0.2)
    facts = Facts(world.database, SystemClock())
    held = weakref.finalize(await facts.require("acme", "users"), lambda: None)
    gc.collect()
    assert held.alive
    await asyncio.sleep(0.25)
    await facts.find("acme", "pipelines")
    gc.collect()
    assert not held.alive


def test_an_empty_key_is_none() -> None:
    with pytest.raises(InvalidActionError):
        check_key("")
