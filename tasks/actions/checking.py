"""Whether a wish fits the org's own CRM, and what will be sent for it; nothing is asked of Kommo for that.

Each refusal names what would fit. It is judged by the newest snapshots: what was set up in Kommo since the last sync is
not known yet, and the sentences say as of when they speak.
"""

from collections.abc import Mapping
from typing import Any

from store.snapshots import SnapshotView
from tasks.actions.choices import named
from tasks.actions.facts import Facts, item_of
from tasks.actions.fieldvalues import Choice, FieldSpec, values_for
from tasks.actions.plans import Call, Plan
from tasks.actions.wishes import AddNote, AnyWish, CreateTask, SendMessage, UpdateDealField
from tasks.errors import InvalidActionError

_OWN_FIELDS = ("name", "price", "status_id", "responsible_user_id")
_LARGEST_PRICE = 10**15
_ANYWHERE = frozenset({142, 143})  # won and lost are in every pipeline [D §3.3]


async def plan_of(facts: Facts, org: str, wish: AnyWish) -> Plan:
    """What will be sent for a wish.

    Args:
        facts: What is known of the org's CRM.
        org: The product's tenant.
        wish: What is asked for.

    Raises:
        InvalidActionError: it does not fit; the sentence names what would.
        NoSnapshotError: the deal's fields, or stages, were never read.
    """
    match wish:
        case CreateTask():
            return await _task(facts, org, wish)
        case UpdateDealField():
            return await _field(facts, org, wish)
        case SendMessage(as_note=False):
            origins = await _origins(facts, org, wish.channel)
            return Plan(Call.MESSAGE, {"text": wish.text}, wish.entity_type, wish.entity_id, origins=origins)
        case SendMessage() | AddNote():
            element = {"entity_id": wish.entity_id, "note_type": "common", "params": {"text": wish.text}}
            return Plan(Call.NOTE, element, wish.entity_type, wish.entity_id)


async def _task(facts: Facts, org: str, wish: CreateTask) -> Plan:
    types = await facts.find(org, "task_types")
    if types is not None and item_of(types, wish.task_type_id) is None:
        raise InvalidActionError(
            f"There is no task type {wish.task_type_id}. The account's are: {_items(types)} ({_as_of(types)}).",
            "task_type_id",
        )
    element: dict[str, Any] = {
        "text": wish.text,
        "complete_till": wish.complete_till,
        "task_type_id": wish.task_type_id,
    }
    if wish.responsible_user_id is not None:
        await _user(facts, org, wish.responsible_user_id, "responsible_user_id")
        element["responsible_user_id"] = wish.responsible_user_id
    if wish.entity_id is not None:
        element |= {"entity_id": wish.entity_id, "entity_type": wish.entity_type}
    return Plan(Call.TASK, element, wish.entity_type, wish.entity_id)


async def _user(facts: Facts, org: str, number: int, field: str) -> None:
    users = await facts.find(org, "users")
    if users is None:
        return  # only administrators may see them [D §3.2]; Kommo itself will judge
    found = item_of(users, number)
    if found is not None and found.get("is_active") is not False:
        return
    active = [user for user in users.items if user.get("is_active") is not False]
    what = "is not active" if found is not None else "does not exist"
    known = named([(str(user["id"]), user.get("name") or "") for user in active])
    raise InvalidActionError(f"The user {number} {what}. Active users are: {known} ({_as_of(users)}).", field)


async def _field(facts: Facts, org: str, wish: UpdateDealField) -> Plan:
    if isinstance(wish.field_id, str) and wish.field_id in _OWN_FIELDS:
        element = await _own_field(facts, org, wish.field_id, wish.value)
        field: dict[str, Any] = {"key": wish.field_id}
    else:
        spec = await _spec(facts, org, wish.field_id)
        values = values_for(spec, wish.value)
        element = {"custom_fields_values": [{"field_id": spec.id, "values": values or None}]}
        field = {"id": spec.id, "type": spec.type}
    return Plan(Call.FIELD, {"id": wish.deal_id, **element}, "leads", wish.deal_id, field=field)


