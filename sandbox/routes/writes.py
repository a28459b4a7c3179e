"""Creating and changing leads, contacts, companies, customers; tags; links (fact sheet 3.5, 3.6, 3.7, 3.11).

Answers are thin: ids, `updated_at`, `request_id`, never the fields (trap 7).
"""

from sandbox import editing, errors
from sandbox.call import Call, Route
from sandbox.paging import envelope
from sandbox.state import Record
from sandbox.validate import Findings
from sandbox.wire import Response, dumps, hal, no_content


def create(call: Call) -> Response:
    """POST /{entity} (array); a repeated POST makes a second record, request_id is no idempotency key [D]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        editing.check(call, found, call.entity, element, None)
    found.settle()
    made = []
    for index, element in enumerate(elements):
        record = editing.insert(call, call.entity, element)
        shown = {"id": record["id"], "request_id": str(element.get("request_id", index))}
        made.append(dumps(shown | {"_links": call.link(f"{call.entity}/{record['id']}")}))
    return envelope({"_links": call.link(call.entity)}, call.entity, made)


def _thin(call: Call, record: Record) -> Record:
    links = call.link(f"{call.entity}/{record['id']}")
    return {"id": record["id"], "updated_at": record["updated_at"], "_links": links}


def change_many(call: Call) -> Response:
    """PATCH /{entity} (array, each with its id)."""
    elements, found = call.many(), Findings()
    held: list[Record] = []
    for element in found.each(elements):
        record = found.known(element, call.account.entities[call.entity])
        if record is not None:
            held.append(record)
        editing.check(call, found, call.entity, element, record)
    found.settle()
    made = [
        dumps(
            _thin(
                call,
                editing.update(
                    call, call.entity, call.account.entities[call.entity].get(old["id"]) or old, new
                ),
            )
        )
        for old, new in zip(held, elements, strict=True)
    ]
    return envelope({"_links": call.link(call.entity)}, call.entity, made)


def change(call: Call) -> Response:
    """PATCH /{entity}/{id} (object): Kommo accounts answer the bare object, amo ones the wrapper; both printed [D]."""
    held, element, found = call.account.entities[call.entity].get(call.number("id")), call.one(), Findings()
    if held is None:
        raise errors.validation({"0": [errors.unsupported("id")]})
    editing.check(call, found, call.entity, element, held)
    found.settle()
    shown = _thin(call, editing.update(call, call.entity, held, element))
    if call.account.flavour == "kommo":
        return hal(shown)
    return envelope({"_links": call.link(call.entity)}, call.entity, [dumps(shown)])


def create_tags(call: Call) -> Response:
    """POST /{entity}/tags (array): by name, so repeating it makes nothing new [D]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        found.required(element, "name", str)
    found.settle()
    made = []
    for index, element in enumerate(elements):
        tag = call.account.tag_named(call.entity, element["name"])
        if element.get("color"):
            tag = call.account.tags[call.entity].change(tag["id"], color=element["color"])
        made.append(dumps(tag | {"request_id": str(element.get("request_id", index))}))
    return envelope({"_total_items": len(made), "_links": call.link(f"{call.entity}/tags")}, "tags", made)


def _link_elements(call: Call) -> list[Record]:
    if call.number("id") not in call.account.entities[call.entity]:
        raise errors.entity_not_found()
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        other = element.get("to_entity_type")
        found.typed(element, "metadata", dict)
        if not isinstance(other, str) or other not in call.account.entities or other == call.entity:
            found.unsupported("to_entity_type")
        elif (
            found.required(element, "to_entity_id", int)
            and element["to_entity_id"] not in call.account.entities[other]
        ):
            found.unsupported("to_entity_id")
    found.settle()
    return elements


def link(call: Call) -> Response:
    """POST /{entity}/{id}/link: `metadata.is_main` on writing [D]."""
    made, elements = [], _link_elements(call)
    for element in elements:
        main = bool((element.get("metadata") or {}).get("is_main"))
        editing.link(
            call.account,
            call.entity,
            call.number("id"),
            element["to_entity_type"],
            element["to_entity_id"],
            main=main,
        )
        shown = {
            "entity_id": call.number("id"),
            "entity_type": call.entity,
            "to_entity_id": element["to_entity_id"],
        }
        shown |= {"to_entity_type": element["to_entity_type"], "metadata": element.get("metadata")}
        made.append(dumps(shown))
    head = {"_total_items": len(made), "_links": call.link(f"{call.entity}/{call.number('id')}/links")}
    return envelope(head, "links", made)


def unlink(call: Call) -> Response:
    """POST /{entity}/{id}/unlink: 204."""
    for element in _link_elements(call):
        editing.unlink(
            call.account, call.entity, call.number("id"), element["to_entity_type"], element["to_entity_id"]
        )
    return no_content()


ROUTES = [
    Route("POST", "{entity}", create),
    Route("PATCH", "{entity}", change_many),
    Route("PATCH", "{entity}/{id}", change),
    Route("POST", "{entity}/tags", create_tags),
    Route("POST", "{entity}/{id}/link", link),
    Route("POST", "{entity}/{id}/unlink", unlink),
]
