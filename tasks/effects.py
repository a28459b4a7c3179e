"""What webhook events come to: which outbox events are written, and what is noted at each event. Pure.

The rules, so that each event of the inbox takes effect exactly once (W2):

- Every event is told, under an id that is made from its own, so that the same event is never told twice. Several
  updates of one entity that are worked together are one `updated`: what is told is the record as it is now.
- A creation is told once in the life of an entity, whoever noticed it: a webhook, a stage's automation (which says
  `add` when a lead comes into its stage, kommo-api.md §6.5) or a reconciliation.
- Deleted, restored and missing are told when the state of the mirror changes, because only the API knows what is true:
  a deletion of something that is still there is none, and one that is known already is not told again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from store.inbox import StoredEvent
from store.mirror import Change, ChangeKind
from store.outbox import OutboxEvent
from tasks.event_types import CHANGES, NOUNS, READ, told_type, type_of

# A number that JSON readers everywhere keep exactly.
_LARGEST = 2**53
_FACTS = (
    "status_id",
    "old_status_id",
    "pipeline_id",
    "old_pipeline_id",
    "responsible_user_id",
    "old_responsible_user_id",
    "modified_user_id",
)

_CHANGED: Mapping[str, tuple[str, ...]] = {
    "status_changed": ("status_id", "pipeline_id"),
    "responsible_changed": ("responsible_user_id",),
}

STILL_THERE = "nothing: it is still there"
KNOWN_GONE = "nothing: known already"
KNOWN_THERE = "nothing: it was there already"
NOT_THERE = "nothing: it is not there"


class Gone(StrEnum):
    """What the mirror says of something that the API does not give."""

    DELETED = "deleted"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Present:
    """The API gave it.

    Attributes:
        record: The object as the API gave it.
        change: What that was for the mirror.
    """

    record: Mapping[str, Any]
    change: Change


@dataclass(frozen=True, slots=True)
class Absent:
    """The API was asked and did not give it.

    Attributes:
        state: What it is called now.
        changed: Whether the mirror said otherwise before.
    """

    state: Gone
    changed: bool


Found = Present | Absent | None
"""What was found of an entity; None for those that are not read."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What the events of one entity come to.

    Attributes:
        told: Each with the event of the inbox that it came from.
        outcomes: For each event of the inbox what it came to, in words.
    """

    told: tuple[tuple[StoredEvent, OutboxEvent], ...]
    outcomes: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Whose events they are: the org and its account."""

    org: str
    account_id: int | None


def effects_of(source: Source, events: Sequence[StoredEvent], found: Found) -> Effects:
    """What the events of one entity come to.

    Args:
        source: The org and its account.
        events: All of one entity, oldest first.
        found: What the API said of it, None if it was not asked.
    """
    return _Telling(source, events, found).all()


def gone_state(events: Sequence[StoredEvent]) -> Gone:
    """What something is that the API does not give: deleted, if a webhook says so."""
    return Gone.DELETED if any(event.action == "delete" for event in events) else Gone.MISSING


class _Telling:
    """Goes through the events of one entity once."""

    def __init__(self, source: Source, events: Sequence[StoredEvent], found: Found) -> None:
        self._source = source
        self._events = events
        self._found = found
        self._told: list[tuple[StoredEvent, OutboxEvent]] = []
        self._outcomes: list[tuple[int, str]] = []
        self._updates = [event.id for event in events if event.entity in READ and event.action == "update"]

    def all(self) -> Effects:
        for event in self._events:
            self._outcomes.append((event.id, self._one(event)))
        self._by_state()
        return Effects(tuple(self._told), tuple(self._outcomes))

    def _one(self, event: StoredEvent) -> str:
        told = told_type(event.entity, event.action, event.payload)
        if event.entity in READ and event.action in {"delete", "restore"}:
            return self._deleted(event, told) if event.action == "delete" else self._restored(event, told)
        if event.entity in READ and event.action == "update":
            # The last one stands for all of them: its time is the newest.
            if event.id == self._updates[-1]:
                self._tell(event, told, self._updates)
            return self._more(event, told)
        self._tell(event, told)
        return told

    def _more(self, event: StoredEvent, told: str) -> str:
        """What an update says besides: for contacts, companies and tasks there is no webhook of its own [D §6.3]."""
        noun = NOUNS[event.entity]
        also = []
        new, old = event.payload.get("responsible_user_id"), event.payload.get("old_responsible_user_id")
        if event.entity != "leads" and old and str(old) != str(new):
            also.append(type_of(noun, "responsible_changed"))
        completed = type_of(noun, "completed")
        # A result that is written at the closing comes as an update of its own, which says `action_close` again.
        closed = event.entity == "tasks" and str(event.payload.get("action_close", "")) == "1"
        if closed and not self._has(completed):
            also.append(completed)
        for name in also:
            self._tell(event, name)
        return ", ".join([told, *also])

    def _deleted(self, event: StoredEvent, told: str) -> str:
        if isinstance(self._found, Present):
            return STILL_THERE
        if isinstance(self._found, Absent) and self._found.changed and not self._has(told):
            self._tell(event, told)
            return told
        return KNOWN_GONE

    def _restored(self, event: StoredEvent, told: str) -> str:
        if not isinstance(self._found, Present):
            return NOT_THERE
        if self._found.change.kind not in {ChangeKind.CREATED, ChangeKind.RESTORED} or self._has(told):
            return KNOWN_THERE
        self._tell(event, told)
        return told

    def _by_state(self) -> None:
        """What no event says, but the mirror and the API together do."""
        last, found = self._events[-1], self._found
        if isinstance(found, Present):
            back = type_of(NOUNS[last.entity], "restored")
            if found.change.kind is ChangeKind.RESTORED and not self._has(back):
                self._tell(last, back)
        elif isinstance(found, Absent) and found.changed and found.state is Gone.MISSING:
            self._tell(last, type_of(NOUNS[last.entity], Gone.MISSING))

    def _has(self, told: str) -> bool:
        return any(event.type == told for _, event in self._told)

    def _tell(self, event: StoredEvent, told: str, event_ids: Sequence[int] | None = None) -> None:
        payload = self._payload(event, told, event_ids or [event.id])
        event_id = (
            created_id(self._source, event.entity, event.entity_id)
            if told.endswith(".created") and event.entity in READ
            else _id(self._source.org, "event", event.id, told)
        )
        self._told.append((event, OutboxEvent(told, self._source.org, _subject(event), payload, event_id)))

    def _payload(self, event: StoredEvent, told: str, event_ids: Sequence[int]) -> dict[str, Any]:
        payload: dict[str, Any] = {
            **_head(self._source, event.entity, event.entity_id),
            "action": event.action,
            "occurred_at": _text(event.occurred_at),
            "event_ids": list(event_ids),
            "source": "webhook",
        }
        if event.parent is not None:
            payload["parent"] = event.parent
        payload |= _facts(event.payload)
        if isinstance(self._found, Present):
            payload |= _old_facts(told, payload, self._found.change)
            payload["record"] = self._found.record
        if not isinstance(self._found, Present) or event.action not in CHANGES:
            payload["data"] = event.payload
        return payload


