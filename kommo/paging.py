"""Reading a list page by page: no loss, no double, no endless loop, and the token stays at home.

Facts: kommo-api.md §2.5: ``_links.next`` leads on and may stand on ``http://`` or on another host, so only
its path and query are used (R4); 204 ends a list wherever it comes; pages shift while records change; some
lists say how many items there are.

What can be promised (S4). A list with totals is proved whole: as many distinct items were read as Kommo
counts, and the count held still. If not, it is read again. A list without totals is read again when an item
came twice, because then something moved. What cannot be seen is an item that is deleted from a page already
read while a list *without totals* is being read: everything behind it moves up, and the one at the border is
skipped. Ordering by id does not prevent it. Who needs certainty there (records, not configuration) must
compare with a later reading, webhooks or events.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kommo.answers import Answer
from kommo.catalogue import Resource
from kommo.errors import ErrorKind, KommoError
from kommo.readahead import Fetch, Query, ReadAhead

Item = dict[str, Any]

MOST_PAGES = 20_000
"""Pages after which a list counts as endless; five million items at 250 a page."""
PASSES = 5
"""How often a list that changes under our eyes is read before giving up."""
_STALE_PAGES = 3  # pages in a row without anything new: the server ignores ``page``
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its items and, if Kommo says so, how many there are in all."""

    items: list[Item]
    total: int | None = None


async def walk(fetch: Fetch, resource: Resource, params: Query = ()) -> AsyncGenerator[Page, None]:
    """Read the pages as they come, doubles and all.

    Args:
        fetch: Reads one path with a query.
        resource: Which list.
        params: More of the query; a name that the resource sets itself is replaced.

    Raises:
        KommoError: ``endless_listing`` or ``malformed``, and whatever ``fetch`` raises.
    """
    given = {name for name, _ in params}
    first = [*((name, value) for name, value in resource.params() if name not in given), *params]
    ahead = ReadAhead(fetch)
    try:
        path: str = resource.path
        query: Query = first
        seen: set[int] = set()
        while (place := hash((path, tuple(sorted(query))))) not in seen and len(seen) < MOST_PAGES:
            seen.add(place)
            try:
                answer = await ahead.fetch(path, query)
            except KommoError as error:
                absent = error.status in resource.absent_statuses and error.kind is not ErrorKind.IP_BLOCKED
                if absent and len(seen) == 1:
                    return
                raise
            page = _page(answer, resource)
            if len(seen) == 1 and resource.paged and page.total is not None:
                ahead.expect(path, first, page.total)
            yield page
            following = _next(answer, resource)
            if following is None:
                return
            path, query = following
            # The rest of our query is added where the link has dropped it: a lost filter would widen the list.
            kept = {_plain(name) for name, _ in query}
            query = [*query, *(pair for pair in first if _plain(pair[0]) not in kept)]
        raise _endless(resource)
    finally:
        await ahead.aclose()


async def pages(fetch: Fetch, resource: Resource, params: Query = ()) -> AsyncIterator[list[Item]]:
    """Read a list page by page without doubles, for lists too long to hold.

    For a list in ascending order of ids nothing but the last id is remembered, so memory does not grow with
    the list.

    Raises:
        KommoError: As ``walk``; ``unstable_listing`` if the promised order is broken half-way.
    """
    ordered = resource.order == (resource.id_key, "asc") and not any(n.startswith("order") for n, _ in params)
    known = _Known(resource, ordered=ordered)
    stale = 0
    async with aclosing(walk(fetch, resource, params)) as walked:
        async for page in walked:
            fresh = known.fresh(page.items)
            stale = stale + 1 if page.items and not fresh else 0
            if stale >= _STALE_PAGES:
                raise _endless(resource)
            if fresh:
                yield fresh


async def read_all(
    fetch: Fetch, resource: Resource, params: Query = (), *, passes: int = PASSES
) -> list[Item]:
    """Read a whole list, again if it changed meanwhile.

    A reading is whole if no item came twice and every page's total is the number of items read. Otherwise it is
    read again, and these are accepted too:

    - Several readings together, while all of them were told the same total, hold exactly that many items: a
      list whose pages overlap, because its order is not stable, is complete then. Readings from before a
      change of the total are dropped, so a deleted item does not come back.
    - Two readings in a row saw the same items, and no fewer than any total says: then the total counts
      something else.

    Fewer items than the total are never accepted, because what is missing would count as deleted (S1).

    Args:
        fetch: Reads one path with a query.
        resource: Which list.
        params: More of the query.
        passes: How often to read at most.

    Raises:
        KommoError: ``unstable_listing`` or ``endless_listing`` if no reading is whole; otherwise as ``walk``.
    """
    joined: dict[object, Item] = {}
    joined_total: int | None = None
    before: _Reading | None = None
    for _ in range(passes):
        reading = await _read(fetch, resource, params)
        total = reading.total
        if reading.whole or (before is not None and reading.confirms(before)):
            return list(reading.items.values())
        joined = {**joined, **reading.items} if total is not None and total == joined_total else reading.items
        joined_total = total
        if total is not None and len(joined) == total:
            return list(joined.values())
        if total is not None and len(joined) > total:
            joined = reading.items
        before = reading
    if before is not None and before.endless:
        raise _endless(resource)
    raise KommoError(
        ErrorKind.UNSTABLE_LISTING, method="GET", path=resource.path, detail=f"it was read {passes} times"
    )


