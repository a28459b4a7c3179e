"""What a change looks like in a webhook: which subscription it belongs to and which keys it has (fact sheet 6.3).

Webhooks speak the old names: `date_create`, `last_modified`, `custom_fields`, `enum`; contacts and companies share the
word `contacts`, tasks come under `task`.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from sandbox.state import SINGULAR, Account, Change, Record
from sandbox.webhooks_body import Item
from sandbox.webhooks_talks import catalog_element, message, note, talk, unsorted

Sent = Iterator[tuple[str, Item]]  # name of the subscription, and what is sent to those who have it

_ELEMENT_TYPES = {"contacts": 1, "leads": 2, "companies": 3, "customers": 12}


def items_of(change: Change, *, odd_notes: bool = False) -> Sent:
    """What a change sends, and to whose subscription.

    Args:
        change: The change.
        odd_notes: Give the `type` of a note a text and further keys at once.
    """
    if change.entity == "notes":
        yield from note(change, odd=odd_notes)
        return
    make = _MAKERS.get(change.entity)
    if make is not None:
        yield from make(change)


def _record(change: Change) -> Record:
    return change.after or change.before or {}


def _moved(change: Change, key: str) -> object:
    """The value of a key before the change, or None if it is the same."""
    if change.before is None or change.after is None or change.before.get(key) == change.after.get(key):
        return None
    return change.before.get(key)


def _present(content: Record) -> Record:
    """Without the keys that stand for "not sent"; see `WebhookSettings.empty_nulls` for those that are null."""
    return {key: value for key, value in content.items() if value is not _ABSENT}


_ABSENT = object()


def _given(value: object) -> object:
    return value or _ABSENT


def _lead(change: Change) -> Sent:
    record, old_status, old_pipeline = (
        _record(change),
        _moved(change, "status_id"),
        _moved(change, "pipeline_id"),
    )
    name = f"{change.action}_lead"
    if change.action == "delete":
        content = {key: record[key] for key in ("id", "status_id", "pipeline_id")}
        yield name, Item("leads", "delete", content)
        return
    content = {
        "id": record["id"],
        "name": "" if record["name"] == f"Lead #{record['id']}" else record["name"],
        "status_id": record["status_id"],
        "old_status_id": _given(old_status or (old_pipeline and record["status_id"])),
        "price": record["price"],
        "responsible_user_id": record["responsible_user_id"],
        "last_modified": record["updated_at"],
        "modified_user_id": record["updated_by"],
        "created_user_id": record["created_by"],
        "date_create": record["created_at"],
        "pipeline_id": record["pipeline_id"],
        "old_pipeline_id": _given(old_pipeline),
        "tags": _given(_tags(change.account, "leads", record)),
        "account_id": change.account.id,
        "custom_fields": _given(_fields(record)),
        "created_at": record["created_at"],
        "updated_at": record["updated_at"],
    }
    if change.action == "responsible":
        content["old_responsible_user_id"] = _moved(change, "responsible_user_id")
    yield name, Item("leads", change.action, _present(content))


def _person(change: Change) -> Sent:
    """Contacts and companies; a new responsible user arrives as `update` [D]."""
    record, kind = _record(change), SINGULAR[change.entity]
    if change.action == "delete":
        yield f"delete_{kind}", Item("contacts", "delete", {"id": record["id"], "type": kind})
        return
    company = change.account.entities["companies"].get(record["_company"] or 0)
    content = {
        "id": record["id"],
        "name": record["name"],
        "responsible_user_id": record["responsible_user_id"],
        "date_create": record["created_at"],
        "last_modified": record["updated_at"],
        "created_user_id": record["created_by"],
        "modified_user_id": record["updated_by"],
        "company_name": company["name"] if company else _ABSENT,
        "linked_company_id": company["id"] if company else _ABSENT,
        "account_id": change.account.id,
        "custom_fields": _given(_fields(record)),
        "tags": _given(_tags(change.account, change.entity, record)),
        "linked_leads_id": _given({lead: {"ID": lead} for lead in record["_leads"]}),
        "created_at": record["created_at"],
        "updated_at": record["updated_at"],
        "type": kind,
    }
    if change.action == "responsible":
        content["old_responsible_user_id"] = _moved(change, "responsible_user_id")
    action = "update" if change.action == "responsible" else change.action
    yield f"{change.action}_{kind}", Item("contacts", action, _present(content))


def _customer(change: Change) -> Sent:
    record = _record(change)
    if change.action == "delete":
        yield "delete_customer", Item("customers", "delete", {"id": record["id"]})
        return
    content = {
        "id": record["id"],
        "name": record["name"],
        "next_price": record.get("next_price"),
        "next_date": record.get("next_date"),
        "period_id": record.get("period_id"),
        "responsible_user_id": record["responsible_user_id"],
        "date_create": record["created_at"],
        "last_modified": record["updated_at"],
        "created_user_id": record["created_by"],
        "modified_user_id": record["updated_by"],
        "account_id": change.account.id,
        "custom_fields": _given(_fields(record)),
        "created_at": record["created_at"],
        "updated_at": record["updated_at"],
    }
    yield f"{change.action}_customer", Item("customers", change.action, _present(content))


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _task(change: Change) -> Sent:
    """Tasks under `task`; completed with a result, two hooks come [D]."""
    record, before = _record(change), change.before
    if change.action == "delete":
        yield "delete_task", Item("task", "delete", {"id": record["id"]})
        return
    content: Record = {
        "id": record["id"],
        "element_id": record["entity_id"] or 0,
        "element_type": _ELEMENT_TYPES.get(str(record["entity_type"]), 0),
        "task_type": record["task_type_id"],
        "date_create": _utc(record["created_at"]),
        "text": record["text"],
        "status": record["is_completed"],
        "account_id": change.account.id,
        "created_user_id": record["created_by"],
        "last_modified": _utc(record["updated_at"]),
        "responsible_user_id": record["responsible_user_id"],
        "complete_till": _utc(record["complete_till"]),
    }
    times = {
        "created_at": record["created_at"],
        "updated_at": record["updated_at"],
        "complete_before": record["complete_till"],
    }
    if change.action == "add" or before is None:
        yield "add_task", Item("task", "add", content | times)
        return
    closed = record["is_completed"] and not before["is_completed"]
    content |= {"action_close": closed, "old_text": before["text"]}
    if change.action == "responsible":
        content |= {
            "main_user": record["responsible_user_id"],
            "modified_by": record["updated_by"],
            "old_responsible_user_id": before["responsible_user_id"],
        }
        yield "responsible_task", Item("task", "update", content | times)
        return
    yield "update_task", Item("task", "update", content | times)
    if closed and record["result"]:
        result = {"result": {"id": record["id"], "text": record["result"]["text"]}}
        yield "update_task", Item("task", "update", content | result | times)


def _tags(account: Account, entity: str, record: Record) -> list[Record]:
    held = account.tags[entity]
    return [
        {"id": tag["id"], "name": tag["name"]}
        for tag_id in record["_tags"]
        if (tag := held.get(tag_id)) is not None
    ]


def _fields(record: Record) -> list[Record]:
    """Custom fields in the shape of the old API."""
    found = []
    for entry in record["custom_fields_values"] or ():
        shown = {"id": entry["field_id"], "name": entry["field_name"], "values": _values(entry)}
        found.append(shown | ({"code": entry["field_code"]} if entry.get("field_code") else {}))
    return found


def _values(entry: Record) -> object:
    """Dates as bare numbers, a radiobutton as one object, the rest as a list of objects [D, C]."""
    kind, values = entry["field_type"], entry["values"]
    if kind in {"date", "date_time"}:
        return [value["value"] for value in values]
    if kind == "birthday":
        return [
            {"value": datetime.fromtimestamp(value["value"], UTC).strftime("%d.%m.%Y")} for value in values
        ]
    shown = [_value(kind, value) for value in values]
    return shown[0] if kind == "radiobutton" and shown else shown


def _value(kind: str, value: Record) -> Record:
    if kind == "smart_address":
        return {"value": value["value"], "subtype": value["enum_code"]}
    if "value" not in value:
        return value
    return {"value": value["value"]} | ({"enum": value["enum_id"]} if value.get("enum_id") else {})


_MAKERS: dict[str, Callable[[Change], Sent]] = {
    "leads": _lead,
    "contacts": _person,
    "companies": _person,
    "customers": _customer,
    "tasks": _task,
    "messages": message,
    "talks": talk,
    "unsorted": unsorted,
    "elements": catalog_element,
}
