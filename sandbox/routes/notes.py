"""Notes, calls and the event list (fact sheet 3.9, 3.10). A note is internal: it never reaches the customer."""

from sandbox import errors, render
from sandbox.call import Call, Route
from sandbox.paging import envelope, page_of
from sandbox.query import FilterKind, filtered, ordered
from sandbox.state import SINGULAR, Record
from sandbox.validate import Findings, one_of
from sandbox.wire import Response, dumps, hal, no_content

_PARAMS: dict[str, tuple[str, ...]] = {  # note types that can be made, and the params each needs [D]
    "common": ("text",),
    "call_in": ("uniq", "duration", "source", "link", "phone"),
    "call_out": ("uniq", "duration", "source", "link", "phone"),
    "service_message": ("service", "text"),
    "extended_service_message": ("service", "text"),
    "sms_in": ("text", "phone"),
    "sms_out": ("text", "phone"),
    "geolocation": ("text", "address", "longitude", "latitude"),
    "message_cashier": ("status", "text"),
    "attachment": ("file_uuid", "version_uuid", "file_name"),
}
_NOTE_FILTERS: dict[str, tuple[str, FilterKind]] = {
    "id": ("id", "ids"),
    "entity_id": ("entity_id", "ids"),
    "note_type": ("note_type", "word"),
    "updated_at": ("updated_at", "range"),
}
_EVENT_FILTERS: dict[str, tuple[str, FilterKind]] = {
    "type": ("type", "word"),
    "entity": ("entity_type", "word"),
    "entity_id": ("entity_id", "ids"),
    "created_at": ("created_at", "range"),
    "created_by": ("created_by", "ids"),
}
_EVENT_OF = {
    "call_in": "incoming_call",
    "call_out": "outgoing_call",
    "sms_in": "incoming_sms",
    "sms_out": "outgoing_sms",
}


def listing(call: Call) -> Response:
    """GET /{entity}/notes and /{entity}/{id}/notes [D]."""
    held = [record for record in call.account.notes if record["_entity"] == call.entity]
    if "id" in call.params:
        held = [record for record in held if record["entity_id"] == call.number("id")]
    held = filtered(held, call.query.get("filter"), _NOTE_FILTERS)
    held = ordered(held, call.query.get("order"), ("updated_at", "id"))
    return page_of(call, "notes", held, lambda record: dumps(_shown(call, record)))


def _shown(call: Call, record: Record) -> Record:
    pinned = {"is_pinned": record.get("_pinned", False)} if "is_pinned" in call.with_ else {}
    return render.note(call.account, record) | pinned


def _note(call: Call, name: str) -> Record | None:
    record = call.account.notes.get(call.number(name))
    return record if record is not None and record["_entity"] == call.entity else None


def single(call: Call) -> Response:
    """GET /{entity}/{id}/notes/{nid}: 204 for an unknown one (open in the sources; as leads do)."""
    record = _note(call, "nid")
    return hal(_shown(call, record)) if record else no_content()


def _check(call: Call, found: Findings, element: Record) -> None:
    kind = element.get("note_type")
    if kind is None:
        found.add(errors.missing("note_type"))
    elif not one_of(kind, _PARAMS):
        found.unsupported("note_type")
    params = element.get("params")
    if params is not None and not isinstance(params, dict):
        found.add(errors.wrong_type("params", "object"))
    elif isinstance(kind, str):
        for key in _PARAMS.get(kind, ()):
            if (params or {}).get(key) is None:
                found.add(errors.missing(f"params.{key}"))
    found.user(call.account, element, "responsible_user_id")
    entity_id = element.get("entity_id", call.params.get("id"))
    if entity_id is None:
        found.add(errors.missing("entity_id"))
    elif int(entity_id) not in call.account.entities[call.entity]:
        found.unsupported("entity_id")


