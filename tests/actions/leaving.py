"""Actions that a dead process has left behind, what somebody else writes, and functions that fail on purpose."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from store.action_journal import mark_sent
from store.action_lookups import find_actions
from store.actions import ActionRecord, get_action
from tasks.actions import (
    perform,
)
from tasks.actions.running import settle_due
from tests.actions.support import TILL, World

LEASE = 0.3
MODULES = ("tasks.actions.work", "tasks.actions.holding", "tasks.actions.requests")
QUICK = {"send_within": 0.1, "longest_request": 0.1}
"""Nobody else's request is under way any more."""


async def left_behind(world: World, wish: Any, key: str, *, marked: bool = False) -> str:
    """An action whose process died before it sent it, or, marked, right before or after."""
    async with world.session(patience=0.0, lease=LEASE) as dying:
        dying.start = _dead
        record = await perform(dying, "acme", wish, key)
    if marked:
        held = (await find_actions(world.database, "acme", [key]))[key]
        plans = {held.id: (held.plan, held.twin)}
        assert await mark_sent(world.database, plans, held.owner, LEASE, now=datetime.now(UTC))
    return record.action_id


def _dead(work: Any) -> asyncio.Task[None]:
    work.close()
    return asyncio.create_task(asyncio.sleep(0))


async def settled(world: World, action_id: str, **options: Any) -> ActionRecord:
    await asyncio.sleep(LEASE)
    async with world.session(**QUICK | options) as session:
        await settle_due(session)
    record = await get_action(world.database, "acme", action_id)
    assert record is not None
    return record


async def write(world: World, path: str, element: dict[str, Any]) -> None:
    """What somebody else writes at Kommo."""
    async with world.session() as other, other.clients.use(None) as client:
        await client.write("POST", path, [element])


def as_element(world: World, **values: Any) -> dict[str, Any]:
    """The task of `a_task` as Kommo takes it."""
    entity = {"entity_id": world.lead_id, "entity_type": "leads"}
    return {"text": "Call back", "complete_till": TILL, "task_type_id": 1, **entity, **values}


def altered(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[..., Any]) -> None:
    """Put `change(the real one, its arguments)` in a function's place, wherever the worker has it from."""
    for module in MODULES:
        real = getattr(__import__(module, fromlist=["x"]), name, None)
        if real is not None:
            monkeypatch.setattr(
                f"{module}.{name}", lambda *args, real=real, **more: change(real, *args, **more)
            )
