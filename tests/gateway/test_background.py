"""Work beside answering: callers who wait for theirs take no place away from what nobody waits for."""

import asyncio

from gateway import background
from gateway.background import Background


async def test_however_many_actions_are_waited_for_a_first_sync_is_begun_all_the_same() -> None:
    under_way, over, begun = Background(), asyncio.Event(), asyncio.Event()

    async def action() -> str:
        await over.wait()
        return "done"

    async def first_sync() -> None:
        begun.set()

    actions = [asyncio.ensure_future(action()) for _ in range(background._MOST + 1)]
    for one in actions:
        under_way.adopt(one)
    task = under_way.start("first sync of acme", "first sync of acme", first_sync())
    assert task is not None
    await task
    assert begun.is_set()
    ending = asyncio.create_task(under_way.finish(5.0))
    await asyncio.sleep(0)
    assert not ending.done(), "a stop waits for actions, too"
    over.set()
    await ending
    assert {one.result() for one in actions} == {"done"}
