"""Records as the API shows them, with `_links` and `_embedded`, in the two documented flavours.

Kommo's published answers and amoCRM's differ in a few keys (`enum_code` and `enum`, `is_deleted` of contacts, the
length of a custom field definition …); an account's flavour decides which of the two it shows.
"""

import uuid

from sandbox.state import SINGULAR, Account, Record
from sandbox.wire import dumps

_AMO_FIELD_KEYS = (
    "id",
    "name",
    "sort",
    "type",
    "is_predefined",
    "settings",
    "remind",
    "is_api_only",
    "group_id",
    "enums",
    "required_statuses",
)
_MARKER: list[Record] = [{"marker": uuid.uuid4().hex}]
_MARKER_JSON = dumps(_MARKER)
_MOST_KEPT = 4_096
_AMO_LEAVES_OUT = {"is_deleted", "is_unsorted", "is_computed"}


def link(account: Account, path: str) -> dict[str, dict[str, str]]:
    """A `_links` object with `self`."""
    return {"self": {"href": f"{account.url}/api/v4/{path}"}}


def public(record: Record) -> Record:
    """The record without the sandbox's own keys."""
    return {key: value for key, value in record.items() if key[0] != "_"}


def reference(account: Account, entity: str, record_id: int, **more: object) -> Record:
    """An entry of `_embedded`: id and link."""
    return {"id": record_id, **more, "_links": link(account, f"{entity}/{record_id}")}


def _tags(account: Account, entity: str, ids: list[int]) -> list[Record]:
    tags = account.tags[entity]
    return [public(tag) for tag_id in ids if (tag := tags.get(tag_id)) is not None]


def _values(account: Account, record: Record) -> list[Record] | None:
    stored: list[Record] | None = record["custom_fields_values"]
    if not stored or stored is _MARKER or account.flavour == "kommo":
        return stored
    return [
        {key: value for key, value in entry.items() if key not in _AMO_LEAVES_OUT}
        | {"values": [_amo_value(value) for value in entry["values"]]}
        for entry in stored
    ]


def _amo_value(value: Record) -> Record:
    """AmoCRM's older shape: `enum` in the place of `enum_code`."""
    return {("enum" if key == "enum_code" else key): kept for key, kept in value.items()}


def entity_json(account: Account, kind: str, record: Record, with_: frozenset[str]) -> bytes:
    """The JSON bytes of a record.

    Custom field values are most of a record and many records share theirs, so those bytes are made once per list and
    put into the place that a marker holds.
    """
    held = record["custom_fields_values"]
    if not held:
        return dumps(entity(account, kind, record, with_))
    known = account.values_json.get(id(held))
    if known is None:
        if len(account.values_json) >= _MOST_KEPT:
            account.values_json.clear()
        # The list is kept beside its bytes: while it lives, its id cannot be given to another one.
        known = account.values_json[id(held)] = (held, dumps(_values(account, record)))
    marked = dumps(entity(account, kind, record | {"custom_fields_values": _MARKER}, with_))
    return marked.replace(_MARKER_JSON, known[1], 1)


def lead(account: Account, record: Record, with_: frozenset[str]) -> Record:
    """A lead [D K/leads-list]; contacts, loss reason, source and list elements only with `with=`."""
    shown = public(record) | {"custom_fields_values": _values(account, record)}
    shown["account_id"] = account.id
    if "is_price_modified_by_robot" in with_:
        shown["is_price_modified_by_robot"] = False
    if "source_id" in with_:
        shown["source_id"] = record.get("_source")
    shown["_links"] = link(account, f"leads/{record['id']}")
    company = record["_company"]
    embedded: Record = {
        "tags": _tags(account, "leads", record["_tags"]),
        "companies": [reference(account, "companies", company)] if company else [],
    }
    if "contacts" in with_:
        embedded["contacts"] = [
            reference(account, "contacts", contact, is_main=index == 0)
            for index, contact in enumerate(record["_contacts"])
        ]
    if "loss_reason" in with_:
        reason = account.loss_reasons.get(record["loss_reason_id"] or 0)
        embedded["loss_reason"] = [loss_reason(account, reason)] if reason else []
    if "catalog_elements" in with_:
        embedded["catalog_elements"] = list(record.get("_elements", ()))
    if "source" in with_:
        source = account.sources.get(record.get("_source") or 0)
        embedded["source"] = {"id": source["id"], "name": source["name"]} if source else None
    shown["_embedded"] = embedded
    return shown