def create(call: Call) -> Response:
    """POST of notes (array) on either path; on /{id}/notes the entity id may be left out [D]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        if element.get("entity_id") is None or found.typed(element, "entity_id", int):
            _check(call, found, element)
    found.settle()
    made = []
    for index, element in enumerate(elements):
        record = _make(call, element)
        place = f"{call.entity}/{record['entity_id']}/notes/{record['id']}"
        shown = {"id": record["id"], "entity_id": record["entity_id"]}
        shown |= {"request_id": str(element.get("request_id", index)), "_links": call.link(place)}
        made.append(dumps(shown))
    return envelope({"_links": call.link(f"{call.entity}/notes")}, "notes", made)


def _make(call: Call, element: Record) -> Record:
    record: Record = {
        "id": call.account.notes.next_id(),
        "entity_id": int(element.get("entity_id") or call.params["id"]),
        "created_by": element.get("created_by", call.user_id),
        "updated_by": call.user_id,
        "created_at": element.get("created_at", call.now),
        "updated_at": call.now,
        "responsible_user_id": element.get("responsible_user_id") or call.user_id,
        "group_id": 0,
        "note_type": element["note_type"],
        "params": element["params"],
        "_entity": call.entity,
    }
    call.account.notes.add(record)
    kind = _EVENT_OF.get(record["note_type"], "common_note_added")
    after: list[Record] = [{"note": {"id": record["id"]}}]
    call.world.note_event(call.account, kind, call.entity, record["entity_id"], call.user_id, after=after)
    call.world.announce(call.account, "notes", "add", before=None, after=record, user_id=call.user_id)
    return record


def _apply(call: Call, held: Record, element: Record) -> Record:
    params = element.get("params")
    values = {"params": held["params"] | params} if isinstance(params, dict) else {}
    return call.account.notes.change(held["id"], **values, updated_at=call.now, updated_by=call.user_id)


def change(call: Call) -> Response:
    """PATCH /{entity}/{id}/notes/{nid} (object)."""
    held, element = _note(call, "nid"), call.one()
    if held is None:
        raise errors.validation({"0": [errors.unsupported("id")]})
    record = _apply(call, held, element)
    place = f"{call.entity}/{record['entity_id']}/notes/{record['id']}"
    shown = {"id": record["id"], "entity_id": record["entity_id"], "updated_at": record["updated_at"]}
    return hal(shown | {"_links": call.link(place)})


def change_many(call: Call) -> Response:
    """PATCH /{entity}/notes (array, each with its id)."""
    elements, found = call.many(), Findings()
    held: list[Record] = []
    for element in found.each(elements):
        if found.required(element, "id", int):
            record = call.account.notes.get(element["id"])
            if record is None:
                found.unsupported("id")
            else:
                held.append(record)
    found.settle()
    made = []
    for index, (record, element) in enumerate(zip(held, elements, strict=True)):
        changed = _apply(call, record, element)
        place = f"{call.entity}/{changed['entity_id']}/notes/{changed['id']}"
        shown = {"id": changed["id"], "entity_id": changed["entity_id"], "updated_at": changed["updated_at"]}
        shown |= {"request_id": str(element.get("request_id", index)), "_links": call.link(place)}
        made.append(dumps(shown))
    return envelope({"_links": call.link(f"{call.entity}/notes")}, "notes", made)


def _pin(call: Call, *, pinned: bool) -> Response:
    held = _note(call, "nid")
    if held is None:
        raise errors.entity_not_found()
    call.account.notes.change(held["id"], _pinned=pinned)
    return no_content()


def pin(call: Call) -> Response:
    """POST …/notes/{nid}/pin: 204 [D, Kommo]."""
    return _pin(call, pinned=True)


def unpin(call: Call) -> Response:
    """POST …/notes/{nid}/unpin: 204 [D, Kommo]."""
    return _pin(call, pinned=False)


def events(call: Call) -> Response:
    """GET /events: at most 100 a page, newest first [D]."""
    held = filtered(list(reversed(call.account.events)), call.query.get("filter"), _EVENT_FILTERS)
    return page_of(
        call, "events", held, lambda record: dumps(render.event(call.account, record)), most=100, default=50
    )


def event(call: Call) -> Response:
    """GET /events/{id}."""
    wanted = call.params["uid"]
    record = next((known for known in call.account.events if known["id"] == wanted), None)
    return hal(render.event(call.account, record)) if record else no_content()


def calls(call: Call) -> Response:
    """POST /calls: a call is filed with the contact whose phone it has [D A/calls-api]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        for key, expected in (("duration", int), ("source", str), ("phone", str), ("direction", str)):
            found.required(element, key, expected)
        if element.get("direction") is not None and not one_of(element["direction"], {"inbound", "outbound"}):
            found.unsupported("direction")
    found.settle()
    made: list[bytes] = []
    failed: list[Record] = []
    for index, element in enumerate(elements):
        request_id = str(element.get("request_id", index))
        contact = _with_phone(call, element["phone"])
        if contact is None:
            failed.append(
                {"title": "Entity not found", "status": 263, "detail": "", "request_id": request_id}
            )
            continue
        shown: Record = {
            "id": call.account.calls.next_id(),
            "entity_id": contact["id"],
            "entity_type": SINGULAR["contacts"],
            "account_id": call.account.id,
            "request_id": request_id,
            "_embedded": {"entity": render.reference(call.account, "contacts", contact["id"])},
        }
        made.append(dumps(shown))
    return envelope({"_total_items": len(made), "errors": failed}, "calls", made)


def _with_phone(call: Call, phone: str) -> Record | None:
    digits = "".join(letter for letter in phone if letter.isdigit())
    for contact in call.account.entities["contacts"]:
        for entry in contact["custom_fields_values"] or ():
            if entry["field_code"] == "PHONE" and any(
                digits and digits == "".join(letter for letter in value["value"] if letter.isdigit())
                for value in entry["values"]
            ):
                return contact
    return None


ROUTES = [
    Route("GET", "{entity}/notes", listing),
    Route("POST", "{entity}/notes", create),
    Route("PATCH", "{entity}/notes", change_many),
    Route("GET", "{entity}/{id}/notes", listing),
    Route("POST", "{entity}/{id}/notes", create),
    Route("GET", "{entity}/{id}/notes/{nid}", single),
    Route("PATCH", "{entity}/{id}/notes/{nid}", change),
    Route("POST", "{entity}/{id}/notes/{nid}/pin", pin),
    Route("POST", "{entity}/{id}/notes/{nid}/unpin", unpin),
    Route("GET", "events", events),
    Route("GET", "events/{uid}", event),
    Route("POST", "calls", calls),
]
