"""What a dead process has left behind is taken up: the unsent is sent, what may have been done is looked up."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update

from store.action_journal import mark_sent
from store.action_lookups import find_actions
from store.actions import TABLE, ActionState, get_action
from store.database import Database
from tasks.actions import AddNote, perform
from tasks.actions.running import settle_due
from tests.actions.support import World, a_key, a_task
from tests.turns import measured

LEASE = 0.3


def _dead(work: Any) -> asyncio.Task[None]:
    """The process died right after it had journalled the action."""
    work.close()
    return asyncio.create_task(asyncio.sleep(0))


async def left_behind(world: World, wish: Any, key: str) -> str:
    """An action whose process died before it sent anything."""
    async with world.session(patience=0.0, lease=LEASE) as dying:
        dying.start = _dead
        return str((await perform(dying, "acme", wish, key)).action_id)


async def settled(world: World, **options: Any) -> Any:
    async with world.session(**options) as session:
        return await settle_due(session)


@pytest.mark.timing
async def test_r3_what_was_never_sent_is_sent_once_its_lease_is_over(world: World) -> None:
    ids = [await left_behind(world, a_task(world, f"Task {n}"), a_key()) for n in range(3)]
    taken = (await settled(world)).taken
    with measured():
        assert taken in {0, 1, 2}  # the last one belongs to its process yet
    await asyncio.sleep(LEASE)
    report = await settled(world)
    assert report.left == {}
    for number, action_id in enumerate(ids):
        record = await get_action(world.database, "acme", action_id)
        assert record is not None
        assert record.state is ActionState.CONFIRMED
        assert len(world.tasks(f"Task {number}")) == 1


@pytest.mark.parametrize("done", [True, False])
async def test_r3_what_was_marked_as_sent_is_looked_up_before_anything_else(world: World, done: bool) -> None:
    action_id = await left_behind(world, a_task(world), "key-1")
    await _mark(world.database, "key-1")
    if done:
        # The request of the dead one has reached Kommo.
        async with world.session() as other, other.clients.use(None) as client:
            element = {"text": "Call back", "complete_till": a_task(world).complete_till}
            entity = {"entity_id": world.lead_id, "entity_type": "leads"}
            await client.write("POST", "/api/v4/tasks", [{**element, **entity}])
    await asyncio.sleep(LEASE)
    report = await settled(world, send_within=0.1, longest_request=0.1)
    record = await get_action(world.database, "acme", action_id)
    assert record is not None
    assert (record.state, report.left) == (ActionState.CONFIRMED, {})
    assert len(world.tasks("Call back")) == 1
    assert ("settled" in record.result) == done
    assert record.attempts == (1 if done else 2)


async def test_r3_a_task_whose_text_kommo_may_have_changed_is_not_sent_again(world: World) -> None:
    action_id = await left_behind(world, a_task(world), "key-1")
    await _mark(world.database, "key-1")
    async with world.session() as other, other.clients.use(None) as client:
        entity = {"entity_id": world.lead_id, "entity_type": "leads"}
        element = {"text": "Call back (cut)", "complete_till": a_task(world).complete_till}
        await client.write("POST", "/api/v4/tasks", [{**element, **entity}])
    await asyncio.sleep(LEASE)
    await settled(world, send_within=0.1, longest_request=0.1, give_up_after=0.5)
    record = await get_action(world.database, "acme", action_id)
    assert record is not None
    assert (record.state, record.reason_code) == (ActionState.UNKNOWN, "alike_found")
    assert world.tasks("Call back") == []


async def _mark(database: Database, key: str) -> None:
    held = (await find_actions(database, "acme", [key]))[key]
    marked = await mark_sent(
        database, {held.id: (held.plan, held.twin)}, held.owner, LEASE, now=datetime.now(UTC)
    )
    assert marked == {held.id}


async def test_an_unknown_action_is_looked_up_again_and_told_of(world: World) -> None:
    note = AddNote(entity_type="leads", entity_id=world.lead_id, text="Called")
    world.drop_answers(times=1)
    world.sandbox.world.faults.add(kind="401", times=1, method="GET", path="/notes")
    async with world.session() as session:
        record = await perform(session, "acme", note, "key-1")
    assert (record.state, record.reason_code) == (ActionState.UNKNOWN, "lookup_failed")
    await asyncio.sleep(0.5)  # it rests for about as long as it is old
    assert (await settled(world)).taken == 1
    after = await get_action(world.database, "acme", record.action_id)
    assert after is not None
    assert after.state is ActionState.CONFIRMED
    assert [one.type for one in await world.told()] == ["kommo.action.unknown", "kommo.action.confirmed"]
    assert sum(one["params"].get("text") == "Called" for one in world.account.notes) == 1


async def test_a_process_that_was_held_up_for_too_long_does_not_send_any_more(world: World) -> None:
    """Its mark is too old: somebody else may have looked it up and sent it anew."""
    async with world.session(send_within=0.0, patience=0.5, finish=0.0) as session:
        record = await perform(session, "acme", a_task(world), "key-1")
    assert record.state in {ActionState.INTENDED, ActionState.SENT}
    assert world.requests("POST", "/tasks") == 0
    assert world.tasks("Call back") == []


async def test_settling_goes_on_though_one_org_is_gone(world: World) -> None:
    ours = await left_behind(world, a_task(world), "key-1")
    async with world.database.begin() as connection:
        await connection.execute(update(TABLE).values(org="gone"))
    other = await left_behind(world, a_task(world, "Another"), "key-2")
    await asyncio.sleep(LEASE)
    assert (await settled(world)).orgs == 2
    gone, done = (
        await get_action(world.database, "gone", ours),
        await get_action(world.database, "acme", other),
    )
    assert gone is not None
    assert done is not None
    assert (gone.state, gone.reason_code) == (ActionState.FAILED, "not_connected")
    assert done.state is ActionState.CONFIRMED
