"""Each action is done once, whoever asks for it and however often; what became of it is known (R3)."""

import asyncio

import pytest

from store.action_leases import hand_back, take_actions
from store.action_lookups import due_actions, find_actions
from store.actions import ActionState, get_action, list_actions
from tasks.actions import AddNote, SendMessage, UpdateDealField, perform, perform_many
from tasks.errors import IdempotencyConflictError, NotConnectedError
from tests.actions.support import World, a_key, a_task


async def test_r3_a_task_is_done_once_and_its_repetition_gives_the_same_answer(world: World) -> None:
    async with world.session() as session:
        first = await perform(session, "acme", a_task(world), "key-1")
        second = await perform(session, "acme", a_task(world), "key-1")
    [made] = world.tasks("Call back")
    assert first.state is ActionState.CONFIRMED
    assert first.result == {"task_id": made["id"]}
    assert second == first
    assert await get_action(world.database, "acme", first.action_id) == first
    assert await get_action(world.database, "globex", first.action_id) is None
    [told] = await world.told()
    assert told.type == "kommo.action.confirmed"
    assert told.subject == f"lead:{world.lead_id}"
    assert told.payload["result"] == first.result
    assert told.payload["idempotency_key"] == "key-1"
    assert (told.payload["entity"], told.payload["id"]) == ("leads", world.lead_id)


async def test_r3_many_who_ask_at_once_with_one_key_get_one_task(world: World) -> None:
    async with world.session() as one, world.session() as other:
        records = await asyncio.gather(
            *(perform(session, "acme", a_task(world), "key-1") for session in (one, other) * 10)
        )
    assert len(world.tasks("Call back")) == 1
    assert {record.state for record in records} == {ActionState.CONFIRMED}
    assert len({record.action_id for record in records}) == 1


async def test_another_request_under_the_same_key_is_a_conflict_and_sends_nothing(world: World) -> None:
    async with world.session() as session:
        await perform(session, "acme", a_task(world), "key-1")
        with pytest.raises(IdempotencyConflictError, match="'key-1' belongs to another create-task"):
            await perform(session, "acme", a_task(world, "Another text"), "key-1")
        with pytest.raises(IdempotencyConflictError, match="stands twice"):
            await perform_many(
                session, "acme", [(a_task(world, "a"), "key-2"), (a_task(world, "b"), "key-2")]
            )
    assert world.tasks("Another text") == []
    assert len(await list_actions(world.database, "acme")) == 1


async def test_an_org_without_a_connection_has_no_actions(world: World) -> None:
    async with world.session() as session:
        with pytest.raises(NotConnectedError):
            await perform(session, "globex", a_task(world), "key-1")
    assert await list_actions(world.database) == []


@pytest.mark.parametrize("fault", ["reset_after", "504_after", "truncate", "500"])
async def test_r3_work_that_was_done_without_an_answer_is_found_and_not_done_again(
    world: World, fault: str
) -> None:
    world.sandbox.world.faults.add(kind=fault, times=1, method="POST", path="/tasks")
    async with world.session() as session:
        record = await perform(session, "acme", a_task(world), "key-1")
    [made] = world.tasks("Call back")
    assert record.state is ActionState.CONFIRMED
    assert record.result == {"task_id": made["id"], "settled": "by looking it up"}
    assert record.attempts == 1


async def test_r3_work_that_was_not_done_is_done_after_it_was_looked_for(world: World) -> None:
    world.sandbox.world.faults.add(kind="504", times=2, method="POST", path="/tasks")
    async with world.session() as session:
        record = await perform(session, "acme", a_task(world), "key-1")
    assert record.state is ActionState.CONFIRMED
    assert record.attempts == 3
    assert len(world.tasks("Call back")) == 1


