"""Pages fetched before they are asked for, where the first page says how many there are.

A list is then read at the budget's pace and not at that of one answer after the other. What the links say is still
what counts: if they lead elsewhere, what was fetched ahead is dropped.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from kommo.answers import Answer

Query = Sequence[tuple[str, str]]
Fetch = Callable[[str, Query], Awaitable[Answer]]

PAGES_AHEAD = 3
"""Pages that are under way behind the one that is looked at."""
_MOST = 1_000


class ReadAhead:
    """Fetches what will be wanted next; close it when no more is wanted.

    Args:
        fetch: Reads one path with a query.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._expected: deque[tuple[str, Query]] = deque()
        self._under_way: dict[object, asyncio.Task[Answer]] = {}

    def expect(self, path: str, first: Query, total: int) -> None:
        """Look forward to the pages behind the first one, if they can be told from its query.

        Args:
            path: Path of the list.
            first: Query of its first page, with `page` and `limit`.
            total: How many items it has.
        """
        size = dict(first).get("limit", "")
        if not size.isdecimal() or int(size) < 1 or sum(name == "page" for name, _ in first) != 1:
            return
        for number in range(2, min(-(-total // int(size)), _MOST) + 1):
            query = [(name, str(number) if name == "page" else value) for name, value in first]
            self._expected.append((path, query))
        self._start()

    async def fetch(self, path: str, query: Query) -> Answer:
        """One page, which may be on its way already.

        Raises:
            KommoError: Whatever fetching it raised.
        """
        task = self._under_way.pop(_place(path, query), None)
        if task is None:
            await self.aclose()
            return await self._fetch(path, query)
        self._start()
        try:
            return await task
        finally:
            task.cancel()  # if we were cancelled while we waited

    async def aclose(self) -> None:
        """Drop what nobody will ask for."""
        self._expected.clear()
        tasks = list(self._under_way.values())
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        while self._expected and len(self._under_way) < PAGES_AHEAD:
            path, query = self._expected.popleft()
            self._under_way[_place(path, query)] = asyncio.ensure_future(self._fetch(path, query))


def _place(path: str, query: Query) -> object:
    return path, tuple(sorted(query))
