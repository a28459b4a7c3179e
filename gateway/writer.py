"""A thread with an event loop of its own, which writes to the store.

A transaction is some ten turns of an event loop. On the loop of the requests, each turn takes as long as all requests
that are there at that moment; under a flood that is a second or more for what the database does in milliseconds.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from store.database import Database
from store.inbox import NewDelivery, Saved, save_deliveries


class WriterThread:
    """Writes deliveries to the same database as `database` does, over connections of its own.

    Args:
        database: An open database.
    """

    _mine: Database  # there once `start` has returned

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="webhook writer", daemon=True)

    async def save(self, deliveries: Sequence[NewDelivery]) -> Sequence[Saved]:
        """Write deliveries in one transaction. Cancelling this cancels the transaction."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._save(deliveries), self._loop))

    async def _save(self, deliveries: Sequence[NewDelivery]) -> Sequence[Saved]:
        return await save_deliveries(self._mine, deliveries)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self._database.for_another_loop() as self._mine:
            self._ready.set()
            await self._end.wait()

    async def start(self) -> None:
        """Begin; when this returns it can write."""
        self._thread.start()
        await asyncio.to_thread(self._ready.wait)

    async def stop(self) -> None:
        """End, once nobody writes any more."""
        self._loop.call_soon_threadsafe(self._end.set)
        await asyncio.to_thread(self._thread.join)


@asynccontextmanager
async def running_writer(database: Database) -> AsyncIterator[WriterThread]:
    """A writer for as long as the block runs."""
    writer = WriterThread(database)
    await writer.start()
    try:
        yield writer
    finally:
        await writer.stop()