@pytest.mark.seconds(3)
async def test_r3_equal_actions_with_keys_of_their_own_are_each_done_once(world: World) -> None:
    """Answers are lost, and what is found for one is not taken for the other."""
    world.drop_answers(0.5)
    async with world.session() as session:
        singles, many = await asyncio.gather(
            asyncio.gather(*(perform(session, "acme", a_task(world), a_key()) for _ in range(6))),
            perform_many(session, "acme", [(a_task(world), a_key()) for _ in range(6)]),
        )
    flat = [*singles, *many]
    assert {record.state for record in flat} == {ActionState.CONFIRMED}
    made = {task["id"] for task in world.tasks("Call back")}
    assert len(made) == 12
    assert {record.result["task_id"] for record in flat} == made


@pytest.mark.parametrize("kind", ["429", "reset", "403_html"])
async def test_what_passes_by_itself_is_waited_for(world: World, kind: str) -> None:
    world.sandbox.world.faults.add(kind=kind, times=1, method="POST", path="/tasks", retry_after=0.3)
    async with world.session(patience=2.0 if kind == "403_html" else 10.0) as session:
        record = await perform(session, "acme", a_task(world), "key-1")
        if (
            kind == "403_html"
        ):  # all of the address stops for a quarter of an hour, and the action waits for that
            assert record.state is ActionState.INTENDED
            assert record.reason_code in {"ip_blocked", "budget_blocked"}
            return
    assert record.state is ActionState.CONFIRMED
    assert len(world.tasks("Call back")) == 1


async def test_many_tasks_go_out_in_arrays_of_fifty_each_with_its_own_result(world: World) -> None:
    wishes = [(a_task(world, f"Task {number}"), a_key()) for number in range(120)]
    async with world.session() as session:
        records = await perform_many(session, "acme", wishes)
        again = await perform_many(session, "acme", wishes)
    assert world.requests("POST", "/api/v4/tasks") == 3
    assert [record.request["text"] for record in records] == [f"Task {number}" for number in range(120)]
    by_id = {task["id"]: task["text"] for task in world.account.tasks}
    assert [by_id[record.result["task_id"]] for record in records] == [f"Task {n}" for n in range(120)]
    assert again == records
    assert len(await world.told()) == 120


async def test_one_bad_element_of_many_fails_alone(world: World) -> None:
    wishes = [(a_task(world, f"Task {number}"), a_key()) for number in range(5)]
    wishes[2] = (a_task(world, "Task 2", entity_id=999_999_999), a_key())  # of no lead that Kommo has
    wishes[3] = (a_task(world, "Task 3", task_type_id=4711), a_key())  # of no type that the snapshot has
    async with world.session() as session:
        records = await perform_many(session, "acme", wishes)
    assert [record.state for record in records] == [
        *(ActionState.CONFIRMED, ActionState.CONFIRMED),
        *(ActionState.FAILED, ActionState.FAILED, ActionState.CONFIRMED),
    ]
    assert records[2].reason_code == "refused_by_kommo"
    assert "entity_id" in str(records[2].reason)
    assert records[3].reason_code == "invalid"
    assert all(len(world.tasks(f"Task {number}")) == (number not in {2, 3}) for number in range(5))


async def test_notes_and_fields_are_written_and_found_again(world: World) -> None:
    world.drop_answers()
    world.drop_answers(method="PATCH")
    note = AddNote(entity_type="leads", entity_id=world.lead_id, text="Called,\n no answer")
    price = UpdateDealField(deal_id=world.lead_id, field_id="price", value=4321)
    async with world.session() as session:
        noted, priced = await asyncio.gather(
            perform(session, "acme", note, "key-1"), perform(session, "acme", price, "key-2")
        )
    [made] = [one for one in world.account.notes if one["params"].get("text") == note.text]
    assert noted.result == {"as": "note", "note_id": made["id"], "settled": "by looking it up"}
    assert priced.state is ActionState.CONFIRMED
    assert priced.result["settled"] == "by looking it up"
    assert world.lead()["price"] == 4321


async def test_the_last_value_that_was_asked_for_stays(world: World) -> None:
    wishes = [
        (UpdateDealField(deal_id=world.lead_id, field_id="price", value=value), a_key())
        for value in range(1, 8)
    ]
    world.drop_answers(0.4, method="PATCH")
    async with world.session() as session:
        records = await perform_many(session, "acme", wishes)
    assert {record.state for record in records} == {ActionState.CONFIRMED}
    assert world.lead()["price"] == 7


