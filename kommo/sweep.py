"""Reading a long list in spans of time: side by side, nothing lost while records change, resumable to the page.

A request asks for the first page of a span, ordered by the time; what is behind the page is a shorter span. So no
record can slip past the border of a page: who changes moves to the end of time, where a last look finds it. A span that
is long gets divided, so that several requests are under way at once (facts: `kommo.recordkinds`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

from kommo.catalogue import Resource
from kommo.errors import ErrorKind, KommoError
from kommo.listing import last_page, page
from kommo.readahead import Fetch

Item = dict[str, Any]

LANES = 4
"""Requests under way at once."""
_WORTH_DIVIDING = 4.0  # pages that must be expected in a span; each division may cost a request


class FilterIgnoredError(Exception):
    """Kommo does not filter or order by this time here: the list has to be read in another way."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time of which everything is still to be read.

    Attributes:
        start: Unix seconds, included.
        end: Unix seconds, included; None: until now.
        page: Set where one second has more records than a page: the page of that second to read next, by id, from the
            last one to the first.
    """

    start: int
    end: int | None = None
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Portion:
    """What one request brought.

    Attributes:
        items: Records; some may have come before.
        left: What is still to be read once these are stored.
        read_at: When it was asked for.
    """

    items: list[Item]
    left: tuple[Span, ...]
    read_at: datetime


@dataclass(frozen=True, slots=True)
class _Read:
    items: list[Item]
    rest: tuple[Span, ...]
    read_at: datetime


async def sweep(
    fetch: Fetch,
    resource: Resource,
    spans: Iterable[Span],
    *,
    by: str,
    now: Callable[[], datetime],
    lanes: int = LANES,
) -> AsyncGenerator[Portion, None]:
    """Read all of some spans.

    While a portion is looked at, up to `lanes` others are fetched; no more than those are held in memory.

    Args:
        fetch: Reads one path with a query.
        resource: Which list.
        spans: What to read.
        by: The key by which it is ordered and filtered, such as `updated_at`.
        now: The time by which readings are put in order.
        lanes: Requests under way at once.

    Raises:
        FilterIgnoredError: Kommo orders or filters by something else.
        KommoError: Whatever `fetch` raises.
    """
    reader = _Reader(fetch, resource, by, now)
    waiting = deque(spans)
    under_way: dict[asyncio.Task[_Read], Span] = {}

    def start() -> None:
        while waiting and len(under_way) < lanes:
            span = waiting.popleft()
            under_way[asyncio.ensure_future(reader.read(span))] = span

    try:
        start()
        while under_way:
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            task = next(one for one in under_way if one in done)
            del under_way[task]
            read = task.result()
            for span in read.rest:
                free = lanes - len(under_way) - len(waiting)
                waiting.extend(_divided(span, read, by, resource.page_size, free))
            start()
            yield Portion(read.items, (*under_way.values(), *waiting), read.read_at)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _divided(span: Span, read: _Read, by: str, size: int, free: int) -> Sequence[Span]:
    """The span, in as many parts as lanes are free, if it seems to hold enough for each of them."""
    if free < 2 or span.page is not None or len(read.items) < size:
        return [span]
    first, last = _moment(read.items[0], by), _moment(read.items[-1], by)
    end = int(read.read_at.timestamp()) if span.end is None else span.end
    pages = (end - span.start) / max(last - first, 1)
    parts = min(free, int(pages / _WORTH_DIVIDING))
    if parts < 2:
        return [span]
    step = (end - span.start) // parts
    starts = [span.start + step * number for number in range(parts)]
    return [
        *(Span(begin, following - 1) for begin, following in pairwise(starts)),
        Span(starts[-1], span.end),
    ]


class _Reader:
    def __init__(self, fetch: Fetch, resource: Resource, by: str, now: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._resource = resource
        self._by = by
        self._now = now

    async def read(self, span: Span) -> _Read:
        """The first page of a span, and what that leaves of it."""
        if span.page is not None:
            return await self._of_one_second(span)
        read_at = self._now()
        found = await page(
            self._fetch,
            replace(self._resource, order=(self._by, "asc")),
            1,
            self._between(span),
        )
        moments = self._checked(found.items, span)
        if not found.more or not moments:
            return _Read(found.items, (), read_at)
        if moments[-1] > span.start:
            # Its last second may go on behind the page, so that is read again.
            return _Read(found.items, (Span(moments[-1], span.end),), read_at)
        second = Span(span.start, span.start)
        last = await last_page(self._fetch, self._resource, self._between(second))
        later = span.end is None or span.end > span.start
        rest = (replace(second, page=last), *([Span(span.start + 1, span.end)] if later else []))
        return _Read([], rest, read_at)

    async def _of_one_second(self, span: Span) -> _Read:
        number, read_at = span.page or 1, self._now()
        found = await page(self._fetch, self._resource, number, self._between(replace(span, page=None)))
        self._checked(found.items, span, ordered=False)
        rest = (replace(span, page=number - 1),) if number > 1 else ()
        return _Read(found.items, rest, read_at)

    def _between(self, span: Span) -> list[tuple[str, str]]:
        query = [(f"filter[{self._by}][from]", str(span.start))] if span.start > 0 else []
        if span.end is not None:
            query.append((f"filter[{self._by}][to]", str(span.end)))
        return query

    def _checked(self, items: Sequence[Item], span: Span, *, ordered: bool = True) -> list[int]:
        """The items' moments.

        Raises:
            FilterIgnoredError: one is outside of the span, or they are in no order.
        """
        moments = [_moment(item, self._by) for item in items]
        outside = any(one < span.start or (span.end is not None and one > span.end) for one in moments)
        if outside or (ordered and any(a > b for a, b in pairwise(moments))):
            raise FilterIgnoredError
        return moments


def _moment(item: Item, by: str) -> int:
    value = item.get(by)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise KommoError(ErrorKind.MALFORMED, method="GET", detail=f"an item does not say its {by}")
