"""From Kommo's records to the rows of the mirror: the typed columns beside the raw object (S2)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from store.mirror import NewRecord

_NUMBERS = ("responsible_user_id", "status_id", "pipeline_id")
_LATEST = 253_402_300_799
"""The last second that a datetime can hold."""


def new_record(raw: Mapping[str, Any], *, read_at: datetime) -> NewRecord:
    """The row of a lead, contact, company or task.

    Args:
        raw: The object as the API gave it.
        read_at: When it was asked for.

    Raises:
        ValueError: Kommo gave something under a key that is not as documented; names the key, never the value.
    """
    record_id = _number(raw, "id")
    if record_id is None:
        raise ValueError("Kommo's answer holds an object without an id.")
    name = raw.get("name", raw.get("text"))  # a task has a text instead
    return NewRecord(
        record_id=record_id,
        name=name if isinstance(name, str) else None,
        **{key: _number(raw, key) for key in _NUMBERS},
        created_at=_moment(raw, "created_at"),
        updated_at=_moment(raw, "updated_at"),
        raw=raw,
        read_at=read_at,
    )


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
