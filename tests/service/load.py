"""What an installation has to do while parts of it are killed: webhooks, actions, syncs, refreshes."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.service.connecting import headers
from tests.service.house import House

WEBHOOKS, ACTIONS = 50.0, 2.0
"""A second, at full load."""
_PER_CHANGE = 4 / 3  # a change of the stage, or of who is responsible, is told twice
_STEP = (
    60.0  # seconds of changes that are asked for at once: long enough to go through all leads of an account
)
_TILL = 1_900_000_000
_REPEATS = 60  # times that the product tries an action again, a second apart
_ACCEPTED = frozenset({200, 201, 202})


@dataclass
class Load:
    """What was asked for, and how it was answered.

    Attributes:
        share: Of the full load.
        keys: Actions, by their key: the org and the state that the gateway named last.
        refused: Failed attempts of actions: when (Unix time), and what was answered.
        asked: Runs that were asked for, by what came of asking.
        made: Changes of leads.
    """

    share: float
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    refused: list[tuple[float, str]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    made: int = 0


@contextlib.asynccontextmanager
async def running_load(house: House, share: float) -> AsyncIterator[Load]:
    """All of it, while the block runs; at its end every action that was begun has an answer.

    Args:
        house: The installation.
        share: Of the full load; less where a machine has other things to do.
    """
    load = Load(share)
    over = asyncio.Event()
    no_limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=house.gateway, timeout=30, limits=no_limits) as product:
        work = [
            asyncio.create_task(_webhooks(house, load, over)),
            asyncio.create_task(_actions(house, load, product, over)),
            asyncio.create_task(_runs(house, load, over)),
        ]
        try:
            yield load
            over.set()
            await asyncio.gather(*work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)


async def _pause(over: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0)):
            await over.wait()


async def _webhooks(house: House, load: Load, over: asyncio.Event) -> None:
    """People change leads, and the sandbox tells of each change as Kommo does."""
    rate = WEBHOOKS * load.share / _PER_CHANGE
    count = int(rate * _STEP)
    for number in itertools.count(1):
        begun = time.monotonic()
        await house.steer(
            "load",
            accounts="all",
            entity="leads",
            kinds=["update", "status", "responsible"],
            changes=count,
            rate=rate,
            seed=number,
            background=True,
        )
        load.made += count
        await _pause(over, begun + _STEP - time.monotonic())
        if over.is_set():
            return


async def _actions(house: House, load: Load, product: httpx.AsyncClient, over: asyncio.Event) -> None:
    """The product creates tasks; what fails it asks for again under the same key."""
    orgs = itertools.cycle(sorted(house.orgs))
    async with asyncio.TaskGroup() as group:
        for number in itertools.count(1):
            begun = time.monotonic()
            group.create_task(_action(house, load, product, next(orgs), f"action-{number}"))
            await _pause(over, begun + 1 / (ACTIONS * load.share) - time.monotonic())
            if over.is_set():
                return


async def _action(house: House, load: Load, product: httpx.AsyncClient, org: str, key: str) -> None:
    body = {"text": key, "complete_till": _TILL, "entity_type": "contacts", "entity_id": house.contacts[org]}
    load.keys[key] = (org, "asked")
    for _ in range(_REPEATS):
        try:
            answer = await product.post(
                f"/api/v1/orgs/{org}/tasks", json=body, headers=headers(house, org) | {"Idempotency-Key": key}
            )
        except httpx.HTTPError as error:
            load.refused.append((time.time(), type(error).__name__))
        else:
            if answer.status_code in _ACCEPTED:
                load.keys[key] = (org, answer.json()["state"])
                if answer.status_code != 202:
                    return
            else:
                load.refused.append((time.time(), str(answer.status_code)))
        await asyncio.sleep(1)


async def _runs(house: House, load: Load, over: asyncio.Event) -> None:
    """Syncs of the fleet and refreshes of all tokens, one after the other, by Prefect's API."""
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("full-crm-sync-all/nightly", {}),
        ("token-refresh/every-half-hour", {"within": "30h"}),
    ]
    for number in itertools.count():
        name, parameters = wanted[number % len(wanted)]
        try:
            deployment = (
                (await house.prefect.get(f"/deployments/name/{name}")).raise_for_status().json()["id"]
            )
            answer = await house.prefect.post(
                f"/deployments/{deployment}/create_flow_run",
                json={"parameters": parameters, "idempotency_key": f"load-{number}"},
            )
            load.asked[f"{name}: {answer.status_code}"] += 1
        except httpx.HTTPError as error:
            load.asked[f"{name}: {type(error).__name__}"] += 1
        await _pause(over, 30)
        if over.is_set():
            return
