"""A message reaches the customer's open conversation, or it is said why not; a note is never passed off as one."""

from dataclasses import replace
from typing import Any

import pytest

from store.actions import ActionRecord, ActionState
from tasks.actions import SendMessage, perform
from tests.actions.support import World, access_of, session_on


@pytest.fixture
def world(sqlite_world: World) -> World:
    """What Kommo takes does not depend on our database."""
    return sqlite_world


def talk_of(world: World, **values: Any) -> dict[str, Any]:
    """An open conversation of a lead."""
    found = next(talk for talk in world.account.talks if talk["is_in_work"] and talk["entity_id"])
    return dict(world.account.talks.change(found["id"], **values) if values else found)


def a_message(talk: dict[str, Any], **values: Any) -> SendMessage:
    return SendMessage(
        **{"entity_type": "leads", "entity_id": talk["entity_id"], "text": "Good morning"} | values
    )


async def sent(world: World, wish: SendMessage, key: str = "key-1", **options: Any) -> ActionRecord:
    async with world.session(**options) as session:
        return await perform(session, "acme", wish, key)


def messages(world: World, text: str = "Good morning") -> list[dict[str, Any]]:
    return [one for many in world.account.messages.values() for one in many if one["text"] == text]


async def test_a_message_goes_into_the_open_conversation_of_a_lead_or_contact(world: World) -> None:
    talk = talk_of(world)
    by_lead = await sent(world, a_message(talk))
    wish = SendMessage(entity_type="contacts", entity_id=talk["contact_id"], text="Good evening")
    by_contact = await sent(world, wish, "key-2")
    [morning], [evening] = messages(world), messages(world, "Good evening")
    assert by_lead.result == {
        "as": "message",
        "message_id": morning["id"],
        "talk_id": talk["talk_id"],
        "channel": talk["origin"],
        "delivery": "accepted",
    }
    assert by_contact.result["message_id"] == evening["id"]
    assert (await sent(world, a_message(talk))).action_id == by_lead.action_id
    assert len(messages(world)) == 1


async def test_a_conversation_that_knows_no_deal_is_found_by_the_deals_contact(world: World) -> None:
    """But not one that belongs to another deal of the same customer."""
    talk, account = talk_of(world), world.account
    lead, other = (one["id"] for one in list(account.entities["leads"])[:2])
    for number in (lead, other):
        account.entities["leads"].change(number, _contacts=(talk["contact_id"],))
    for one in list(account.talks):
        account.talks.change(one["id"], is_in_work=one["id"] == talk["id"])
    account.talks.change(talk["id"], entity_id=None, entity_type=None)
    found = await sent(world, SendMessage(entity_type="leads", entity_id=lead, text="Good morning"))
    account.talks.change(talk["id"], entity_id=other, entity_type="lead")
    not_ours = await sent(
        world, SendMessage(entity_type="leads", entity_id=lead, text="Good evening"), "key-2"
    )
    assert found.result["talk_id"] == talk["talk_id"]
    assert not_ours.reason_code == "no_talk"


async def test_the_channel_decides_which_conversation_is_meant(world: World) -> None:
    talk = talk_of(world, origin="instagram_business")
    right = await sent(world, a_message(talk, channel="instagram_business"))
    wrong = await sent(world, a_message(talk, channel="facebook"), "key-2")
    assert right.result["channel"] == "instagram_business"
    assert (wrong.state, wrong.reason_code) == (ActionState.FAILED, "no_talk")
    assert "in this channel" in str(wrong.reason)


async def test_without_an_open_conversation_nothing_is_sent_and_no_note_is_written(world: World) -> None:
    talk = talk_of(world)
    for one in list(world.account.talks):
        world.account.talks.change(one["id"], is_in_work=False, status="closed")
    notes = len(world.account.notes)
    record = await sent(world, a_message(talk))
    assert (record.state, record.reason_code) == (ActionState.FAILED, "no_talk")
    assert "as_note" in str(record.reason)
    assert len(world.account.notes) == notes
    assert world.requests("POST", "send_message") == 0


async def test_what_kommo_refuses_is_told_in_words_of_its_own(world: World) -> None:
    talk, account = talk_of(world), world.account
    account.chats_quota = 0
    quota = await sent(world, a_message(talk), "quota")
    account.chats_tariff = False
    plan = await sent(world, a_message(talk), "plan")
    account.chats_tariff = True
    account.flavour = "amo"
    amo = await sent(world, a_message(talk), "amo")
    assert [(one.state, one.reason_code) for one in (quota, plan, amo)] == [
        (ActionState.FAILED, "quota_used_up"),
        (ActionState.FAILED, "not_in_plan"),
        (ActionState.FAILED, "talk_not_found"),
    ]
    assert "quota" in str(quota.reason)
    assert "plan" in str(plan.reason)
    assert messages(world) == []


@pytest.mark.parametrize(
    ("missing", "code"),
    [("send_external_messages", "scope_missing"), ("list_external_messages", "lookup_forbidden")],
)
async def test_missing_scopes(world: World, missing: str, code: str) -> None:
    """Without the first nothing is sent; without the second a lost answer stays unknown, and is never sent again."""
    scopes = tuple(one for one in world.sandbox.world.integration.scopes if one != missing)
    book = world.sandbox.world.tokens
    card = next(iter(world.sandbox.world.accounts.cards))
    token = book.issue(card, card.admin_id, "someone", scopes, seconds=3_600)
    access = replace(access_of(world.sandbox), token=token.value)
    if missing == "list_external_messages":
        world.drop_answers()
    async with session_on(world.database, access) as session:
        record = await perform(session, "acme", a_message(talk_of(world)), "key-1")
        again = await perform(session, "acme", a_message(talk_of(world)), "key-1")
    assert record.reason_code == code
    assert again == record
    if missing == "send_external_messages":
        assert record.state is ActionState.FAILED
        assert messages(world) == []
    else:
        assert record.state is ActionState.UNKNOWN
        assert "may have been done or not" in str(record.reason)
        assert len(messages(world)) == 1
        assert [one.type for one in await world.told()] == ["kommo.action.unknown"]


async def test_r3_a_message_whose_answer_was_lost_is_found_in_the_conversation(world: World) -> None:
    world.drop_answers(times=1)
    talk = talk_of(world)
    record = await sent(world, a_message(talk))
    second = await sent(world, a_message(talk), "key-2")
    first_id, second_id = (one.result["message_id"] for one in (record, second))
    assert record.result["settled"] == "by looking it up"
    assert {first_id, second_id} == {one["id"] for one in messages(world)}
    assert len(messages(world)) == 2


async def test_a_conversation_that_closes_at_the_last_moment_is_told(world: World) -> None:
    talk = talk_of(world)
    world.sandbox.world.faults.add(kind="504", times=1, method="POST")
    async with world.session(patience=0.0, absence_after=0.6) as session:
        first = await perform(session, "acme", a_message(talk), "key-1")
        assert not first.is_final
        world.account.talks.change(talk["id"], is_in_work=False)
        session.options = replace(session.options, patience=5.0)
        record = await perform(session, "acme", a_message(talk), "key-1")
    assert record.reason_code == "talk_closed"
