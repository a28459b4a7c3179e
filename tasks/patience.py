"""Giving up on something in time, also where giving up takes long itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

_given_up: set["asyncio.Task[Any]"] = set()


async def within(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """Do work, and give up on it after so many seconds.

    `asyncio.timeout` waits until what it cancels has ended. A statement that waits for SQLite's lock ends half a minute
    later, because its thread cannot be told; whoever holds something that must be kept has no such time.

    Args:
        seconds: How long it may take.
        work: What to do; it is cancelled when it takes longer, or when the caller is.

    Raises:
        TimeoutError: It took longer. It ends by itself, and nobody hears of it.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _leave(task)
        raise
    if not done:
        _leave(task)
        raise TimeoutError
    return task.result()


def _leave(task: "asyncio.Task[Any]") -> None:
    _given_up.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: "asyncio.Task[Any]") -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, or the loop would complain that nobody has
