"""T2: giving up on a store that is stuck takes no longer than was meant, however long its tidying up takes."""

import asyncio
import time

import pytest

from tasks.patience import within


async def test_t2_giving_up_does_not_wait_for_what_was_given_up() -> None:
    ended = asyncio.Event()

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.3)
            ended.set()
            raise ValueError("nobody hears of it")

    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        await within(0.05, stuck())
    assert time.monotonic() - begun < 0.25
    await asyncio.wait_for(ended.wait(), 5)


async def test_what_is_done_in_time_gives_its_value_and_its_error() -> None:
    async def seven() -> int:
        return 7

    async def fails() -> None:
        raise KeyError("x")

    assert await within(1.0, seven()) == 7
    with pytest.raises(KeyError):
        await within(1.0, fails())


async def test_whoever_is_cancelled_takes_the_work_along() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    caller = asyncio.ensure_future(within(60.0, work()))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(stopped.wait(), 5)