def person(account: Account, entity: str, record: Record, with_: frozenset[str]) -> Record:
    """A contact or company [D K/contacts-list, A/contacts-api]."""
    shown = public(record) | {"custom_fields_values": _values(account, record), "account_id": account.id}
    if account.flavour == "amo":
        shown = {key: value for key, value in shown.items() if key not in _AMO_LEAVES_OUT}
    shown["_links"] = link(account, f"{entity}/{record['id']}")
    embedded: Record = {"tags": _tags(account, entity, record["_tags"])}
    if entity == "contacts":
        company = record["_company"]
        embedded["companies"] = [reference(account, "companies", company)] if company else []
    for other in ("contacts", "leads", "customers"):
        if other in with_ and (entity, other) != ("contacts", "contacts"):
            embedded[other] = [reference(account, other, known) for known in record.get(f"_{other}", ())]
    if "catalog_elements" in with_:
        embedded["catalog_elements"] = []
    shown["_embedded"] = embedded
    return shown


def entity(account: Account, kind: str, record: Record, with_: frozenset[str]) -> Record:
    """A lead, contact, company or customer."""
    return lead(account, record, with_) if kind == "leads" else person(account, kind, record, with_)


def loss_reason(account: Account, record: Record) -> Record:
    """A loss reason [D, C PHP]."""
    return public(record) | {"_links": link(account, f"leads/loss_reasons/{record['id']}")}


def pipeline(account: Account, record: Record) -> Record:
    """A pipeline with its stages [D K/leads-pipelines]."""
    shown = public(record) | {"account_id": account.id}
    shown["_links"] = link(account, f"leads/pipelines/{record['id']}")
    stages = account.statuses(record["id"])
    shown["_embedded"] = {"statuses": [status(account, record["id"], stage) for stage in stages]}
    return shown


def status(account: Account, pipeline_id: int, record: Record) -> Record:
    """A stage [D K/leads-pipelines]."""
    place = f"leads/pipelines/{pipeline_id}/statuses/{record['id']}"
    return record | {"account_id": account.id, "_links": link(account, place)}


def custom_field(account: Account, kind: str, record: Record) -> Record:
    """A custom field definition; amoCRM's older page prints fewer keys [D K, A/custom-fields]."""
    shown = public(record)
    if account.flavour == "amo":
        code = {"code": record["code"]} if record["code"] else {}
        shown = {key: shown.get(key) for key in _AMO_FIELD_KEYS} | code
    else:
        shown["account_id"] = account.id
    return shown | {"_links": link(account, f"{kind}/custom_fields/{record['id']}")}


def user(account: Account, record: Record, with_: frozenset[str]) -> Record:
    """A user; roles and groups are filled only with `with=` [D K/users]."""
    shown = public(record)
    for key in ("uuid", "amojo_id", "user_rank", "phone_number"):
        if key in with_:
            shown[key] = record.get(f"_{key}")
    shown["_links"] = link(account, f"users/{record['id']}")
    roles = [known | {"_links": link(account, f"roles/{known['id']}")} for known in record["_roles"]]
    shown["_embedded"] = {
        "roles": roles if "role" in with_ else [],
        "groups": record["_groups"] if "group" in with_ else [],
    }
    return shown


def task(account: Account, record: Record) -> Record:
    """A task; `result` is [] while there is none [D]."""
    return public(record) | {"account_id": account.id, "_links": link(account, f"tasks/{record['id']}")}


def note(account: Account, record: Record) -> Record:
    """A note [D]."""
    place = f"{record['_entity']}/{record['entity_id']}/notes/{record['id']}"
    return public(record) | {"account_id": account.id, "_links": link(account, place)}


def event(account: Account, record: Record) -> Record:
    """An event; its id is a string and its entity type singular [D]."""
    place = {"lead": "leads", "contact": "contacts", "company": "companies", "task": "tasks"}[
        record["entity_type"]
    ]
    target = reference(account, place, record["entity_id"])
    links = link(account, f"events/{record['id']}")
    return record | {"account_id": account.id, "_links": links, "_embedded": {"entity": target}}


def source(account: Account, record: Record) -> Record:
    """A source of the calling integration [D]."""
    return public(record) | {"_links": link(account, f"sources/{record['id']}")}


def talk(account: Account, record: Record, *, listed: bool) -> Record:
    """A talk; the list of Kommo adds `status` [D K/talks]."""
    shown = {key: value for key, value in public(record).items() if key not in {"id", "status"}}
    if listed:
        shown["status"] = record["status"]
    lead_id = record["entity_id"] if record["entity_type"] == SINGULAR["leads"] else None
    return shown | {
        "account_id": account.id,
        "_links": link(account, f"talks/{record['talk_id']}"),
        "_embedded": {
            "contacts": [reference(account, "contacts", record["contact_id"])],
            "leads": [reference(account, "leads", lead_id)] if lead_id else [],
            "customers": [],
        },
    }