def effects_of_repair(
    source: Source, entity: str, record_id: int, found: Present | Absent, *, read_at: datetime
) -> list[OutboxEvent]:
    """What is told of a change that no webhook brought and a reconciliation found.

    Args:
        source: The org and its account.
        entity: Our word for the entity.
        record_id: Kommo's id.
        found: What the API said of it, and what that was for the mirror.
        read_at: When it was read: it stands in the ids, so that one repair is told once.
    """
    noun = NOUNS[entity]
    head = _head(source, entity, str(record_id)) | {"action": None, "event_ids": [], "source": "reconcile"}
    if isinstance(found, Absent):
        verbs = [found.state.value] if found.changed else []
        head |= {"occurred_at": None, "data": {}}
    else:
        verbs = _verbs_of(found.change)
        head |= {"occurred_at": _text(found.change.after.updated_at)}
    told = []
    for verb in verbs:
        payload = dict(head)
        if isinstance(found, Present):
            after = found.change.after
            payload |= {
                name: value
                for name in ("status_id", "pipeline_id", "responsible_user_id")
                if (value := getattr(after, name)) is not None
            }
            payload |= _old_facts(type_of(noun, verb), payload, found.change)
            payload["record"] = found.record
        event_id = (
            created_id(source, entity, str(record_id))
            if verb == "created"
            else _id(source.org, "repair", entity, record_id, verb, read_at.isoformat())
        )
        told.append(OutboxEvent(type_of(noun, verb), source.org, f"{noun}:{record_id}", payload, event_id))
    return told


def created_id(source: Source, entity: str, entity_id: str) -> str:
    """The outbox id of an entity's creation: the same whoever tells it, because it happens once."""
    return _id(source.org, source.account_id, entity, entity_id, "created")


def _verbs_of(change: Change) -> list[str]:
    """What the difference of the mirror before and after says."""
    before, after = change.before, change.after
    if before is None:
        return ["created"]
    if change.kind is ChangeKind.RESTORED:
        return ["restored"]
    if change.kind is not ChangeKind.UPDATED:
        return []
    verbs = ["updated"]
    if (before.pipeline_id, before.status_id) != (after.pipeline_id, after.status_id):
        verbs.append("status_changed")
    if before.responsible_user_id != after.responsible_user_id:
        verbs.append("responsible_changed")
    return verbs


def _head(source: Source, entity: str, entity_id: str) -> dict[str, Any]:
    return {
        "org": source.org,
        "account_id": source.account_id,
        "entity": entity,
        "id": _number_or_text(entity_id),
    }


def _facts(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Ids that the webhook names, as numbers; what it does not name is not there."""
    return {
        name: number for name in _FACTS if name in payload and (number := _number(payload[name])) is not None
    }


def _old_facts(told: str, payload: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """What the value was before, from the mirror, where the webhook does not say it."""
    before = change.before
    if before is None:
        return {}
    verb = told.rpartition(".")[2]
    if verb == "restored":
        return {"old_state": before.state}
    names = _CHANGED.get(verb, ())
    # A mirror that has the new value already was written for another event of the same change: it knows no old one.
    if all(getattr(before, name) == payload.get(name) for name in names):
        return {}
    known = {f"old_{name}": getattr(before, name) for name in names}
    if known.keys() & payload.keys():
        return {}  # the webhook knows better: it tells of this one step
    return {name: value for name, value in known.items() if value is not None}


def _subject(event: StoredEvent) -> str:
    """What keeps its order on the way to the product: messages that of their chat, the rest that of the entity."""
    if event.entity == "messages" and (chat := event.payload.get("chat_id")):
        return f"chat:{chat}"
    return f"{NOUNS.get(event.entity, event.entity)}:{event.entity_id}"


def _number(value: object) -> int | None:
    """A number of a webhook, which is text there; None for what is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    return None


def _number_or_text(text: str) -> int | str:
    number = _number(text)
    return text if number is None or number >= _LARGEST else number


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _id(*parts: object) -> str:
    text = "/".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
