"""Small deliveries and records for the tests, and the shortest way to save them."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from store.inbox import NewDelivery, NewEvent, Saved, save_deliveries
from store.mirror import NewRecord
from tests.store.builders import START


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def change(key: str, entity_id: str = "1", **more: Any) -> NewEvent:
    """An event with this unique key."""
    values: dict[str, Any] = {
        "entity": "leads",
        "action": "update",
        "entity_id": entity_id,
        "parent": None,
        "occurred_at": START,
        "unique_key": key,
        "payload": {"id": entity_id, "key": key},
    }
    return NewEvent(**(values | more))


def delivery(*events: NewEvent, org: str = "acme", at: float = 0.0, **more: Any) -> NewDelivery:
    """A delivery of these events, received so many seconds after the start of the tests' time."""
    values: dict[str, Any] = {
        "delivery_id": uuid.uuid4().hex,
        "org": org,
        "account_id": 31234567,
        "door": "key",
        "received_at": moment(at),
        "content_type": "application/x-www-form-urlencoded",
        "headers": {"user-agent": "amoCRM-Webhooks/3.0"},
        "request_id": None,
        "body": b"leads%5Badd%5D",
        "events": events,
        "reason": None,
    }
    return NewDelivery(**(values | more))


async def arrive(db: Any, *keys: str, org: str = "acme", at: float = 0.0, **more: Any) -> Saved:
    """One delivery with an event for each key."""
    (saved,) = await save_deliveries(db, [delivery(*(change(key, **more) for key in keys), org=org, at=at)])
    return saved


def record(number: int, updated: float | None = 0.0, read: float = 0.0, **more: Any) -> NewRecord:
    """A lead that was changed, and read, so many seconds after the start of the tests' time."""
    values: dict[str, Any] = {
        "record_id": number,
        "name": "Deal",
        "responsible_user_id": 7,
        "status_id": 1,
        "pipeline_id": 2,
        "created_at": START,
        "updated_at": None if updated is None else moment(updated),
        "read_at": moment(read),
    } | more
    values.setdefault("raw", {"id": number, "name": values["name"], "status_id": values["status_id"]})
    return NewRecord(**values)
