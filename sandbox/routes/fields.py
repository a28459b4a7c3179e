"""Custom field definitions (fact sheet 3.4). Reading is open to all, writing to administrators."""

from sandbox import errors, render
from sandbox.call import Call, Route
from sandbox.paging import envelope, page_of, whole
from sandbox.query import filtered, ordered
from sandbox.seed_fields import definition
from sandbox.state import Record
from sandbox.validate import Findings, one_of
from sandbox.wire import Response, dumps, hal, no_content

TYPES = frozenset(
    [
        "text",
        "textarea",
        "url",
        "streetaddress",
        "numeric",
        "monetary",
        "checkbox",
        "select",
        "radiobutton",
        "multiselect",
        "date",
        "date_time",
        "birthday",
        "multitext",
        "smart_address",
        "legal_entity",
        "chained_list",
        "file",
        "tracking_data",
        "org_legal_name",
        "category",
        "price",
        "items",
        "linked_entity",
        "payer",
        "supplier",
    ]
)
_WITH_ENUMS = {"select", "radiobutton", "multiselect", "multitext", "category"}
_WRITABLE = (
    "name",
    "sort",
    "code",
    "is_api_only",
    "group_id",
    "required_statuses",
    "hidden_statuses",
    "remind",
    "currency",
)


def listing(call: Call) -> Response:
    """GET /{entity}/custom_fields: 50 by default, 250 at most, with totals [D]."""
    held = filtered(
        list(call.account.fields[call.entity]), call.query.get("filter"), {"type": ("type", "word")}
    )
    held = ordered(
        sorted(held, key=lambda known: (known["sort"], known["id"])), call.query.get("order"), ("sort", "id")
    )
    return page_of(
        call,
        "custom_fields",
        held,
        lambda record: dumps(render.custom_field(call.account, call.entity, record)),
        totals=True,
    )


def _field(call: Call) -> Record:
    record = call.account.fields[call.entity].get(call.number("id"))
    if record is None:
        raise errors.entity_not_found()
    return record


def single(call: Call) -> Response:
    """GET /{entity}/custom_fields/{id}."""
    return hal(render.custom_field(call.account, call.entity, _field(call)))


def groups(call: Call) -> Response:
    """GET /{entity}/custom_fields/groups."""
    made: list[Record] = [
        {
            "id": "default",
            "name": "Main",
            "is_predefined": True,
            "type": None,
            "entity_type": call.entity,
            "sort": 0,
        },
        {
            "id": "statistic",
            "name": "Statistics",
            "is_predefined": True,
            "type": "tracking_data",
            "entity_type": call.entity,
            "sort": 1,
        },
    ]
    place = f"{call.entity}/custom_fields/groups"
    return whole(
        call,
        "custom_field_groups",
        made,
        lambda record: record | {"_links": call.link(f"{place}/{record['id']}")},
    )


def _check(found: Findings, element: Record, held: Record | None) -> None:
    for key, expected in (
        ("name", str),
        ("sort", int),
        ("code", str),
        ("is_api_only", bool),
    ):
        found.typed(element, key, expected)
    kind = element.get("type", held["type"] if held else None)
    if not one_of(kind, TYPES):
        found.unsupported("type")
    if held is not None and kind == "monetary" and not element.get("currency") and "currency" not in held:
        found.add(errors.missing("currency"))
    known = {enum["id"] for enum in (held or {}).get("enums") or []}
    for place, enum in enumerate(found.objects(element, "enums")):
        if enum.get("id") is not None and not one_of(enum["id"], known):
            found.unsupported(f"enums.{place}.id")  # [C] a stale enum id is refused
        elif enum.get("id") is None and not enum.get("value"):
            found.add(errors.missing(f"enums.{place}.value"))


def _enums(call: Call, element: Record, held: Record | None) -> list[Record] | None:
    """The enums after a write: those sent without an id are new, those not sent are gone [D]."""
    known = {enum["id"]: enum for enum in (held or {}).get("enums") or []}
    made: list[Record] = []
    for place, sent in enumerate(element["enums"] or []):
        base = known.get(sent.get("id"), {"id": None, "value": "", "sort": 500 + 10 * place, "code": None})
        enum = base | {key: sent[key] for key in ("value", "sort", "code") if key in sent}
        if enum["id"] is None:
            enum["id"] = call.account.next_enum
            call.account.next_enum += 2
        made.append(enum)
    return made or None


def create(call: Call) -> Response:
    """POST /{entity}/custom_fields (array): 201 and the whole definitions [D]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        found.required(element, "name", str)
        _check(found, element, None)
        if one_of(element.get("type"), _WITH_ENUMS) and not element.get("enums"):
            found.add(errors.missing("enums"))
    found.settle()
    fragments = []
    for index, element in enumerate(elements):
        more = {key: element[key] for key in _WRITABLE if key in element and key != "name"}
        if element.get("enums"):
            more["enums"] = _enums(call, element, None)
        record = definition(call.account, call.entity, element["name"], element["type"], **more)
        fragments.append(dumps(_written(call, record, element, index)))
    head = {"_total_items": len(fragments), "_links": call.link(f"{call.entity}/custom_fields")}
    return envelope(head, "custom_fields", fragments, 201)


def _written(call: Call, record: Record, element: Record, index: int) -> Record:
    shown = render.custom_field(call.account, call.entity, record)
    if "request_id" in element:
        shown["request_id"] = str(element.get("request_id", index))
    return shown


def _apply(call: Call, held: Record, element: Record) -> Record:
    values = {key: element[key] for key in _WRITABLE if key in element}
    if "enums" in element:
        values["enums"] = _enums(call, element, held)
    return call.account.fields[call.entity].change(held["id"], **values)


def change(call: Call) -> Response:
    """PATCH /{entity}/custom_fields/{id} (object): `enums` come back as an object keyed by index [D]."""
    held, element, found = _field(call), call.one(), Findings()
    _check(found, element, held)
    found.settle()
    shown = render.custom_field(call.account, call.entity, _apply(call, held, element))
    if shown["enums"]:
        shown["enums"] = {str(index): enum for index, enum in enumerate(shown["enums"])}
    return hal(shown)


def change_many(call: Call) -> Response:
    """PATCH /{entity}/custom_fields (array, each with its id)."""
    elements, found = call.many(), Findings()
    held: list[Record] = []
    for element in found.each(elements):
        record = found.known(element, call.account.fields[call.entity])
        if record is not None:
            _check(found, element, record)
            held.append(record)
    found.settle()
    shown = [
        dumps(_written(call, _apply(call, record, element), element, index))
        for index, (record, element) in enumerate(zip(held, elements, strict=True))
    ]
    head = {"_total_items": len(shown), "_links": call.link(f"{call.entity}/custom_fields")}
    return envelope(head, "custom_fields", shown)


def delete(call: Call) -> Response:
    """DELETE /{entity}/custom_fields/{id} [D A]; predefined fields stay."""
    record = _field(call)
    if not record["is_deletable"]:
        raise errors.Problem(errors.forbidden())
    call.account.fields[call.entity].remove(record["id"])
    return no_content()


ROUTES = [
    Route("GET", "{entity}/custom_fields", listing),
    Route("GET", "{entity}/custom_fields/groups", groups),
    Route("GET", "{entity}/custom_fields/{id}", single),
    Route("POST", "{entity}/custom_fields", create, admin=True),
    Route("PATCH", "{entity}/custom_fields", change_many, admin=True),
    Route("PATCH", "{entity}/custom_fields/{id}", change, admin=True),
    Route("DELETE", "{entity}/custom_fields/{id}", delete, admin=True),
]
