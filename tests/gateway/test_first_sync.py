"""The first reading after a connection: a run of a deployment where there is one, else here; never waited for."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from flows.full_sync import full_crm_sync
from gateway.first_sync import start_first_sync
from store.connections import ConnectionRecord
from store.snapshots import read_snapshot
from tests.gateway.support import House


async def _connected(house: House) -> ConnectionRecord:
    consent = await house.start()
    assert (await house.come_back(consent, house.code_query(consent.state))).status_code == 302
    connection = await house.connection()
    assert connection is not None
    return connection


@pytest.fixture
async def deployment(prefect_api: str) -> AsyncIterator[UUID]:
    del prefect_api
    made = await (await full_crm_sync.ato_deployment(name="on-demand")).aapply()
    yield made
    async with get_client() as client:
        await client.delete_deployment(made)


async def test_with_a_deployment_a_worker_gets_one_run_however_often_it_is_asked_for(
    house: House, deployment: UUID
) -> None:
    connection = await _connected(house)
    asked = house.requests()
    for _ in range(2):
        await start_first_sync(connection)
    async with get_client() as client:
        runs = [run for run in await client.read_flow_runs() if run.deployment_id == deployment]
    assert len(runs) == 1
    assert runs[0].parameters["org"] == "acme"
    assert runs[0].idempotency_key == f"first-sync:acme:{connection.token_fingerprint}"
    assert house.requests() == asked, "this process reads nothing"


async def test_without_a_deployment_it_runs_here(house: House) -> None:
    await start_first_sync(await _connected(house))
    snapshot = await read_snapshot(house.services.database, "acme", "pipelines")
    assert len(snapshot.items) == len(house.kommo.account("acme").pipelines)
    told = (await house.product.get("/api/v1/orgs/acme/connection", headers=house.signed())).json()
    assert told["last_sync"]["state"] == "completed"
    assert told["last_synced_at"]


async def test_the_callback_does_not_wait_and_a_failure_is_told_in_the_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: ConnectionRecord) -> None:
        del connection
        began.set()
        await go_on.wait()
        raise RuntimeError("canary")

    house.services.first_sync = slow
    await _connected(house)
    await asyncio.wait_for(began.wait(), 5)
    assert "first sync" not in caplog.text
    go_on.set()
    await house.services.background.finish(5)
    assert "first sync of acme failed: Unexpected RuntimeError" in caplog.text
    assert "canary" not in caplog.text


async def test_t2_a_callback_whose_browser_has_gone_is_finished_all_the_same(house: House) -> None:
    consent = await house.start()
    house.kommo.world.faults.add(kind="slow", path="/oauth2/access_token", delay=0.5, times=1)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(house.come_back(consent, house.code_query(consent.state)), 0.2)
    for _ in range(200):
        if await house.connection() is not None:
            break
        await asyncio.sleep(0.05)
    connection = await house.connection()
    assert connection is not None
    assert connection.state == "connected"
