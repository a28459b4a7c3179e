"""What the mirror knows of a record, as values and as the columns of its table."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import BigInteger

from store.digest import digest_of, without_links
from store.types import CleanText, PlainJSON, UTCDateTime, WrittenJSON, clean_text, dump_json


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record as the API gave it.

    Attributes:
        record_id: Kommo's id, or the number that stands for a key that is a text (`number_of_key`).
        name: its name; a task's or a note's text.
        responsible_user_id: whose it is.
        status_id: a lead's stage.
        pipeline_id: a lead's pipeline.
        created_at: Kommo's clock.
        updated_at: Kommo's clock.
        raw: the JSON.
        read_at: when it was asked for, by our clock.
        price: a lead's.
        closed_at: when a lead was closed; Kommo's clock.
        parent_entity: what a task, a note, an event or a list's element belongs to.
        parent_id: its id.
        type: which sort of note, event or task it is.
        key: Kommo's own key where it is a text.
    """

    record_id: int
    name: str | None
    responsible_user_id: int | None
    status_id: int | None
    pipeline_id: int | None
    created_at: datetime | None
    updated_at: datetime | None
    raw: Mapping[str, Any] = field(repr=False)
    read_at: datetime
    price: int | None = None
    closed_at: datetime | None = None
    parent_entity: str | None = None
    parent_id: int | None = None
    type: str | None = None
    key: str | None = None


COLUMNS = {
    "record_id": BigInteger,
    "name": CleanText,
    "responsible_user_id": BigInteger,
    "status_id": BigInteger,
    "pipeline_id": BigInteger,
    "created_at": UTCDateTime,
    "updated_at": UTCDateTime,
    "raw": PlainJSON,
    "digest": CleanText,
    "read_at": UTCDateTime,
    "price": BigInteger,
    "closed_at": UTCDateTime,
    "parent_entity": CleanText,
    "parent_id": BigInteger,
    "type": CleanText,
    "key": CleanText,
    "clean": PlainJSON,
}
"""What a row takes from a record."""


def values_of(one: NewRecord, digest: str) -> tuple[Any, ...]:
    """A record in the order of `COLUMNS`."""
    raw, clean = _written(one.raw)
    return (
        one.record_id,
        one.name,
        one.responsible_user_id,
        one.status_id,
        one.pipeline_id,
        one.created_at,
        one.updated_at,
        raw,
        digest,
        one.read_at,
        one.price,
        one.closed_at,
        one.parent_entity,
        one.parent_id,
        one.type,
        one.key,
        clean,
    )


def number_of_key(key: str) -> int:
    """The number that stands for a key that is a text: 62 bits of its SHA-256.

    Among ten million keys two meet with a chance of one in a hundred thousand; then the later one takes the row.
    """
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 2


def digest_of_record(one: NewRecord) -> str:
    """What makes two readings of a record the same: the content, whatever the order of keys, without links."""
    columns = {
        "name": one.name,
        "responsible_user_id": one.responsible_user_id,
        "status_id": one.status_id,
        "pipeline_id": one.pipeline_id,
    }
    try:
        text = orjson.dumps([columns, _content(one.raw)], option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half a surrogate pair, or a number of more than 64 bits
        return digest_of(columns, one.raw)
    return hashlib.sha256(text).hexdigest()


def _content(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A record without links: HAL has them beside the keys and in `_embedded`, not among custom fields."""
    return {
        key: without_links(value) if key == "_embedded" else value
        for key, value in raw.items()
        if key != "_links"
    }


def _written(raw: Mapping[str, Any]) -> tuple[WrittenJSON, WrittenJSON | None]:
    """The JSON as it was, and without what SQL cannot read if it has any of that."""
    try:
        text = orjson.dumps(raw).decode()
    except TypeError:
        return WrittenJSON(dump_json(raw)), WrittenJSON(dump_json(_cleaned(raw)))
    return WrittenJSON(text), WrittenJSON(dump_json(_cleaned(raw))) if "\\u0000" in text else None


def _cleaned(value: Any) -> Any:  # noqa: ANN401  any JSON
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(key): _cleaned(inner) for key, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value
