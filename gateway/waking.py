"""Waking the backlog where nobody works it off: Prefect is told that webhooks wait, and an automation starts a run.

As a rule a run lingers, an event is worked within a second, and nothing is said here. So the price is one look into an
index every few seconds while webhooks come, and what is told is bounded whatever comes. Nothing waits for it, and where
Prefect is away nothing is lost: the schedule goes on from there.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from prefect.settings import PREFECT_API_URL

from kommo.clock import Clock
from store.backlog import is_left_lying
from store.database import Database
from store.errors import StoreError
from tasks.events import tell_of_installation

WAITING = "kommo.webhook.waiting"
LYING_SECONDS = 5.0
"""So long an event must have been due, with nobody at its org: from one run that lingers to the next it is a second."""
LOOK_EVERY = 5.0
TELL_EVERY = 30.0
"""Seconds; a run that was started needs some to begin, and whoever is told at once by several gateways starts one."""

_log = logging.getLogger("gateway.waking")


async def keep_awake(
    stored: Callable[[], int],
    lies: Callable[[], Awaitable[bool]],
    tell: Callable[[], Awaitable[None]],
    clock: Clock,
) -> None:
    """Look, and tell, until it is cancelled.

    Args:
        stored: how many deliveries this process has taken in.
        lies: whether an event is due and nobody works on it.
        tell: tells Prefect.
        clock: source of time.
    """
    known, waits, told, until = 0, False, float("-inf"), float("-inf")
    while True:
        await clock.sleep(LOOK_EVERY)
        now = clock.monotonic()
        if stored() != known:
            # It lies only after a while, and is looked at once more then.
            known, until = stored(), now + LYING_SECONDS + LOOK_EVERY
        if now > until and not waits:
            continue
        try:
            waits = await lies()
            if waits and now - told >= TELL_EVERY:
                told = now
                await tell()
        except StoreError as error:
            _log.warning("whether webhooks wait is not known: %s", error)
        except Exception as error:  # noqa: BLE001 - Prefect's client fails in many ways, and the schedule is still there
            _log.warning("Prefect was not told that webhooks wait (%s)", type(error).__name__)


@asynccontextmanager
async def waking(database: Database, stored: Callable[[], int], clock: Clock) -> AsyncIterator[None]:
    """Do that for as long as the block lasts; nothing where there is no Prefect server to tell."""
    if not PREFECT_API_URL.value():
        yield
        return
    task = asyncio.create_task(
        keep_awake(
            stored,
            lambda: is_left_lying(database, LYING_SECONDS),
            lambda: tell_of_installation(WAITING),
            clock,
        ),
        name="waking the backlog",
    )
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
