"""Leads, contacts, companies, customers: reading (fact sheet 3.5, 3.6, 3.7). Writing is in `writes` and `complex`."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from sandbox import errors, render
from sandbox.call import Call, Route
from sandbox.paging import page_of, whole
from sandbox.query import FilterKind, contains, filtered, nested, numbers, ordered, texts
from sandbox.routes import complexleads, writes
from sandbox.state import Account, Record
from sandbox.wire import Response, dumps, hal, no_content

_PEOPLE: dict[str, tuple[str, FilterKind]] = {
    "id": ("id", "ids"),
    "name": ("name", "texts"),
    "created_by": ("created_by", "ids"),
    "updated_by": ("updated_by", "ids"),
    "responsible_user_id": ("responsible_user_id", "ids"),
    "created_at": ("created_at", "range"),
    "updated_at": ("updated_at", "range"),
    "closest_task_at": ("closest_task_at", "range"),
}
_LEADS: dict[str, tuple[str, FilterKind]] = _PEOPLE | {
    "price": ("price", "range"),
    "pipeline_id": ("pipeline_id", "ids"),
    "closed_at": ("closed_at", "range"),
}


def _stages(records: list[Record], wanted: object) -> list[Record]:
    """filter[statuses][0][pipeline_id] & [status_id]: always a pair [D]."""
    pairs = set()
    for pair in wanted.values() if isinstance(wanted, dict) else ():
        if isinstance(pair, dict):
            pipeline, stage = numbers(pair.get("pipeline_id")), numbers(pair.get("status_id"))
            if pipeline and stage:
                pairs.add((pipeline[0], stage[0]))
    if not pairs:
        return records
    return [record for record in records if (record["pipeline_id"], record["status_id"]) in pairs]


def _by_fields(records: list[Record], wanted: object) -> list[Record]:
    """filter[custom_fields_values][{field_id}][] by value or enum id (amoCRM; Kommo does not list it) [D A]."""
    if not isinstance(wanted, dict):
        return records
    for field_id in numbers(next(iter(wanted))) if wanted else ():
        words = set(texts(wanted[str(field_id)]))
        records = [record for record in records if _has_value(record, field_id, words)]
    return records


def _has_value(record: Record, field_id: int, words: set[str]) -> bool:
    return any(
        str(value.get("value")) in words or str(value.get("enum_id")) in words
        for entry in record["custom_fields_values"] or ()
        if entry["field_id"] == field_id
        for value in entry["values"]
    )


def _span(call: Call) -> list[Record] | None:
    """Where a query asks for nothing but a span of `updated_at` in its order: that, without going through all.

    A reader of spans asks another question each time, and none of them is worth keeping.
    """
    query, wanted = call.query, call.query.get("filter", {})
    if "updated_at" not in (_LEADS if call.entity == "leads" else _PEOPLE):
        return None
    if (
        query.get("order") != {"updated_at": "asc"}
        or not isinstance(wanted, dict)
        or set(wanted) - {"updated_at"}
    ):
        return None
    ends = wanted.get("updated_at", {})
    if not isinstance(ends, dict) or call.request.first("query") or "only_deleted" in call.with_:
        return None
    whole_list = [("order[updated_at]", "asc")]
    held = call.account.entities[call.entity]
    found = held.view(
        tuple(whole_list), lambda: ordered(_shown(held), nested(whole_list)["order"], ("updated_at",))
    )
    start, end = numbers(ends.get("from")), numbers(ends.get("to"))
    first = bisect_left(found, start[0], key=_updated) if start else 0
    behind = bisect_right(found, end[0], key=_updated) if end else len(found)
    return found[first:behind]


def _updated(record: Record) -> int:
    moment: int = record["updated_at"]
    return moment


def _shown(held: Iterable[Record]) -> list[Record]:
    return [record for record in held if not record["is_deleted"] and not record.get("is_unsorted")]


def _found(call: Call) -> list[Record]:
    """The records that the query selects, in its order; deleted ones only with `with=only_deleted`."""
    is_lead = call.entity == "leads"
    gone = is_lead and "only_deleted" in call.with_
    held, wanted = call.account.entities[call.entity], call.query.get("filter")
    some: Iterable[Record] = held
    if isinstance(wanted, dict) and "id" in wanted:  # a few of very many: no need to look at all
        ids = sorted(set(numbers(wanted["id"])))
        some = [record for known in ids if (record := held.get(known)) is not None]
    records = [record for record in some if record["is_deleted"] is gone and not record.get("is_unsorted")]
    records = filtered(records, wanted, _LEADS if is_lead else _PEOPLE)
    if isinstance(wanted, dict):
        if is_lead and "statuses" in wanted:
            records = _stages(records, wanted["statuses"])
        records = _by_fields(records, wanted.get("custom_fields_values"))
    words = call.request.first("query")
    if words:
        tags = call.account.tags[call.entity]
        named = {tag["id"]: tag["name"] for tag in tags}
        records = [
            record
            for record in records
            if contains(record | {"_tag_names": [named.get(tag, "") for tag in record["_tags"]]}, words)
        ]
    keys = ("created_at", "updated_at", "id") if is_lead else ("updated_at", "id")
    return ordered(records, call.query.get("order"), keys)


def fragment(account: Account, entity: str, record: Record, with_: frozenset[str]) -> bytes:
    """The JSON bytes of a record, kept until it changes."""
    return account.entities[entity].fragment(
        record["id"], with_, lambda: render.entity_json(account, entity, record, with_)
    )


def listing(call: Call) -> Response:
    """GET /{entity}: no totals, 204 when nothing is found [D]."""
    query = tuple(pair for pair in call.request.query if pair[0] not in {"page", "limit"})
    found = _span(call)
    if found is None:
        found = call.account.entities[call.entity].view(query, lambda: _found(call))
    with_ = call.with_
    return page_of(
        call, call.entity, found, lambda record: fragment(call.account, call.entity, record, with_)
    )


def single(call: Call) -> Response:
    """GET /{entity}/{id}: 204 for an unknown or deleted one [D, I]; everything that `with` would add to a contact."""
    record = call.account.entities[call.entity].get(call.number("id"))
    if record is None or record["is_deleted"]:
        return no_content()
    shown = render.entity(call.account, call.entity, record, call.with_)
    if call.entity == "leads":
        shown["_links"]["self"]["href"] += "?page=1&limit=50"  # so printed in Kommo's reference [D]
    return hal(shown)


def links(call: Call) -> Response:
    """GET /{entity}/{id}/links: `metadata.main_contact` on reading [D]."""
    record = call.account.entities[call.entity].get(call.number("id"))
    if record is None:
        return no_content()
    found: list[Record] = [
        _link("contacts", contact, {"main_contact": index == 0})
        for index, contact in enumerate(record.get("_contacts", ()))
    ]
    found += [_link("leads", lead, None) for lead in record.get("_leads", ())]
    if record.get("_company"):
        found.append(_link("companies", record["_company"], None))
    return whole(call, "links", found, lambda link: link)


def _link(entity: str, record_id: int, metadata: Record | None) -> Record:
    return {"to_entity_id": record_id, "to_entity_type": entity, "metadata": metadata}


def tags(call: Call) -> Response:
    """GET /{entity}/tags."""
    held = list(call.account.tags[call.entity])
    wanted: dict[str, tuple[str, FilterKind]] = {"id": ("id", "ids"), "name": ("name", "texts")}
    held = filtered(held, call.query.get("filter"), wanted)
    words = call.request.first("query").casefold()
    return page_of(call, "tags", [tag for tag in held if words in tag["name"].casefold()], dumps)


def not_here(call: Call) -> Response:
    """POST to /{entity}/{id} and the like [D, C G#329]."""
    del call
    return errors.method_not_allowed()


ROUTES = [
    *complexleads.ROUTES,
    Route("GET", "{entity}", listing),
    Route("GET", "{entity}/{id}", single),
    Route("GET", "{entity}/{id}/links", links),
    Route("GET", "{entity}/tags", tags),
    *writes.ROUTES,
]
