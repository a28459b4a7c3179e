"""Callers of `sync-crm` that are many, a Prefect that does not answer, and a run that is another org's."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun

from gateway import syncs
from gateway.syncs import Syncs
from store.runs import find_run
from tests.gateway.doors import Doors

DOOR = "/api/v1/agents/a1/sync-crm"


def _with_run(monkeypatch: pytest.MonkeyPatch, begin: Callable[[], Awaitable[FlowRun | None]]) -> None:
    async def of_deployment(*_: object) -> FlowRun | None:
        return await begin()

    class Address:
        """There is a server, as far as the setting says."""

        def value(self) -> str:
            return "http://127.0.0.1:9/api"

    def away() -> None:
        raise ConnectionError

    monkeypatch.setattr(Syncs, "_run_of_deployment", of_deployment)
    monkeypatch.setattr(syncs, "PREFECT_API_URL", Address())
    monkeypatch.setattr(syncs, "get_client", away)


async def test_however_many_wait_for_a_run_one_looks_how_it_stands(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def counted(*given: Any, **more: Any) -> Any:
        nonlocal looks
        looks += 1
        return await find_run(*given, **more)

    async def begin() -> FlowRun:
        return FlowRun(id=run_id, flow_id=uuid.uuid4(), expected_start_time=datetime.now(UTC))

    run_id = uuid.uuid4()
    _with_run(monkeypatch, begin)
    monkeypatch.setattr(syncs, "find_run", counted)
    await doors.connect()
    callers = 15
    answers = await asyncio.gather(
        *(doors.post(DOOR, {"type": "all"}, params={"wait": 1.2}) for _ in range(callers))
    )
    assert [answer.status_code for answer in answers] == [202] * callers
    assert {answer.json()["run_id"] for answer in answers} == {str(run_id)}
    assert looks <= callers + 10, "each of them looks for itself"


async def test_a_prefect_that_does_not_answer_keeps_nobody_waiting(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin() -> None:
        await asyncio.sleep(3600)

    _with_run(monkeypatch, begin)
    monkeypatch.setattr(syncs, "_PATIENCE", 0.05)
    monkeypatch.setattr(syncs, "_PAUSE", 0.0)
    await doors.connect()
    begun = time.monotonic()
    answer = await doors.post(DOOR, {"type": "all"}, params={"wait": 0}, timeout=5)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert time.monotonic() - begun < 2


async def test_a_run_that_is_under_way_here_is_no_run_of_another_org(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin() -> None:
        return None

    class Flow:
        """As the flow, but it goes on until it is told to end."""

        def with_options(self, *, on_running: list[Callable[..., Awaitable[None]]]) -> Any:
            async def run(*_: object) -> None:
                for began in on_running:
                    await began(None, FlowRun(id=run_id, flow_id=uuid.uuid4()), None)
                await over.wait()

            return run

    run_id, over = uuid.uuid4(), asyncio.Event()
    _with_run(monkeypatch, begin)
    monkeypatch.setattr(syncs, "full_crm_sync", Flow())
    await doors.connect()
    answer = await doors.post(DOOR, {"type": "all"}, params={"wait": 0})
    assert answer.json()["run_id"] == str(run_id)
    assert (await doors.get(f"/api/v1/orgs/acme/syncs/{run_id}")).json()["state"] == "running"
    other = await doors.get(
        f"/api/v1/orgs/globex/syncs/{run_id}", headers={"Authorization": f"Bearer {doors.every}"}
    )
    assert other.status_code == 404, other.text
    over.set()
