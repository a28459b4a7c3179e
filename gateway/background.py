"""Work that goes on after the answer: referenced until it ends, one piece of a kind at a time, its errors told."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from tasks.errors import sentence_of

_log = logging.getLogger("gateway.background")
_MOST = 64


class Background:
    """What this process has under way beside answering requests."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        # Apart: many callers who wait for their own work must not keep what nobody waits for from being begun.
        self._adopted: set[asyncio.Task[Any]] = set()

    def start(
        self, key: str, what: str, work: Coroutine[object, object, object]
    ) -> asyncio.Task[None] | None:
        """Begin a piece of work.

        Args:
            key: A second piece with the same key is not begun while the first is under way; holds no secret.
            what: What it is, for the log.
            work: What is to be done. It is closed unused where it is not begun.

        Returns:
            The task; None where nothing was begun.
        """
        if key in self._tasks or len(self._tasks) >= _MOST:
            work.close()
            _log.warning(
                "%s: not begun, %s",
                what,
                "it is under way" if key in self._tasks else "too much is under way",
            )
            return None
        task = asyncio.create_task(_told(what, work), name=key)
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return task

    def find(self, key: str) -> asyncio.Task[Any] | None:
        """The piece of work with this key, if it is under way."""
        return self._tasks.get(key)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Hold on to a task that somebody waits for, so that a stop waits for it too; it takes no one's place."""
        self._adopted.add(task)
        task.add_done_callback(self._adopted.discard)

    async def finish(self, seconds: float) -> None:
        """Wait for what is under way, then cancel what is left."""
        tasks = {*self._tasks.values(), *self._adopted}
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=seconds)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


async def _told(what: str, work: Coroutine[object, object, object]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - nobody else would ever see it
        _log.error("%s failed: %s", what, sentence_of(error))
    else:
        _log.info("%s: done", what)