@dataclass(slots=True)
class _Reading:
    """What one reading of a list from its first to its last page saw."""

    items: dict[object, Item] = field(default_factory=dict)
    repeats: int = 0
    totals: set[int] = field(default_factory=set)
    endless: bool = False

    @property
    def total(self) -> int | None:
        """The number of items that every page agreed on."""
        return next(iter(self.totals)) if len(self.totals) == 1 else None

    @property
    def whole(self) -> bool:
        return not self.repeats and self.totals <= {len(self.items)}

    def confirms(self, before: "_Reading") -> bool:
        enough = len(self.items) >= max(self.totals, default=0)
        return enough and not self.endless and self.items.keys() == before.items.keys()


async def _read(fetch: Fetch, resource: Resource, params: Query) -> _Reading:
    reading = _Reading()
    stale = 0
    async with aclosing(walk(fetch, resource, params)) as walked:
        async for page in walked:
            if page.total is not None:
                reading.totals.add(page.total)
            size = len(reading.items)
            for item in page.items:
                reading.repeats += (key := _key(item, resource)) in reading.items
                reading.items[key] = item
            stale = stale + 1 if page.items and len(reading.items) == size else 0
            if stale >= _STALE_PAGES:
                # The server ignores ``page``, or items are added faster than we read: the next reading will tell.
                reading.endless = True
                break
    return reading


class _Known:
    """Which items were seen already."""

    def __init__(self, resource: Resource, *, ordered: bool) -> None:
        self._resource = resource
        self._ordered = ordered
        self._last: int | None = None
        self._seen: set[object] = set()

    def fresh(self, items: list[Item]) -> list[Item]:
        keys = [_key(item, self._resource) for item in items]
        if self._ordered and not _ascending(keys):
            if self._last is not None:
                detail = "its order by id was broken half-way"
                raise KommoError(
                    ErrorKind.UNSTABLE_LISTING, method="GET", path=self._resource.path, detail=detail
                )
            self._ordered = False
        if self._ordered:
            last = -1 if self._last is None else self._last
            found = [
                item for key, item in zip(keys, items, strict=True) if isinstance(key, int) and key > last
            ]
            if keys and isinstance(keys[-1], int):
                self._last = max(last, keys[-1])
            return found
        found = []
        for key, item in zip(keys, items, strict=True):
            if key not in self._seen:
                self._seen.add(key)
                found.append(item)
        return found


def _ascending(keys: list[object]) -> bool:
    numbers = [key for key in keys if isinstance(key, int)]
    return len(numbers) == len(keys) and all(a < b for a, b in pairwise(numbers))


def _key(item: Item, resource: Resource) -> object:
    key = item.get(resource.id_key)
    if isinstance(key, int | str):
        return key
    raise _malformed(resource, f"an item has no {resource.id_key}")


def _page(answer: Answer, resource: Resource) -> Page:
    data = answer.data
    if data is None:
        return Page([])
    if isinstance(data, list):
        return Page(_objects(data, resource))
    if resource.embedded is None or ("_embedded" not in data and resource.id_key in data):
        return Page([data])  # a single object, or one printed bare where a collection was expected [D §3.3]
    total = data.get("_total_items")
    count = total if isinstance(total, int) and not isinstance(total, bool) else None
    inner = data.get("_embedded")
    if isinstance(inner, dict) and resource.embedded in inner:
        return Page(_objects(inner[resource.embedded], resource), count)
    if inner in ([], {}) or count == 0:
        return Page([], count)  # PHP prints an empty mapping as an empty list
    raise _malformed(resource, f"it holds no {resource.embedded}")


def _objects(value: object, resource: Resource) -> list[Item]:
    items = list(value.values()) if isinstance(value, dict) else value
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _malformed(resource, "its items are not objects")
    return items


def _next(answer: Answer, resource: Resource) -> tuple[str, Query] | None:
    links = answer.data.get("_links") if isinstance(answer.data, dict) else None
    link = links.get("next") if isinstance(links, dict) else None
    href = link.get("href") if isinstance(link, dict) else link
    if not href:
        return None
    try:
        parts = urlsplit(href) if isinstance(href, str) else None
    except ValueError:
        parts = None
    if parts is None or not parts.path.startswith("/api/v4/") or ".." in parts.path:
        raise _malformed(resource, "its link to the next page leads outside of /api/v4/")
    return parts.path, parse_qsl(parts.query, keep_blank_values=True)


def _plain(name: str) -> str:
    """``filter[id][0]`` and ``filter[id][]`` are the same to PHP."""
    return _INDEX.sub("[]", name)


def _malformed(resource: Resource, detail: str) -> KommoError:
    return KommoError(ErrorKind.MALFORMED, method="GET", path=resource.path, detail=detail)


def _endless(resource: Resource) -> KommoError:
    return KommoError(ErrorKind.ENDLESS_LISTING, method="GET", path=resource.path)
