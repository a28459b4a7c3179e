"""What was looked up a moment ago need not be looked up again: bounded in time, in number, and in what it asks for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kommo.clock import Clock

K = TypeVar("K")
V = TypeVar("V")

_MOST = 10_000
_MOST_AT_ONCE = 64


class LookupBusyError(Exception):
    """The answer cannot be had in time."""


class Remembered(Generic[K, V]):
    """Answers of a lookup, each for a few seconds; of those who ask for the same at once, one looks.

    Args:
        look: The lookup.
        clock: Source of time.
        seconds: How long an answer is good.
        absent_seconds: How long it is good that there is nothing; by default as long.
        patience: How long anybody waits for one.
    """

    def __init__(
        self,
        look: Callable[[K], Awaitable[V]],
        clock: Clock,
        *,
        seconds: float = 5.0,
        absent_seconds: float | None = None,
        patience: float = 1.0,
    ) -> None:
        self._look = look
        self._clock = clock
        self._seconds = seconds
        self._absent_seconds = seconds if absent_seconds is None else absent_seconds
        self._patience = patience
        # Apart: strangers who ask for what is not there must not drive out what is.
        self._known: dict[K, tuple[float, V]] = {}
        self._absent: dict[K, tuple[float, V]] = {}
        self._asked: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """The answer for a key.

        Raises:
            LookupBusyError: It takes too long, or it was not known and too many others are being looked up.
        """
        known = self._known.get(key) or self._absent.get(key)
        if known is not None and known[0] > self._clock.monotonic():
            return known[1]
        task = self._asked.get(key)
        if task is None:
            if len(self._asked) >= _MOST_AT_ONCE and key not in self._known:
                raise LookupBusyError
            task = asyncio.create_task(self._ask(key))
            self._asked[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        # Whoever goes away while it is looked up takes nothing from the others.
        done, _ = await asyncio.wait({task}, timeout=self._patience)
        if not done:
            raise LookupBusyError
        return task.result()

    async def _ask(self, key: K) -> V:
        answer = await self._look(key)
        self._known.pop(key, None)  # so that the order is that of the answers
        self._absent.pop(key, None)
        kept, seconds = (self._known, self._seconds) if answer else (self._absent, self._absent_seconds)
        if len(kept) >= _MOST:
            kept.pop(next(iter(kept)))
        kept[key] = (self._clock.monotonic() + seconds, answer)
        return answer

    def _forget(self, key: K, done: "asyncio.Task[V]") -> None:
        del self._asked[key]
        if not done.cancelled():
            done.exception()  # whoever waited has it; nobody may have

    async def close(self) -> None:
        """Give up what is being looked up."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
