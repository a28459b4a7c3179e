"""Incoming leads (fact sheet 3.14). Their lead has its id before acceptance, and is in no list until then."""

import uuid

from sandbox import editing, errors, render
from sandbox.call import Call, Route
from sandbox.paging import envelope, page_of
from sandbox.query import FilterKind, filtered
from sandbox.state import Record
from sandbox.validate import Findings
from sandbox.wire import Response, dumps, hal, no_content

_FILTERS: dict[str, tuple[str, FilterKind]] = {
    "uid": ("uid", "word"),
    "category": ("category", "word"),
    "pipeline_id": ("pipeline_id", "ids"),
}
_META = {
    "forms": ("form_id", "form_name", "form_page", "form_sent_at"),
    "sip": ("uniq", "duration", "service_code"),
}


def _embedded(call: Call, record: Record) -> Record:
    return {
        "contacts": [render.reference(call.account, "contacts", known) for known in record["_contacts"]],
        "leads": [render.reference(call.account, "leads", known) for known in record["_leads"]],
        "companies": [],
    }


def shown(call: Call, record: Record) -> Record:
    """An incoming lead as the API shows it."""
    body = render.public(record) | {"account_id": call.account.id}
    body["_links"] = call.link(f"leads/unsorted/{record['uid']}")
    return body | {"_embedded": _embedded(call, record)}


def listing(call: Call) -> Response:
    """GET /leads/unsorted."""
    held = filtered(list(call.account.unsorted.values()), call.query.get("filter"), _FILTERS)
    return page_of(call, "unsorted", held, lambda record: dumps(shown(call, record)))


def summary(call: Call) -> Response:
    """GET /leads/unsorted/summary."""
    held = list(call.account.unsorted.values())
    count = {
        name: sum(1 for record in held if record["category"] == name)
        for name in ("forms", "chats", "mail", "sip")
    }
    body = {"total": len(held), "accepted": 0, "declined": 0, "average_sort_time": 0}
    return hal(body | {"categories": {name: {"total": number} for name, number in count.items()}})


def _record(call: Call) -> Record:
    record = call.account.unsorted.get(call.params["uid"])
    if record is None:
        raise errors.entity_not_found()
    return record


def single(call: Call) -> Response:
    """GET /leads/unsorted/{uid}."""
    return hal(shown(call, _record(call)))


def create(call: Call) -> Response:
    """POST /leads/unsorted/forms and /sip (array) [D]."""
    category = call.request.path.rstrip("/").rpartition("/")[2]
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        found.required(element, "source_uid", str)
        found.required(element, "source_name", str)
        if found.required(element, "metadata", dict):
            for key in _META[category]:
                if key not in element["metadata"]:
                    found.add(errors.missing(f"metadata.{key}"))
        found.embedded(element, "contacts", "leads")
        found.settle()
        for other in ("contacts", "leads"):
            for sent in (element.get("_embedded") or {}).get(other) or ():
                editing.check(call, found, other, sent, None)
        if found.typed(element, "pipeline_id", int) and element["pipeline_id"] not in call.account.pipelines:
            found.unsupported("pipeline_id")
    found.settle()
    made = []
    for index, element in enumerate(elements):
        record = add_incoming(call, category, element)
        made.append(dumps(shown(call, record) | {"request_id": str(element.get("request_id", index))}))
    return envelope({"_total_items": len(made), "_links": call.link("leads/unsorted")}, "unsorted", made)


def add_incoming(call: Call, category: str, element: Record) -> Record:
    """Hold a new incoming lead; its lead and contact get their ids now, their data waits under `_data`."""
    uid = f"{uuid.uuid4().hex}{call.now:028x}"
    embedded = element.get("_embedded") or {}
    record: Record = {
        "uid": uid,
        "source_uid": element.get("source_uid", ""),
        "source_name": element.get("source_name", ""),
        "category": category,
        "pipeline_id": element.get("pipeline_id") or call.account.main_pipeline()["id"],
        "created_at": element.get("created_at", call.now),
        "metadata": element.get("metadata") or {},
        "_leads": [call.account.entities["leads"].next_id()],
        "_contacts": [call.account.entities["contacts"].next_id() for _ in embedded.get("contacts") or ()],
        "_data": embedded,
    }
    call.account.unsorted[uid] = record
    call.world.announce(call.account, "unsorted", "add", before=None, after=record, user_id=call.user_id)
    return record


def accept(call: Call) -> Response:
    """POST /leads/unsorted/{uid}/accept: the lead appears, under the id it had all along [D]."""
    record = _record(call)
    body = call.optional()
    found = Findings()
    found.user(call.account, body, "user_id")
    pipeline_id = record["pipeline_id"]
    stages = [stage for stage in call.account.statuses(pipeline_id) if stage["type"] == 0]
    status_id = body.get("status_id", stages[0]["id"])
    if status_id not in {stage["id"] for stage in stages}:
        found.unsupported("status_id")
    found.settle()
    data = record.get("_data") or {}
    for place, contact_id in enumerate(record["_contacts"]):
        sent = (data.get("contacts") or [{"name": "Incoming contact"}])[place]
        editing.insert(call, "contacts", sent, contact_id)
    lead = (data.get("leads") or [{}])[0]
    wanted: Record = {"name": f"Incoming lead from {record['source_name']}"} | lead
    wanted |= {"pipeline_id": pipeline_id, "status_id": status_id}
    wanted["responsible_user_id"] = body.get("user_id") or call.user_id
    wanted["_embedded"] = {"contacts": [{"id": contact_id} for contact_id in record["_contacts"]]}
    editing.insert(call, "leads", wanted, record["_leads"][0])
    return _closed(call, record, "accept")


def _closed(call: Call, record: Record, action: str) -> Response:
    del call.account.unsorted[record["uid"]]
    gone = record | {"_action": action}
    call.world.announce(call.account, "unsorted", "delete", before=gone, after=None, user_id=call.user_id)
    body = {key: record[key] for key in ("uid", "pipeline_id", "category", "created_at")}
    embedded = _embedded(call, record)
    order = {"leads": embedded["leads"], "contacts": embedded["contacts"], "companies": embedded["companies"]}
    return hal(body | {"_embedded": order})


def decline(call: Call) -> Response:
    """DELETE /leads/unsorted/{uid}/decline [D]."""
    return _closed(call, _record(call), "decline")


def link(call: Call) -> Response:
    """POST /leads/unsorted/{uid}/link: only for chats [D]."""
    record = _record(call)
    if record["category"] != "chats":
        raise errors.validation({"0": [errors.unsupported("category")]})
    return _closed(call, record, "accept") if call.one() else no_content()


ROUTES = [
    Route("GET", "leads/unsorted", listing),
    Route("GET", "leads/unsorted/summary", summary),
    Route("POST", "leads/unsorted/forms", create),
    Route("POST", "leads/unsorted/sip", create),
    Route("GET", "leads/unsorted/{uid}", single),
    Route("POST", "leads/unsorted/{uid}/accept", accept),
    Route("DELETE", "leads/unsorted/{uid}/decline", decline),
    Route("POST", "leads/unsorted/{uid}/link", link),
]