async def _spec(facts: Facts, org: str, wanted: int | str) -> FieldSpec:
    view = await facts.require(org, "lead_fields")
    by_code = [item for item in view.items if item.get("code") is not None and item["code"] == wanted]
    by_id = [item for item in view.items if str(item["id"]) == str(wanted)]
    found = by_id or by_code
    if len(found) != 1:
        known = f"{', '.join(_OWN_FIELDS)}, and by id: {_items(view)}"
        raise InvalidActionError(
            f"Deals have no field {str(wanted)[:60]!r}. There are: {known} ({_as_of(view)}).", "field_id"
        )
    item = found[0]
    return FieldSpec(
        id=item["id"],
        name=item.get("name") or "",
        type=item.get("type") or "",
        choices=[
            Choice(one["id"], one.get("value") or "", one.get("code")) for one in item.get("enums") or ()
        ],
        is_computed=bool(item.get("is_computed")),
        timezone=await facts.timezone(org),
    )


async def _own_field(facts: Facts, org: str, key: str, value: object) -> dict[str, Any]:
    """One of the deal's own fields [D §3.5]."""
    if key == "name":
        if not isinstance(value, str) or not value.strip() or len(value) > 255:
            raise InvalidActionError("The deal's name takes a text of 1 to 255 characters.", "value")
        return {"name": value}
    if key == "status_id":
        return await _status(facts, org, value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidActionError(f"The deal's {key} takes a whole number.", "value")
    if key == "price":
        if not 0 <= value <= _LARGEST_PRICE:
            raise InvalidActionError("The deal's price takes a whole number that is not negative.", "value")
        return {"price": value}
    await _user(facts, org, value, "value")
    return {"responsible_user_id": value}


async def _status(facts: Facts, org: str, value: object) -> dict[str, Any]:
    """A stage: its id, or {"pipeline_id", "status_id"}; an id that only one pipeline has brings the pipeline along."""
    view = await facts.require(org, "pipelines")
    given = value if isinstance(value, Mapping) else {"status_id": value}
    pipeline, status = given.get("pipeline_id"), given.get("status_id")
    numbers = all(
        number is None or (isinstance(number, int) and not isinstance(number, bool))
        for number in (pipeline, status)
    )
    stages = [
        (stage["pipeline_id"], stage["id"], f"{one.get('name')} / {stage.get('name')}", stage.get("type"))
        for one in view.items
        if not one.get("is_archive")
        for stage in one.get("statuses") or ()
    ]
    fitting = [
        stage
        for stage in stages
        if numbers
        and given.keys() <= {"pipeline_id", "status_id"}
        and stage[1] == status
        and pipeline in {None, stage[0]}
        and stage[3] != 1  # the stage of incoming leads cannot be set [I §3.5]
    ]
    if not fitting:
        known = named([(str(number), name) for _, number, name, kind in stages if kind != 1])
        raise InvalidActionError(
            f"There is no such stage that a deal could be moved to. There are: {known} ({_as_of(view)}).",
            "value",
        )
    if pipeline is None and status in _ANYWHERE:
        return {"status_id": status}  # of whatever pipeline the deal is in
    return {"status_id": status, "pipeline_id": fitting[0][0]}


async def _origins(facts: Facts, org: str, channel: str | None) -> list[str] | None:
    """The origins of talks that a channel stands for: it is named by id, by name or by the origin itself."""
    if channel is None:
        return None
    view = await facts.find(org, "channels")
    items = view.items if view is not None else []
    fitting = [item for item in items if channel in {str(item["id"]), item.get("name"), item.get("origin")}]
    # An origin that no snapshot knows may be new: then no talk has it, and that is said.
    origins = [str(item.get("origin") or item.get("type") or item["id"]) for item in fitting]
    return sorted({*origins, channel})


def _items(view: SnapshotView) -> str:
    return named([(str(item["id"]), item.get("name") or "") for item in view.items])


def _as_of(view: SnapshotView) -> str:
    return f"as of {view.taken_at:%Y-%m-%d %H:%M} UTC; after a change in Kommo, sync first"
