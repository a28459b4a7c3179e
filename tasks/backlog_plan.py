"""What is to be done with the events that a turn gave: together per entity, and which are worth a request now. Pure.

All events of one entity are worked together, so that a flood of changes to one lead is one reading of it. A request
carries up to 250 ids, whatever it costs to send; so while more events wait behind these, a kind with fewer ids than
that waits for them, a few turns at most.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from store.inbox import StoredEvent
from tasks.event_types import READ

CHUNK = 250
"""Ids in one request: the largest page that Kommo allows [D kommo-api.md §2.5]."""
# SQL's largest; Kommo's ids have nine digits today.
_LARGEST_ID = 2**63 - 1
_NO_FIELDS = "The event is not made of fields, as all of Kommo's are."


@dataclass(frozen=True, slots=True)
class Group:
    """The pending events of one entity, oldest first."""

    entity: str
    entity_id: str
    events: tuple[StoredEvent, ...]

    @property
    def record_id(self) -> int:
        """Kommo's id as a number; only of a group that is read."""
        return int(self.entity_id)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with a turn's events.

    Attributes:
        plain: Groups that need no reading, in the order of their first events.
        read: For each entity the groups to be read.
        unfit: Groups that nobody can read, each with the reason.
        held_back: How many groups wait for more to come.
    """

    plain: list[Group] = field(default_factory=list)
    read: dict[str, list[Group]] = field(default_factory=dict)
    unfit: list[tuple[Group, str]] = field(default_factory=list)
    held_back: int = 0


def plan(events: Sequence[StoredEvent], *, more: bool) -> Plan:
    """Put a turn's events in order.

    Args:
        events: As the store gave them, oldest first.
        more: Others wait behind them, so that it is worth filling the requests.
    """
    made, held_back = Plan(), 0
    for event in events:
        if not isinstance(event.payload, Mapping):
            made.unfit.append((Group(event.entity, event.entity_id, (event,)), _NO_FIELDS))
    for group in _grouped(event for event in events if isinstance(event.payload, Mapping)):
        if group.entity not in READ:
            made.plain.append(group)
        elif reason := _unfit(group.entity_id):
            made.unfit.append((group, reason))
        else:
            made.read.setdefault(group.entity, []).append(group)
    full = {entity: len(groups) - len(groups) % CHUNK for entity, groups in made.read.items()}
    if more and (made.plain or made.unfit or any(full.values())):
        held_back = sum(len(groups) - full[entity] for entity, groups in made.read.items())
        read = {entity: groups[: full[entity]] for entity, groups in made.read.items() if full[entity]}
        return Plan(made.plain, read, made.unfit, held_back)
    return made


def chunks(groups: Sequence[Group], size: int) -> Iterable[list[Group]]:
    """Groups in lists of at most so many."""
    for start in range(0, len(groups), size):
        yield list(groups[start : start + size])


def batches(groups: Iterable[Group], events: int) -> Iterable[list[Group]]:
    """Groups in lists of at most about so many events: what is written in one transaction."""
    batch: list[Group] = []
    count = 0
    for group in groups:
        if batch and count + len(group.events) > events:
            yield batch
            batch, count = [], 0
        batch.append(group)
        count += len(group.events)
    if batch:
        yield batch


def _grouped(events: Iterable[StoredEvent]) -> list[Group]:
    found: dict[tuple[str, str], list[StoredEvent]] = {}
    for event in events:
        found.setdefault((event.entity, event.entity_id), []).append(event)
    return [Group(entity, entity_id, tuple(group)) for (entity, entity_id), group in found.items()]


def _unfit(entity_id: str) -> str | None:
    if not entity_id:
        return "The event names no id, so nothing can be read or told of it."
    if entity_id.isascii() and entity_id.isdigit() and 0 < int(entity_id) <= _LARGEST_ID:
        return None
    return "The id in the event is not one that Kommo gives; the event may be forged."
