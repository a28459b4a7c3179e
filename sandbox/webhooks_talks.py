"""Webhooks of what belongs to a record: notes, messages, talks, incoming leads, list elements (fact sheet 6.3)."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

from sandbox.state import SINGULAR, Change, Record
from sandbox.webhooks_body import Both, Item

Sent = Iterator[tuple[str, Item]]

_NOTE_TYPES = {
    "common": 4, "attachment": 5, "call_in": 10, "call_out": 11, "service_message": 25, "extended_service_message": 25,
    "sms_in": 102, "sms_out": 103,
}  # fmt: skip
_ELEMENT_TYPES = {"contacts": 1, "leads": 2, "companies": 3, "customers": 12}
_NOTES_ZONE = timezone(
    timedelta(hours=3)
)  # the published notes are written in Moscow's time, the tasks in UTC [D]


def note(change: Change, *, odd: bool) -> Sent:
    """A new note of a lead, contact, company or customer; one with a file comes twice [D]."""
    record = change.after
    if record is None or change.action != "add":
        return
    entity, params = record["_entity"], record["params"]
    author = change.account.users.get(change.user_id)
    source = {
        "event_source": {"id": change.user_id, "author_name": author["name"] if author else "", "type": 1}
    }
    content: Record = {
        "text": params["text"] if "text" in params else json.dumps(params, ensure_ascii=False),
        "attachement": params.get("file_name", ""),
        "date_create": _moscow(record["created_at"]),
        "note_type": _NOTE_TYPES.get(record["note_type"], 4),
        "element_type": _ELEMENT_TYPES[entity],
        "element_id": record["entity_id"],
        "catalog_id": 0,
        "group_id": record["group_id"],
        "timestamp_x": _moscow(record["updated_at"]),
        "account_id": change.account.id,
        "metadata": json.dumps(source, ensure_ascii=False, separators=(",", ":")),
        "created_by": record["created_by"],
        "modified_by": record["updated_by"],
        "main_user_id": record["responsible_user_id"],
        "id": record["id"],
        "created_at": record["created_at"],
        "updated_at": record["updated_at"],
    }
    if odd:
        content["type"] = Both("3", {"message_uuid": f"{record['id']:032x}"})
    word = "contacts" if entity == "companies" else entity
    shown = {"note": content} | ({"type": SINGULAR[entity]} if word == "contacts" else {})
    for _ in range(2 if record["note_type"] == "attachment" else 1):
        yield f"note_{SINGULAR[entity]}", Item(word, "note", shown)


def _moscow(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone(_NOTES_ZONE).strftime("%Y-%m-%d %H:%M:%S")


def message(change: Change) -> Sent:
    """A message in a talk; the four element keys are absent where the chat has no lead [C]."""
    record = change.after
    held = change.account.talks.get(record["_talk"]) if record is not None else None
    if record is None or held is None:
        return
    content: Record = {
        "id": record["id"],
        "chat_id": held["chat_id"],
        "talk_id": held["talk_id"],
        "contact_id": held["contact_id"],
        "text": record["text"],
        "created_at": record["created_at"],
    }
    if change.account.flavour == "kommo":  # since 2026-07-01 [D changelog]
        content["message_type"] = record["message_type"]
    if record.get("attachment"):
        content["attachment"] = record["attachment"]
    if held["entity_id"]:
        content |= {"element_type": 2, "entity_type": held["entity_type"]}
        content |= {"element_id": held["entity_id"], "entity_id": held["entity_id"]}
    author = {key: value for key, value in record["author"].items() if key != "avatar_url" or value}
    content |= {"type": record["type"], "author": author, "origin": record["origin"]}
    name = "add_outgoing_message" if record["type"] == "outgoing" else "add_message"
    yield name, Item("message", "add", content)


def talk(change: Change) -> Sent:
    """A talk that was opened, changed or closed."""
    record = change.after
    if record is None:
        return
    keys = (
        "talk_id",
        "created_at",
        "updated_at",
        "rate",
        "contact_id",
        "chat_id",
        "entity_id",
        "entity_type",
    )
    content = {key: record[key] for key in (*keys, "is_in_work", "is_read", "origin")}
    yield f"{change.action}_talk", Item("talk", change.action, content)


def unsorted(change: Change) -> Sent:
    """An incoming lead that came, changed, or was accepted or declined."""
    record, now = change.after or change.before or {}, change.moment
    if change.action == "delete":
        action = record.get("_action", "accept")
        content: Record = {
            "action": action,
            "uid": record["uid"],
            f"{action}_result": {"leads": list(record["_leads"])},
            "category": record["category"],
            "created_at": now,
            "modified_user_id": change.user_id,
        }
        yield "delete_unsorted", Item("unsorted", "delete", content)
        return
    form, made = record["metadata"], record["created_at"]
    title = record["source_name"]
    lead: Record = {
        "last_modified": made,
        "name": title,
        "pipeline_id": record["pipeline_id"],
        "modified_user_id": 0,
        "date_create": made,
        "visitor_uid": record["uid"][:36],
        "source_id": 36_504,
        "gso_session_uid": "null",
        "form_request_id": record["uid"][:10],
    }
    referer = form.get("form_page") or form.get("referer")
    if referer:
        lead["custom_fields"] = [{"id": 771_926, "code": "REFERRER", "values": [{"value": referer}]}]
    source = {
        "form_id": form.get("form_id", ""),
        "form_type": 1,
        "from": f"Site request #{form.get('form_id', '')} from form «{form.get('form_name', title)}»",
        "form_name": form.get("form_name", title),
        "origin": {"ip": form.get("ip", "192.0.2.1"), "datetime": made, "referer": referer or ""},
        "data": {
            "name_2": {
                "type": "text",
                "id": "name_2",
                "element_type": 2,
                "name": "Lead name",
                "value": title,
            }
        },
        "date": made,
    }
    content = {
        "uid": record["uid"],
        "category": record["category"],
        "source_data": source,
        "date_create": made,
        "data": {"leads": [lead]},
        "pipeline_id": record["pipeline_id"],
        "account_id": change.account.id,
        "request_id": 0,
        "source_id": 36_504,
        "lead_id": record["_leads"][0] if record["_leads"] else None,
        "created_at": made,
    }
    yield f"{change.action}_unsorted", Item("unsorted", change.action, content)


def catalog_element(change: Change) -> Sent:
    """An element of a list; subscribed in the UI only, so its name is none that the API takes [D]."""
    record = change.after or change.before or {}
    content: Record = {
        "id": record["id"],
        "date_create": record["created_at"],
        "date_modify": record["updated_at"],
        "created_by": record["created_by"],
        "modified_by": record["updated_by"],
        "catalog_id": record["catalog_id"],
        "name": record["name"],
        "deleted": change.action == "delete",
    }
    fields = [
        {
            "id": entry["field_id"],
            "name": entry["field_name"],
            "values": [
                {"value": value["value"]} | ({"enum": value["enum_id"]} if value.get("enum_id") else {})
                for value in entry["values"]
            ],
        }
        | ({"code": entry["field_code"]} if entry.get("field_code") else {})
        for entry in record["custom_fields_values"] or ()
    ]
    content |= {"custom_fields": fields} if fields else {}
    times = {"created_at": record["created_at"], "updated_at": record["updated_at"], "type": "catalog"}
    yield "lists", Item("catalogs", change.action, content | times)
