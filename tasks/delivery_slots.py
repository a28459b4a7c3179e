"""So many attempts at a time, and each org in its turn: one to which the product answers slowly holds up no other.

A plain semaphore serves who came first. Two hundred subjects of one org, each waiting ten seconds for its answer, would
stand before the single event of another one for minutes.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """Slots for attempts, given to orgs in turn, and within an org to who came first.

    Args:
        count: So many at a time.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        # The first org is the next one to be served.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def of(self, org: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold it meanwhile.

        Args:
            org: Whose event is to be sent.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(org)
        try:
            yield
        finally:
            self._give_on()

    async def _wait(self, org: str) -> None:
        given = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(org, deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._give_on()  # it was given at the very moment at which nobody wanted it any more
            raise

    def _give_on(self) -> None:
        while self._waiting:
            org = next(iter(self._waiting))
            queue = self._waiting.pop(org)
            given = queue.popleft()
            if queue:
                self._waiting[org] = queue
            if not given.done():
                given.set_result(None)
                return
        self._free += 1