async def test_an_update_that_was_left_behind_does_not_undo_a_later_one(world: World) -> None:
    """Whoever was to send the first one died before; the second one went out meanwhile."""
    first = UpdateDealField(deal_id=world.lead_id, field_id="price", value=1)
    second = UpdateDealField(deal_id=world.lead_id, field_id="price", value=2)
    async with world.session(patience=0.0, lease=1.0) as dying:
        dying.start = _never  # nothing is worked on
        await perform(dying, "acme", first, "key-1")
    async with world.session() as session:
        assert (await perform(session, "acme", second, "key-2")).state is ActionState.CONFIRMED
        await asyncio.sleep(1.1)  # the lease of the first one ends
        record = await perform(session, "acme", first, "key-1")
    assert (record.state, record.reason_code) == (ActionState.FAILED, "superseded")
    assert world.lead()["price"] == 2


def _never(work: object) -> asyncio.Task[None]:
    work.close()  # type: ignore[attr-defined]  # a coroutine
    return asyncio.create_task(asyncio.sleep(0))


async def test_what_cannot_be_sent_for_too_long_is_given_up_with_the_reason(world: World) -> None:
    world.sandbox.world.faults.add(kind="reset", method="POST")
    async with world.session(give_up_after=0.5, absence_after=0.0) as session:
        record = await perform(session, "acme", a_task(world), "key-1")
    assert record.state is ActionState.FAILED
    assert record.reason_code in {"gave_up", "not_done"}
    assert world.tasks("Call back") == []


async def test_a_refused_token_fails_the_action_and_marks_the_connection(world: World) -> None:
    world.sandbox.world.faults.add(kind="401", method="POST")
    async with world.session() as session:
        record = await perform(session, "acme", a_task(world), "key-1")
        assert session.clients.forgotten == 1
    assert (record.state, record.reason_code) == (ActionState.FAILED, "unauthorized")


async def test_list_actions_gives_pages_the_newest_first(world: World) -> None:
    async with world.session() as session:
        made = await perform_many(session, "acme", [(a_task(world, f"Task {n}"), a_key()) for n in range(5)])
    newest = [record.action_id for record in reversed(made)]
    first = await list_actions(world.database, "acme", limit=2)
    rest = await list_actions(world.database, None, ActionState.CONFIRMED, after=first[-1].action_id)
    assert [record.action_id for record in [*first, *rest]] == newest
    assert await list_actions(world.database, "globex") == []
    assert await list_actions(world.database, state=ActionState.UNKNOWN) == []


async def test_a_lease_that_is_over_is_taken_by_one_only(world: World) -> None:
    world.sandbox.world.faults.add(kind="slow", method="POST", delay=1.5)
    async with world.session(patience=0.5) as session:
        record = await perform(session, "acme", a_task(world), "key-1")
        assert record.state is ActionState.SENT
        held = (await find_actions(world.database, "acme", ["key-1"]))["key-1"]
        assert await take_actions(world.database, [held.id], "thief", 3.0) == []
        back = await hand_back(
            world.database,
            [held.id],
            held.owner,
            due_in=0.0,
            reason="r",
            reason_code="c",
            now=session.clock.now(),
        )
        assert [one.id for one in back] == [held.id]
        assert await due_actions(world.database, 10) == [("acme", held.id)]
        taken = [await take_actions(world.database, [held.id], name, 3.0) for name in ("one", "other")]
        assert [len(one) for one in taken] == [1, 0]


async def test_a_message_as_a_note_says_so(world: World) -> None:
    wish = SendMessage(entity_type="leads", entity_id=world.lead_id, text="Only for us", as_note=True)
    async with world.session() as session:
        record = await perform(session, "acme", wish, "key-1")
    assert record.result["as"] == "note"
    assert world.requests("POST", "send_message") == 0
