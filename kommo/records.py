"""Reading records by their ids, and those that changed since a moment: what webhooks lead to and are checked with.

Facts: kommo-api.md §2.6 (filters; unknown ones are ignored without a word, and amoCRM sells them by account), §2.5
(at most 250 a page, pages shift while records change), §2.3 (big requests break: shrink and repeat), §3.10 (events).
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any

from kommo.catalogue import CATALOGUE, Resource
from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError
from kommo.paging import walk

Record = dict[str, Any]

MOST_IDS = 250
"""Ids in one request [D K/limitations]."""
ENTITIES = frozenset({"leads", "contacts", "companies", "tasks"})
"""The kinds of records that are kept here."""

_BY_CHANGE = frozenset(
    {"leads", "contacts", "companies"}
)  # which lists can be ordered by updated_at [D §2.6]
_SHRINK = frozenset({ErrorKind.GATEWAY, ErrorKind.TOO_LARGE, ErrorKind.LIMIT})
_URI_TOO_LONG = 414


async def read_by_ids(client: KommoClient, entity: str, ids: Iterable[int]) -> dict[int, Record]:
    """Read records by their ids, as many in one request as Kommo allows.

    Where a request is too much for Kommo, its halves are asked for. Where Kommo ignores the filter, so that it answers
    with others, the records are read one by one: who takes a list of others for the answer believes them all deleted.

    Args:
        client: The account's client; its lane says how urgent it is.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        ids: Which ones.

    Returns:
        Those that are there, by id; a deleted one is not.

    Raises:
        KommoError: They could not be read.
    """
    resource = _resource(entity)
    wanted = sorted(set(ids))
    found: dict[int, Record] = {}
    for start in range(0, len(wanted), MOST_IDS):
        found |= await _chunk(client, resource, wanted[start : start + MOST_IDS])
    return {key: record for key, record in found.items() if not record.get("is_deleted")}


async def read_changed(client: KommoClient, entity: str, since: datetime) -> AsyncIterator[list[Record]]:
    """Read the records that changed at a moment or later, the oldest change first where Kommo can order so.

    A record that changes while this reads moves to the end and everything behind it moves up, past the border of a page
    that is still to come. So it does not go from page to page: it asks anew from the last moment that it has seen. A
    record that changes meanwhile may come a second time, with its newer state.

    Args:
        client: The account's client.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        since: The moment, aware.

    Yields:
        Pages.

    Raises:
        KommoError: They could not be read.
    """
    resource = _resource(entity)
    moment = int(since.timestamp())
    if entity not in _BY_CHANGE:
        # By id: what changes meanwhile pushes the others behind, so that one may come twice, and none gets lost.
        async for items in client.iterate(entity, _from("updated_at", moment)):
            yield items
        return
    resource = replace(resource, order=("updated_at", "asc"))
    seen: set[tuple[int, int]] = set()
    goes_on = True
    while goes_on:
        goes_on = False
        async with aclosing(walk(client.get, resource, _from("updated_at", moment))) as pages:
            async for page in pages:
                states = [_state(resource, item) for item in page.items]
                fresh = [item for state, item in zip(states, page.items, strict=True) if state not in seen]
                if fresh:
                    yield fresh
                last = states[-1][1] if states else moment
                ascending = [changed for _, changed in states] == sorted(changed for _, changed in states)
                if ascending and last > moment and len(states) >= resource.page_size:
                    seen = {state for state in states if state[1] == last}
                    moment, goes_on = last, True
                    break
                seen.update(states)


async def read_events(
    client: KommoClient, since: datetime, types: Collection[str]
) -> AsyncIterator[list[Record]]:
    """Read what Kommo's own record of events has of some types, from a moment on.

    Args:
        client: The account's client.
        since: The moment, aware.
        types: Such as `lead_deleted`.

    Yields:
        Pages, the newest first.

    Raises:
        KommoError: They could not be read.
    """
    query = [*(("filter[type][]", name) for name in types), *_from("created_at", int(since.timestamp()))]
    async for items in client.iterate("events", query):
        yield items


async def _chunk(client: KommoClient, resource: Resource, ids: Sequence[int]) -> dict[int, Record]:
    query = [("filter[id][]", str(number)) for number in ids]
    found: dict[int, Record] = {}
    wanted = set(ids)
    try:
        async with aclosing(walk(client.get, resource, query)) as pages:
            async for page in pages:
                got = {_id(resource, item): item for item in page.items}
                if not got.keys() <= wanted:
                    return await _one_by_one(client, resource, ids)
                found |= got
    except KommoError as error:
        if len(ids) == 1 or (error.kind not in _SHRINK and error.status != _URI_TOO_LONG):
            raise
        middle = len(ids) // 2
    else:
        return found
    return {
        **await _chunk(client, resource, ids[:middle]),
        **await _chunk(client, resource, ids[middle:]),
    }


async def _one_by_one(client: KommoClient, resource: Resource, ids: Sequence[int]) -> dict[int, Record]:
    """Single records; an unknown one is 204, and where that is not known 404 [D §2.2]."""
    query = [("with", ",".join(resource.with_))] if resource.with_ else []
    found: dict[int, Record] = {}
    for number in ids:
        try:
            answer = await client.get(f"{resource.path}/{number}", query)
        except KommoError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                continue
            raise
        if answer.data is None:
            continue
        if not isinstance(answer.data, dict) or _id(resource, answer.data) != number:
            raise _malformed(resource, "a record was asked for and another one came")
        found[number] = answer.data
    return found


def _resource(entity: str) -> Resource:
    if entity not in ENTITIES:
        raise ValueError(f"Records are {', '.join(sorted(ENTITIES))}; nothing else is read by its id.")
    return CATALOGUE[entity]


def _from(key: str, moment: int) -> list[tuple[str, str]]:
    return [(f"filter[{key}][from]", str(moment))]


def _id(resource: Resource, item: Record) -> int:
    number = item.get("id")
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise _malformed(resource, "an item has no id")


def _state(resource: Resource, item: Record) -> tuple[int, int]:
    changed = item.get("updated_at")
    if isinstance(changed, int) and not isinstance(changed, bool):
        return _id(resource, item), changed
    raise _malformed(resource, "an item does not say when it changed")


def _malformed(resource: Resource, detail: str) -> KommoError:
    return KommoError(ErrorKind.MALFORMED, method="GET", path=resource.path, detail=detail)
