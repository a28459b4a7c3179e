"""Whether an action whose answer was lost was done: looked up before anything is sent again (R3).

What is compared is what makes two actions twins (`tasks.actions.plans`), and of twins at most one is under way. So what
is found and belongs to no action yet was made by this one, or by one that cannot be told from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kommo.client import KommoClient
from kommo.errors import KommoError
from kommo.records import read_by_ids
from kommo.writing import MOST_ELEMENTS, messages_of, notes_of, tasks_of
from tasks.actions.fieldreading import field_values, holds
from tasks.actions.items import Done, Item
from tasks.actions.plans import Call, Plan, plain, same_text, similar_text
from tasks.actions.requests import field_result, made_result, message_result
from tasks.actions.session import all_of

SKEW = 120
"""Seconds by which Kommo's clock may be behind ours."""
_LARGEST_SKEW = 3_600
"""Seconds by which it may be if a clock is wrong: what lies between may be ours, and may be not."""


@dataclass(frozen=True)
class Found:
    """What a lookup gave for one action.

    Attributes:
        fitting: What fits, the oldest first.
        alike: Names of what differs in a part only: nobody knows what Kommo makes of every text, and a person may have
            changed it already, so it may be the one after all, unless it belongs to another action.
        error: Why it could not be looked up.
    """

    fitting: Sequence[Done] = ()
    alike: Sequence[str] = ()
    error: KommoError | None = None


async def look_up(client: KommoClient, items: Sequence[Item]) -> dict[int, Found]:
    """Ask Kommo whether these actions were done; gives what fits, by row."""
    groups: dict[tuple[object, ...], list[Item]] = {}
    for one in items:
        plan = one.plan
        place: object = plan.entity if plan.call is Call.TASK else (plan.entity, plan.entity_id)
        if plan.call is Call.FIELD:
            place = None
        groups.setdefault((plan.call, place), []).append(one)
    chunks = [
        group[start : start + MOST_ELEMENTS]
        for group in groups.values()
        for start in range(0, len(group), MOST_ELEMENTS)
    ]
    answers = await all_of(*(_group(client, chunk) for chunk in chunks))
    return {number: found for answer in answers for number, found in answer.items()}


async def _group(client: KommoClient, items: Sequence[Item]) -> dict[int, Found]:
    plan = items[0].plan
    since = min(_since(one) for one in items) + SKEW - _LARGEST_SKEW
    try:
        match plan.call:
            case Call.TASK:
                ids = {one.plan.entity_id for one in items if one.plan.entity_id is not None}
                listed = await tasks_of(client, plan.entity, ids, since)
            case Call.NOTE:
                assert plan.entity is not None and plan.entity_id is not None  # noqa: S101, PT018 - notes have both
                listed = await notes_of(client, plan.entity, plan.entity_id, since)
            case Call.MESSAGE:
                assert plan.talk_id is not None  # noqa: S101 - it was known when it was marked as sent
                listed = await messages_of(client, plan.talk_id, since)
            case Call.FIELD:
                ids = {one.plan.entity_id for one in items if one.plan.entity_id is not None}
                leads = await read_by_ids(client, "leads", ids)
                return {one.id: Found(_field(one.plan, leads.get(one.plan.entity_id or 0))) for one in items}
    except KommoError as error:
        return {one.id: Found(error=error) for one in items}
    return {one.id: Found(_fitting(one, listed), _alike(one, listed)) for one in items}


def _since(one: Item) -> int:
    return int(one.held.record.created_at.timestamp()) - SKEW


def _fitting(one: Item, listed: Sequence[Mapping[str, Any]]) -> list[Done]:
    fits = {Call.TASK: _is_task, Call.NOTE: _is_note, Call.MESSAGE: _is_message}[one.plan.call]
    since = _since(one)
    found = [item for item in listed if _created(item) >= since and fits(one.plan, item)]
    return _named(one.plan, sorted(found, key=lambda item: (_created(item), str(item.get("id")))))


def _alike(one: Item, listed: Sequence[Mapping[str, Any]]) -> list[str]:
    alike = {Call.TASK: _like_task, Call.NOTE: _like_note, Call.MESSAGE: _like_message}[one.plan.call]
    since = _since(one) + SKEW - _LARGEST_SKEW
    found = [item for item in listed if _created(item) >= since and alike(one.plan, item)]
    return [made for _, made in _named(one.plan, found) if made is not None]


def _named(plan: Plan, found: Sequence[Mapping[str, Any]]) -> list[Done]:
    if plan.call is Call.MESSAGE:
        return [message_result(plan, str(item["id"])) for item in found if item.get("id")]
    return [made_result(plan, item["id"]) for item in found if isinstance(item.get("id"), int)]


def _created(item: Mapping[str, Any]) -> int:
    moment = item.get("created_at")
    return moment if isinstance(moment, int) else 0


_ALL_OF_A_TASK = ("complete_till", "task_type_id", "responsible_user_id")


def _is_task(plan: Plan, item: Mapping[str, Any]) -> bool:
    """Of another kind, or somebody else's, it may be one that a person made."""
    sent = {key: plan.element[key] for key in _ALL_OF_A_TASK if key in plan.element}
    equal = all(item.get(key) == value for key, value in sent.items())
    return equal and _of_its_entity(plan, item) and same_text(plan.text, item.get("text"))


def _like_task(plan: Plan, item: Mapping[str, Any]) -> bool:
    till = item.get("complete_till") == plan.element["complete_till"]
    return _of_its_entity(plan, item) and (till or similar_text(plan.text, item.get("text")))


def _of_its_entity(plan: Plan, item: Mapping[str, Any]) -> bool:
    same = (item.get("entity_id") or None) == plan.entity_id
    return same and (plan.entity is None or item.get("entity_type") == plan.entity)


def _is_note(plan: Plan, item: Mapping[str, Any]) -> bool:
    return item.get("entity_id") == plan.entity_id and same_text(plan.text, _note_text(item))


def _like_note(plan: Plan, item: Mapping[str, Any]) -> bool:
    return item.get("entity_id") == plan.entity_id and similar_text(plan.text, _note_text(item))


def _note_text(item: Mapping[str, Any]) -> object:
    params = item.get("params")
    return params.get("text") if isinstance(params, Mapping) else None


def _is_message(plan: Plan, item: Mapping[str, Any]) -> bool:
    return _by_a_program(item) and same_text(plan.text, item.get("text"))


def _like_message(plan: Plan, item: Mapping[str, Any]) -> bool:
    return _by_a_program(item) and similar_text(plan.text, item.get("text"))


def _by_a_program(item: Mapping[str, Any]) -> bool:
    """One of ours: an employee who types the same words is `internal` [D §4]."""
    author = item.get("author")
    kind = author.get("type") if isinstance(author, Mapping) else None
    return item.get("type") == "outgoing" and kind in {None, "bot"}


def _field(plan: Plan, lead: Mapping[str, Any] | None) -> list[Done]:
    if lead is None or plan.field is None:
        return []
    if "key" in plan.field:
        sent = {key: value for key, value in plan.element.items() if key != "id"}
        there = all(_same(value, lead.get(key)) for key, value in sent.items())
    else:
        written = plan.element["custom_fields_values"][0]["values"] or []
        there = holds(plan.field["type"], written, field_values(lead, plan.field["id"]))
    return [field_result(plan, lead)] if there else []


def _same(sent: object, read: object) -> bool:
    """A name may come back with other spaces."""
    both_texts = isinstance(sent, str) and isinstance(read, str)
    return plain(str(sent)) == plain(str(read)) if both_texts else sent == read
