"""POST /leads/complex: a lead with its contact and company in one element (fact sheet 3.5).

At most 50 leads, one contact and one company each, 40 custom field values per entity [D]. The answer is a bare list and
its `request_id` a list.
"""

from sandbox import editing, errors
from sandbox.call import Call, Route
from sandbox.routes.unsorted import add_incoming
from sandbox.state import Record
from sandbox.validate import Findings, one_of
from sandbox.wire import Response, hal

_MOST = 50
_MOST_VALUES = 40


def create(call: Call) -> Response:
    """Check everything, then make everything."""
    elements, found = call.many(_MOST), Findings()
    for element in found.each(elements):
        found.embedded(element, "contacts", "companies", "tags")
    found.settle()
    for element in found.each(elements):
        metadata = _embedded(element).get("metadata")
        if metadata is None:
            editing.check(call, found, "leads", element, None)
        elif not isinstance(metadata, dict) or not one_of(metadata.get("category"), {"forms", "sip"}):
            found.unsupported("_embedded.metadata.category")
        else:
            editing.check(call, found, "leads", _bare(element), None)
        for other in ("contacts", "companies"):
            people = _embedded(element).get(other) or []
            if len(people) > 1:
                found.unsupported(f"_embedded.{other}")
            for person in people[:1]:
                inner = Findings()
                editing.check(
                    call, inner, other, {key: value for key, value in person.items() if key != "id"}, None
                )
                inner.settle()
    found.settle()
    if any(
        len(part.get("custom_fields_values") or ()) > _MOST_VALUES for one in elements for part in _parts(one)
    ):
        raise errors.unprocessable(f"Limit {_MOST_VALUES} custom fields per entity")
    return hal([_make(call, index, element) for index, element in enumerate(elements)])


def _embedded(element: Record) -> Record:
    embedded = element.get("_embedded")
    return embedded if isinstance(embedded, dict) else {}


def _parts(element: Record) -> list[Record]:
    embedded = _embedded(element)
    return [element, *(embedded.get("contacts") or ()), *(embedded.get("companies") or ())]


def _make(call: Call, index: int, element: Record) -> Record:
    embedded = _embedded(element)
    ids = {other: _person(call, other, embedded.get(other) or []) for other in ("companies",)}
    metadata = embedded.get("metadata")
    if metadata is not None:  # goes to the incoming stage, whatever status_id says [D]
        incoming = {"pipeline_id": element.get("pipeline_id"), "metadata": metadata, "source_name": "API"}
        data = {"contacts": embedded.get("contacts") or [], "leads": [_bare(element)]}
        record = add_incoming(call, metadata["category"], incoming | {"_embedded": data})
        lead_id, ids["contacts"] = record["_leads"][0], next(iter(record["_contacts"]), None)
    else:
        ids["contacts"] = _person(call, "contacts", embedded.get("contacts") or [])
        links = {other: [{"id": known, "is_main": True}] for other, known in ids.items() if known}
        lead_id = editing.insert(call, "leads", element | {"_embedded": {**_tags(embedded), **links}})["id"]
    return {
        "id": lead_id,
        "contact_id": ids["contacts"],
        "company_id": ids["companies"],
        "request_id": [str(element.get("request_id", index))],
        "merged": False,
    }


def _bare(element: Record) -> Record:
    return {key: value for key, value in element.items() if key not in {"_embedded", "status_id"}}


def _tags(embedded: Record) -> Record:
    return {"tags": embedded["tags"]} if "tags" in embedded else {}


def _person(call: Call, entity: str, people: list[Record]) -> int | None:
    if not people:
        return None
    if one_of(people[0].get("id"), call.account.entities[entity]):
        return int(people[0]["id"])
    return int(editing.insert(call, entity, people[0])["id"])


ROUTES = [Route("POST", "leads/complex", create)]
