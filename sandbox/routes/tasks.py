"""Tasks (fact sheet 3.8): read, create, change, complete. There is no DELETE."""

from sandbox import errors, render
from sandbox.call import Call, Route
from sandbox.paging import envelope, page_of
from sandbox.query import FilterKind, filtered, ordered
from sandbox.state import ENTITIES, Record
from sandbox.validate import Findings, one_of
from sandbox.wire import Response, dumps, hal, no_content

_FILTERS: dict[str, tuple[str, FilterKind]] = {
    "id": ("id", "ids"),
    "task_type": ("task_type_id", "ids"),
    "is_completed": ("is_completed", "flag"),
    "entity_type": ("entity_type", "word"),
    "entity_id": ("entity_id", "ids"),
    "responsible_user_id": ("responsible_user_id", "ids"),
    "updated_at": ("updated_at", "range"),
}
_WRITABLE = (
    "text",
    "complete_till",
    "entity_id",
    "entity_type",
    "responsible_user_id",
    "task_type_id",
    "duration",
)
_EVENTS = {
    "text": "task_text_changed",
    "task_type_id": "task_type_changed",
    "complete_till": "task_deadline_changed",
    "result": "task_result_added",
    "responsible_user_id": "entity_responsible_changed",
}


def listing(call: Call) -> Response:
    """GET /tasks [D]."""
    held = filtered(list(call.account.tasks), call.query.get("filter"), _FILTERS)
    held = ordered(held, call.query.get("order"), ("created_at", "complete_till", "id"))
    return page_of(call, "tasks", held, lambda record: dumps(render.task(call.account, record)))


def single(call: Call) -> Response:
    """GET /tasks/{id}: 204 for an unknown one (open in the sources; as leads do)."""
    record = call.account.tasks.get(call.number("id"))
    return hal(render.task(call.account, record)) if record else no_content()


def _check(call: Call, found: Findings, element: Record) -> None:
    for key, expected in (("text", str), ("complete_till", int), ("duration", int), ("is_completed", bool)):
        found.typed(element, key, expected)
    found.user(call.account, element, "responsible_user_id")
    types = {known["id"] for known in call.account.hidden["task_types"]}
    if found.typed(element, "task_type_id", int) and element["task_type_id"] not in types:
        found.unsupported("task_type_id")
    kind = element.get("entity_type")
    if kind is not None and not one_of(kind, {*ENTITIES, "customers"}):
        found.unsupported("entity_type")
    elif found.typed(element, "entity_id", int):
        held = call.account.entities.get(str(kind or "leads"))
        if held is not None and element["entity_id"] not in held:
            found.unsupported("entity_id")
    result = element.get("result")
    if result and (not isinstance(result, dict) or not isinstance(result.get("text"), str)):
        found.add(errors.wrong_type("result", "object"))


def create(call: Call) -> Response:
    """POST /tasks (array): text and complete_till are required [D]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        for key, expected in (("text", str), ("complete_till", int)):
            if element.get(key) is None:
                found.required(element, key, expected)
        _check(call, found, element)
    found.settle()
    made = []
    for index, element in enumerate(elements):
        record = _make(call, element)
        shown = {"id": record["id"], "request_id": str(element.get("request_id", index))}
        made.append(dumps(shown | {"_links": call.link(f"tasks/{record['id']}")}))
    return envelope({"_links": call.link("tasks")}, "tasks", made)


def _make(call: Call, element: Record) -> Record:
    record: Record = {
        "id": call.account.tasks.next_id(),
        "created_by": call.user_id,
        "updated_by": call.user_id,
        "created_at": call.now,
        "updated_at": call.now,
        "responsible_user_id": call.user_id,
        "group_id": 0,
        "entity_id": None,
        "entity_type": None,
        "duration": 0,
        "is_completed": False,
        "task_type_id": 1,
        "text": "",
        "result": [],
        "complete_till": 0,
    }
    record |= {key: element[key] for key in _WRITABLE if element.get(key) is not None}
    if record["entity_id"] is not None and record["entity_type"] is None:
        record["entity_type"] = "leads"
    call.account.tasks.add(record)
    call.world.note_event(call.account, "task_added", "tasks", record["id"], call.user_id)
    call.world.announce(call.account, "tasks", "add", before=None, after=record, user_id=call.user_id)
    return record


def _apply(call: Call, held: Record, element: Record) -> Record:
    values = {key: element[key] for key in _WRITABLE if element.get(key) is not None}
    if "is_completed" in element:
        values["is_completed"] = element["is_completed"]
    if element.get("result"):
        values["result"] = {"text": element["result"]["text"]}
    changed = call.account.tasks.change(held["id"], **values, updated_at=call.now, updated_by=call.user_id)
    if changed["is_completed"] and not held["is_completed"]:
        call.world.note_event(call.account, "task_completed", "tasks", held["id"], call.user_id)
    for key, kind in _EVENTS.items():
        if changed[key] != held[key]:
            call.world.note_event(call.account, kind, "tasks", held["id"], call.user_id)
    call.world.announce(call.account, "tasks", "update", before=held, after=changed, user_id=call.user_id)
    if changed["responsible_user_id"] != held["responsible_user_id"]:
        call.world.announce(
            call.account, "tasks", "responsible", before=held, after=changed, user_id=call.user_id
        )
    return changed


def _written(call: Call, record: Record, element: Record, index: int) -> Record:
    return {
        "id": record["id"],
        "updated_at": record["updated_at"],
        "request_id": str(element.get("request_id", index)),
        "_links": call.link(f"tasks/{record['id']}"),
    }


def change(call: Call) -> Response:
    """PATCH /tasks/{id} (object), answered with a bare thin object [D]."""
    held = call.account.tasks.get(call.number("id"))
    element, found = call.one(), Findings()
    if held is None:
        found.unsupported("id")
    _check(call, found, element)
    found.settle()
    assert held is not None  # noqa: S101 - settled above
    return hal(_written(call, _apply(call, held, element), element, 0))


def change_many(call: Call) -> Response:
    """PATCH /tasks (array, each with its id)."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        if found.required(element, "id", int) and element["id"] not in call.account.tasks:
            found.unsupported("id")
        _check(call, found, element)
    found.settle()
    made = []
    for index, element in enumerate(elements):
        held = call.account.tasks.get(element["id"])
        if held is not None:
            made.append(dumps(_written(call, _apply(call, held, element), element, index)))
    return envelope({"_links": call.link("tasks")}, "tasks", made)


ROUTES = [
    Route("GET", "tasks", listing),
    Route("GET", "tasks/{id}", single),
    Route("POST", "tasks", create),
    Route("PATCH", "tasks", change_many),
    Route("PATCH", "tasks/{id}", change),
]
