"""Waiting for whichever comes first."""

import asyncio

from kommo.clock import Clock


async def set_or_after(event: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Wait until an event is set, but for at most so many seconds; it is clear afterwards.

    Args:
        event: What may end the wait.
        clock: Source of time.
        seconds: The longest wait.
    """
    if not event.is_set():
        waits = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
    event.clear()
