"""Pages by their number: backwards where what is removed must not hide others, forwards where pages hold still.

Which list is read in which way, and why nothing is lost by it: `kommo.recordkinds`.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from kommo.catalogue import Resource
from kommo.errors import ErrorKind, KommoError
from kommo.paging import MOST_PAGES, walk
from kommo.readahead import Fetch

Item = dict[str, Any]
Query = Sequence[tuple[str, str]]

PAGES_AHEAD = 3


@dataclass(frozen=True, slots=True)
class NumberedPage:
    """One page and its number; `more`: Kommo says that another one follows."""

    number: int
    items: list[Item]
    more: bool


async def page(fetch: Fetch, resource: Resource, number: int, params: Query = ()) -> NumberedPage:
    """One page of a list.

    Args:
        fetch: Reads one path with a query.
        resource: Which list.
        number: Which page, from 1.
        params: More of the query.

    Raises:
        KommoError: whatever `fetch` raises; a status that means "there is none" gives an empty page.
    """
    seen: list[bool] = []

    async def one(path: str, query: Query) -> Any:  # noqa: ANN401  what `fetch` gives
        answer = await fetch(path, query)
        links = answer.data.get("_links") if isinstance(answer.data, dict) else None
        seen.append(bool(isinstance(links, dict) and links.get("next")))
        return answer

    async with aclosing(walk(one, resource, [("page", str(number)), *params])) as pages:
        async for found in pages:
            return NumberedPage(number, found.items, bool(seen[0] and found.items))
    return NumberedPage(number, [], more=False)


async def last_page(fetch: Fetch, resource: Resource, params: Query = ()) -> int:
    """The number of a list's last page, 1 for an empty one: found by doubling, then by halving."""
    low, high, step = 1, MOST_PAGES + 1, 2
    while step < high:
        found = await page(fetch, resource, step, params)
        if found.items:
            low = step
        if found.items and not found.more:
            return low
        if not found.items:
            high = step
        step *= 2
    if high > MOST_PAGES:
        raise KommoError(ErrorKind.ENDLESS_LISTING, method="GET", path=resource.path)
    while high - low > 1:
        middle = (low + high) // 2
        found = await page(fetch, resource, middle, params)
        if found.items and not found.more:
            return middle
        low, high = (middle, high) if found.items else (low, middle)
    return low


async def backwards(
    fetch: Fetch, resource: Resource, params: Query = (), *, begin: int | None = None
) -> AsyncGenerator[NumberedPage, None]:
    """A list from its last page to its first, one request after the other.

    Args:
        fetch: Reads one path with a query.
        resource: Which list; it must be ordered by id.
        params: More of the query.
        begin: The page to go on with; by default the last one.
    """
    if begin is None:
        first = await page(fetch, resource, 1, params)
        if not first.more:
            yield first
            return
        begin = await last_page(fetch, resource, params)
    for number in range(begin, 0, -1):
        yield await page(fetch, resource, number, params)


async def forwards(
    fetch: Fetch, resource: Resource, params: Query = (), *, begin: int = 1, ahead: int = 0
) -> AsyncGenerator[NumberedPage, None]:
    """A list from its first page to its last.

    Args:
        fetch: Reads one path with a query.
        resource: Which list.
        params: More of the query.
        begin: The page to begin with.
        ahead: Pages that are fetched while one is looked at; only where pages hold still. Up to so many requests are
            spent behind the end.
    """
    under_way: dict[int, asyncio.Task[NumberedPage]] = {}
    number = begin
    try:
        while number <= MOST_PAGES:
            task = under_way.pop(number, None)
            found = await (page(fetch, resource, number, params) if task is None else task)
            if not found.more:
                yield found
                return
            # As many as were read already: a short list costs no request behind its end.
            for following in range(number + 1, number + 1 + min(ahead, number - begin + 1)):
                if following not in under_way:
                    under_way[following] = asyncio.ensure_future(page(fetch, resource, following, params))
            yield found
            number += 1
        raise KommoError(ErrorKind.ENDLESS_LISTING, method="GET", path=resource.path)
    finally:
        for task in under_way.values():
            task.cancel()
        await asyncio.gather(*under_way.values(), return_exceptions=True)
