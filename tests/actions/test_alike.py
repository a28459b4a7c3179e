"""What is found at Kommo is taken for ours only if it is; what may be ours is not done again (R3)."""

from typing import Any

import pytest

from store.actions import ActionState
from tasks.actions import (
    AddNote,
    SendMessage,
    UpdateDealField,
    perform,
)
from tasks.actions.plans import similar_text
from tests.actions.leaving import altered, as_element, left_behind, settled, write
from tests.actions.support import TILL, World, a_task


@pytest.fixture
def world(sqlite_world: World) -> World:
    """What Kommo is asked does not depend on our database."""
    return sqlite_world


@pytest.mark.parametrize("seen", ["Good morning!", "Good morning 😀 &amp; hello"])
async def test_r3_a_message_that_kommo_may_have_changed_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    talk = next(talk for talk in world.account.talks if talk["is_in_work"] and talk["entity_id"])
    text = "Good morning" if seen.endswith("!") else "Good  morning & hello"

    async def changed(real: Any, *args: Any) -> Any:
        try:
            return await real(*args)
        finally:
            for one in _messages(world, text):
                one["text"] = seen

    altered(monkeypatch, "send", changed)
    world.drop_answers(times=1)
    wish = SendMessage(entity_type="leads", entity_id=talk["entity_id"], text=text)
    async with world.session(give_up_after=0.5) as session:
        record = await perform(session, "acme", wish, "key-1")
    assert (record.state, record.reason_code) == (ActionState.UNKNOWN, "alike_found")
    assert world.requests("POST", "/send_message") == 1


def _messages(world: World, text: str) -> list[dict[str, Any]]:
    return [one for many in world.account.messages.values() for one in many if one["text"] == text]


async def test_r3_a_note_that_kommo_may_have_changed_is_not_written_again(world: World) -> None:
    note = AddNote(entity_type="leads", entity_id=world.lead_id, text="Called 😀 «Ann»")
    action_id = await left_behind(world, note, "key-1", marked=True)
    path = f"/api/v4/leads/{world.lead_id}/notes"
    await write(world, path, {"note_type": "common", "params": {"text": 'Called "Ann"'}})
    record = await settled(world, action_id, give_up_after=0.5)
    assert (record.state, record.reason_code) == (ActionState.UNKNOWN, "alike_found")
    assert world.requests("POST", "/notes") == 1


@pytest.mark.parametrize(
    "differs", [{"task_type_id": 2}, {"responsible_user_id": True}, {"complete_till": TILL + 86_400}]
)
async def test_r3_a_task_that_differs_in_a_part_is_neither_taken_for_ours_nor_is_ours_made_again(
    world: World, differs: dict[str, Any]
) -> None:
    """A person may have made it, or may have changed ours already."""
    ours, theirs = [user["id"] for user in world.account.users][:2]
    values = {"responsible_user_id": theirs} if "responsible_user_id" in differs else differs
    action_id = await left_behind(world, a_task(world, responsible_user_id=ours), "key-1", marked=True)
    await write(world, "/api/v4/tasks", as_element(world, **{"responsible_user_id": ours} | values))
    record = await settled(world, action_id, give_up_after=0.5)
    assert (record.state, record.reason_code) == (ActionState.UNKNOWN, "alike_found")
    assert len(world.tasks("Call back")) == 1


async def test_r3_what_lies_before_the_request_because_a_clock_is_wrong_is_not_done_again(
    world: World,
) -> None:
    action_id = await left_behind(world, a_task(world), "key-1", marked=True)
    await write(world, "/api/v4/tasks", as_element(world))
    [made] = world.tasks("Call back")
    world.account.tasks.change(made["id"], created_at=made["created_at"] - 600)
    record = await settled(world, action_id, give_up_after=0.5)
    assert (record.state, record.reason_code) == (ActionState.UNKNOWN, "alike_found")
    assert len(world.tasks("Call back")) == 1


def test_texts_are_similar_whatever_becomes_of_their_signs() -> None:
    assert similar_text("Hi 😀, “Ann”", "hi, &quot;ann&quot;")
    assert similar_text("A long enough text", "Bot: a long enough text")
    assert similar_text("😀", "🙂")
    assert not similar_text("Yes", "Yes, please")
    assert not similar_text("Call Ann", "Call Bob")
    assert not similar_text("Call Ann", None)


async def test_r3_a_name_that_kommo_has_trimmed_is_found(world: World) -> None:
    name = UpdateDealField(deal_id=world.lead_id, field_id="name", value="Ann  Lee ")
    action_id = await left_behind(world, name, "key-1", marked=True)
    world.account.entities["leads"].change(world.lead_id, name="Ann Lee")
    record = await settled(world, action_id)
    assert record.state is ActionState.CONFIRMED
    assert world.requests("PATCH", "/leads") == 0
