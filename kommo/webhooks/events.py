"""What a webhook says, in one shape for all kinds: which entity, what happened to it, when, and all the rest as it is.

Facts: kommo-api.md §6.3 (keys per event) and §6.5 (digital pipeline). The names of the keys are Kommo's own plural or
singular; here each kind has one name. What is not known keeps the name that it came with.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

_ENTITIES: Mapping[str, str] = MappingProxyType(
    {"task": "tasks", "message": "messages", "talk": "talks", "lead": "leads", "contact": "contacts"}
)
_IDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"talks": ("talk_id", "id"), "unsorted": ("uid", "id")}
)
_CHANGED = ("updated_at", "last_modified", "date_modify")
_TIMES = (*_CHANGED, "created_at", "date_create")
_UNWRAPPED = frozenset({"add", "update", "delete"})
_RESTORABLE = frozenset({"leads", "contacts", "companies", "customers"})
_LONGEST_NAME = 100
_LONGEST_ID = 200
_YEAR_2100 = 4_102_444_800
_DIGITS = 18
_LARGEST = 10**_DIGITS  # fits 64 bits


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """One change.

    Attributes:
        entity: What changed: `leads`, `contacts`, `companies`, `tasks`, `notes`, `messages`, `talks`, `unsorted`,
            `catalogs`, `customers`, or the name that it came with.
        action: What happened, in Kommo's word: `add`, `update`, `delete`, `restore`, `status`, `responsible`, …;
            a note is always `add`.
        entity_id: Its id as text (messages have a uuid, incoming leads a uid); empty if none was given.
        occurred_at: When it happened; None if the event has no time, as deletions have none.
        payload: Everything that was said about it.
        unique_key: The same for a delivery that is repeated, different for another change.
        parent: What a note stands at, such as `leads`.
    """

    entity: str
    action: str
    entity_id: str
    occurred_at: datetime | None
    payload: Mapping[str, Any] = field(repr=False)
    unique_key: str
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request of a webhook.

    Attributes:
        account_id: Kommo's id of the account; hooks of 2016 to 2018 had none [C].
        subdomain: The account's subdomain.
        self_link: The account's address; may be on another domain than the account's host [C].
        events: What it says, in its order.
        rest: The top-level parts that are no events, the block of the account among them.
    """

    account_id: int | None
    subdomain: str | None
    self_link: str | None = field(repr=False)
    events: tuple[WebhookEvent, ...]
    rest: Mapping[str, Any] = field(repr=False)


def events_of(
    data: Mapping[str, Any], once: Callable[[], str]
) -> tuple[tuple[WebhookEvent, ...], dict[str, Any]]:
    """The events of a body, and its parts that are none.

    Args:
        data: The whole body.
        once: What makes the key of an event without a time of its own unique: a deletion can truly happen twice.
    """
    events: list[WebhookEvent] = []
    rest: dict[str, Any] = {}
    for name, part in data.items():
        if name == "account" or len(name) > _LONGEST_NAME:
            rest[name] = part
        elif name in _UNWRAPPED and (items := _items(part)) is not None:
            # Kommo's newest documentation prints messages, and amoCRM's the review of templates, without a name.
            events += [_event(_unwrapped_kind(item), name, item, once) for item in items]
        elif isinstance(part, dict):
            left = {}
            for action, told in part.items():
                items = _items(told) if len(action) <= _LONGEST_NAME else None
                if items is None:
                    left[action] = told
                else:
                    events += [_event(name, action, item, once) for item in items]
            if left:
                rest[name] = left
        else:
            rest[name] = part
    return tuple(events), rest


def _items(told: object) -> list[dict[str, Any]] | None:
    """The items of an action: a list, a mapping by number, or one item by itself; None if there is none."""
    if isinstance(told, dict):
        told = list(told.values()) if all(map(_is_number, told)) else [told]
    if not isinstance(told, list) or not any(isinstance(item, dict) for item in told):
        return None
    return [item if isinstance(item, dict) else {"": item} for item in told]


def _unwrapped_kind(item: Mapping[str, Any]) -> str:
    if "chat_id" in item:
        return "messages"
    return "chat_template_reviews" if "reviews" in item else "unknown"


def _event(name: str, action: str, item: dict[str, Any], once: Callable[[], str]) -> WebhookEvent:
    entity, parent, inner = _ENTITIES.get(name, name), None, item
    if entity == "contacts" and item.get("type") == "company":
        entity = "companies"
    if action == "note":
        entity, parent, action = "notes", entity, "add"
        within = item.get("note")
        inner = within if isinstance(within, dict) else item
    entity_id = _id_of(entity, inner)
    occurred_at = _time_of(inner)
    told: list[object] = [entity, parent, action, entity_id]
    if not (entity == "messages" and action == "add" and entity_id):
        told.append(item)
        if not _has_its_own_time(entity, action, inner):
            told.append(once())
    key = hashlib.sha256(_canonical(told).encode()).hexdigest()
    return WebhookEvent(entity, action, entity_id, occurred_at, item, key, parent)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


def _id_of(entity: str, item: Mapping[str, Any]) -> str:
    for key in _IDS.get(entity, ("id", "uid")):
        value = item.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID:
            return value
    return ""


def _has_its_own_time(entity: str, action: str, item: Mapping[str, Any]) -> bool:
    """Whether the event says when it happened, so that the same once more is a repetition.

    Something can be deleted and restored again and again without being changed, and what is changed twice may say only
    when it was created: then the second time looks like the first one.
    """
    if entity in _RESTORABLE and action in {"delete", "restore"}:
        return False
    return _time_of(item, _TIMES if action in {"add", "delete"} else _CHANGED) is not None


def _time_of(item: Mapping[str, Any], keys: Sequence[str] = _TIMES) -> datetime | None:
    """The newest time that Kommo gives as a number; its texts (`2024-09-17 13:07:29`) name no time zone."""
    for key in keys:
        seconds = number(item.get(key))
        if seconds is not None and 0 < seconds < _YEAR_2100:
            return datetime.fromtimestamp(seconds, UTC)
    return None


def number(value: object) -> int | None:
    """A whole number, which forms give as text and JSON may give as itself."""
    if isinstance(value, str):
        value = int(value) if len(value) <= _DIGITS and _is_number(value) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _LARGEST else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
