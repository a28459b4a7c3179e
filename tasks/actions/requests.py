"""The requests that actions become: which go together, what is sent, and which part of the answer is whose."""

from collections.abc import Mapping, Sequence
from typing import Any

from kommo.client import KommoClient
from kommo.errors import KommoError
from kommo.models import Talk
from kommo.transport import Gate
from kommo.writing import (
    change_leads,
    contacts_of,
    create_notes,
    create_tasks,
    open_talks,
    send_message,
)
from tasks.actions.items import Done, Item
from tasks.actions.plans import Call, Plan

_CONTACTS_ASKED = 3


def requests_for(items: Sequence[Item]) -> list[list[Item]]:
    """Which of the actions go out now, and which of them together.

    Of actions that are equal, or meet at the same deal or conversation, the one that was asked for first goes first;
    the others follow when it is at its end.
    """
    chosen: dict[tuple[object, ...], list[list[Item]]] = {}
    met: set[object] = set()
    for one in sorted(items, key=lambda item: item.id):
        plan = one.plan
        meets: set[object] = {plan.twin}
        if plan.call in {Call.FIELD, Call.MESSAGE}:
            meets.add((plan.call, plan.entity, plan.entity_id))
        if met & meets:
            continue
        met |= meets
        most = 1 if plan.call is Call.MESSAGE else one.most
        group = chosen.setdefault((plan.call, plan.entity if plan.call is Call.NOTE else "", most), [])
        if not group or len(group[-1]) >= most:
            group.append([])
        group[-1].append(one)
    return [request for group in chosen.values() for request in group]


async def find_talk(client: KommoClient, plan: Plan) -> tuple[int, str | None] | None:
    """The open conversation that a message goes into, the newest that fits; its id and its channel.

    Raises:
        KommoError: It cannot be told.
    """
    assert plan.entity is not None and plan.entity_id is not None  # noqa: S101, PT018 - every message has them
    fitting = await _talks(client, plan, plan.entity, plan.entity_id)
    if not fitting and plan.entity == "leads":
        # A conversation may know its customer and no deal [D §6.3]: then it is the one with the deal's contact.
        for contact_id in (await contacts_of(client, plan.entity_id))[:_CONTACTS_ASKED]:
            fitting = fitting or await _talks(client, plan, "contacts", contact_id)
    return (fitting[0].talk_id, fitting[0].origin) if fitting else None


async def _talks(client: KommoClient, plan: Plan, entity: str, entity_id: int) -> list[Talk]:
    talks = await open_talks(client, entity, entity_id)
    if plan.entity == "leads":
        # Not one that belongs to another deal of the same customer.
        talks = [talk for talk in talks if talk.entity_id in {None, plan.entity_id}]
    return [talk for talk in talks if plan.origins is None or talk.origin in plan.origins]


async def send(client: KommoClient, request: Sequence[Item], gate: Gate) -> dict[int, Done]:
    """Send actions that go together; gives what was done, by row. An action that is not named must be looked up.

    Raises:
        KommoError: see ``KommoClient.write``.
    """
    plan = request[0].plan
    if plan.call is Call.MESSAGE:
        assert plan.talk_id is not None  # noqa: S101 - found before it was marked
        message = await send_message(client, plan.talk_id, plan.text, gate)
        return {} if message is None else {request[0].id: message_result(plan, message)}
    if plan.call is Call.FIELD:
        changed = await change_leads(client, [one.plan.element for one in request], gate)
        by_lead = {one.plan.entity_id: one for one in request}
        return {
            by_lead[lead["id"]].id: field_result(by_lead[lead["id"]].plan, lead)
            for lead in changed
            if lead.get("id") in by_lead
        }
    elements = [{**one.plan.element, "request_id": one.held.record.action_id} for one in request]
    if plan.call is Call.TASK:
        made = await create_tasks(client, elements, gate)
    else:
        assert plan.entity is not None  # noqa: S101 - every note has one
        made = await create_notes(client, plan.entity, elements, gate)
    return {one.id: made_result(one.plan, number) for one, number in _ids(request, made)}


def _ids(request: Sequence[Item], made: Sequence[Mapping[str, Any]]) -> list[tuple[Item, int]]:
    """Whose id is which: by the request_id that Kommo gives back, ours or the place in the list [D §3.5].

    Of several without one it cannot be told; they are looked up.
    """
    named = {str(one.get("request_id")): one.get("id") for one in made}
    ours = {one.held.record.action_id for one in request}
    if len(request) == len(made) == 1:
        pairs = [(request[0], made[0].get("id"))]
    elif len(named) == len(request) and not named.keys() & ours:
        pairs = [(one, named.get(str(place))) for place, one in enumerate(request)]
    else:
        pairs = [(one, named.get(one.held.record.action_id)) for one in request]
    return [
        (one, number) for one, number in pairs if isinstance(number, int) and not isinstance(number, bool)
    ]


def blamed_for(request: Sequence[Item], error: KommoError) -> list[Item]:
    """The actions that a refusal of the whole request names, by their request_id or by their place [D §2.3]."""
    named = {problem.element for problem in error.problems}
    return [
        one for place, one in enumerate(request) if one.held.record.action_id in named or str(place) in named
    ]


def made_result(plan: Plan, number: int) -> Done:
    """The result of a task or note."""
    if plan.call is Call.TASK:
        return {"task_id": number}, f"tasks:{number}"
    return {"as": "note", "note_id": number}, f"notes:{plan.entity}:{number}"


def field_result(plan: Plan, lead: Mapping[str, Any]) -> Done:
    """The result of a field's update."""
    field = plan.field or {}
    updated_at = lead.get("updated_at")
    result = {"deal_id": plan.entity_id, "field_id": field.get("id") or field.get("key")}
    return {**result, "updated_at": updated_at if isinstance(updated_at, int) else None}, None


def message_result(plan: Plan, message_id: str) -> Done:
    """The result of a message: accepted by Kommo, which is not delivered [D §4]."""
    result = {"as": "message", "message_id": message_id, "talk_id": plan.talk_id, "channel": plan.origin}
    return {**result, "delivery": "accepted"}, f"messages:{message_id}"
