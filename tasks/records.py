"""From Kommo's records to the rows of the mirror: the typed columns beside the raw object (S2)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from store.mirror_rows import NewRecord, number_of_key

_NUMBERS = ("responsible_user_id", "status_id", "pipeline_id")
_TYPES = ("task_type_id", "note_type", "type", "category", "origin")
_PLURALS = {
    "lead": "leads",
    "contact": "contacts",
    "company": "companies",
    "task": "tasks",
    "customer": "customers",
}
_LATEST = 253_402_300_799
"""The last second that a datetime can hold."""


def new_record(
    raw: Mapping[str, Any],
    *,
    read_at: datetime,
    id_key: str = "id",
    parent: tuple[str, int] | None = None,
) -> NewRecord:
    """The row of a record of any kind.

    Args:
        raw: The object as the API gave it.
        read_at: When it was asked for.
        id_key: The key that tells it from the others; its value may be a text.
        parent: What it belongs to, where the object does not say so itself.

    Raises:
        ValueError: Kommo gave something under a key that is not as documented; names the key, never the value.
    """
    key: str | None = None
    given = raw.get(id_key)
    if isinstance(given, str) and given:
        key, record_id = given, number_of_key(given)
    else:
        number = _number(raw, id_key)
        if number is None:
            raise ValueError("Kommo's answer holds an object without an id.")
        record_id = number
    name = raw.get("name", raw.get("text"))  # a task has a text instead
    parent_entity, parent_id = parent or _parent(raw)
    return NewRecord(
        record_id=record_id,
        name=name if isinstance(name, str) else None,
        **{key: _number(raw, key) for key in _NUMBERS},
        created_at=_moment(raw, "created_at"),
        updated_at=_moment(raw, "updated_at"),
        raw=raw,
        read_at=read_at,
        price=_whole(raw.get("price")),
        closed_at=_closed(raw),
        parent_entity=parent_entity,
        parent_id=parent_id,
        type=_type(raw),
        key=key,
    )


def note_parent(entity: str, item: Mapping[str, Any]) -> tuple[str, int] | None:
    """What a note of this entity's belongs to: unlike other kinds it names its id only [D §3.9]."""
    number = item.get("entity_id")
    return (entity, number) if isinstance(number, int) and not isinstance(number, bool) else None


def _parent(raw: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Tasks name what they belong to in the plural, events and talks in the singular [D §3.8, §3.10, §3.15]."""
    entity = raw.get("entity_type")
    if not isinstance(entity, str):
        return None, _whole(raw.get("entity_id"))
    return _PLURALS.get(entity, entity), _whole(raw.get("entity_id"))


def _closed(raw: Mapping[str, Any]) -> datetime | None:
    seconds = _whole(raw.get("closed_at"))
    return datetime.fromtimestamp(seconds, UTC) if seconds and 0 < seconds <= _LATEST else None


def _type(raw: Mapping[str, Any]) -> str | None:
    for key in _TYPES:
        value = raw.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return None


def _whole(value: object) -> int | None:
    """A number that is nothing but shown: what is no whole number is left to the JSON."""
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if isinstance(value, int) and fits else None


def _number(raw: Mapping[str, Any], key: str) -> int | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise ValueError(f"Kommo's answer cannot be read: {key} is not a whole number.")


def _moment(raw: Mapping[str, Any], key: str) -> datetime | None:
    """Unix seconds; 0 and null both mean that it never was [D §2.7]."""
    seconds = _number(raw, key)
    if not seconds:
        return None
    if not 0 < seconds <= _LATEST:
        raise ValueError(f"Kommo's answer cannot be read: {key} is no time.")
    return datetime.fromtimestamp(seconds, UTC)
