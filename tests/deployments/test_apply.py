"""`kommo deploy` on a real Prefect server: it can be repeated, mends what was changed, removes what is left over."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending, Scheduled

from deployments.apply import DeployError, Outcome, apply, compare, read_ours
from deployments.catalogue import CATALOGUE, STANDING_AT_A_TIME
from deployments.plan import Plan, PoolType, make_plan
from deployments.prefect_yaml import render
from deployments.serving import runner_deployment
from tests.proofs.support import FULL

ROOT = Path(__file__).parents[2]
SOME = tuple(
    entry
    for entry in CATALOGUE
    if entry.entrypoint.rpartition(".")[2] in {"webhook_backlog", "full_crm_sync", "settle_actions"}
    or entry.name == "hourly-fields"
)


def _plan(shards: int = 1, pool_type: PoolType = PoolType.PROCESS) -> Plan:
    return make_plan(shards=shards, pool_type=pool_type, catalogue=SOME)


@pytest.fixture
async def client(prefect_api: str) -> AsyncIterator[PrefectClient]:
    """A server with none of ours, before and after."""
    del prefect_api
    async with get_client() as client:
        await _clear(client)
        yield client
        await _clear(client)


async def _clear(client: PrefectClient) -> None:
    for there in await client.read_deployments():
        await client.delete_deployment(there.id)
    with contextlib.suppress(ObjectNotFound):
        await client.delete_work_pool("kommo")


def _steps(outcome: Outcome) -> set[tuple[str, str]]:
    return {(step.name, step.change) for step in outcome.steps}


@pytest.mark.seconds(5)
async def test_what_was_changed_by_hand_is_named_and_mended_and_the_rest_is_left_alone(
    client: PrefectClient,
) -> None:
    everything = {"kommo", "kommo/urgent", "kommo/steady", "kommo/bulk"} | {
        one.full_name for one in _plan().deployments
    }
    assert _steps(await compare(_plan())) == {(name, "create") for name in everything}
    assert await read_ours(client) == {}, "to compare changes nothing"
    await apply(_plan())
    assert (await compare(_plan())).current
    priorities = {
        queue.name: queue.priority for queue in await client.read_work_queues(work_pool_name="kommo")
    }
    assert priorities["urgent"] < priorities["steady"] < priorities["bulk"] < priorities["default"]

    backlog = await client.read_deployment_by_name("webhook-backlog/every-minute")
    before = (await client.read_deployment_by_name("settle-actions/every-minute")).updated
    changed = DeploymentUpdate(parameters={"linger": "1s"}, description="mine", concurrency_limit=9)
    await client.update_deployment(backlog.id, changed)
    await client.update_deployment_schedule(backlog.id, backlog.schedules[0].id, active=False)
    sync = await client.read_deployment_by_name("full-crm-sync/on-demand")
    await client.pause_deployment(sync.id)
    queue = await client.read_work_queue_by_name("bulk", work_pool_name="kommo")
    await client.update_work_queue(queue.id, concurrency_limit=77, is_paused=True)

    [queue_step, step] = (await compare(_plan())).steps
    assert (queue_step.name, queue_step.why) == ("kommo/bulk", ("limit: 77 → 3",))
    assert step.name == "webhook-backlog/every-minute"
    words = " ".join(step.why)
    for word in (
        "linger",
        f"limit: 9 → {STANDING_AT_A_TIME}",
        "schedule: * * * * * UTC (off) → * * * * * UTC",
        "description",
    ):
        assert word in words
    kept = await compare(_plan(), keep_schedules=True)
    assert "schedule" not in " ".join(kept.steps[1].why)

    outcome = await apply(_plan())
    assert len(outcome.steps) == 2
    assert [note.split()[0:3] for note in outcome.notes] == [
        ["The", "queue", "'bulk'"],
        ["full-crm-sync/on-demand", "is", "paused"],
    ]
    assert (await compare(_plan())).current
    assert (await client.read_deployment(sync.id)).paused, "what was paused by hand stays so"
    assert (await client.read_deployment_by_name("settle-actions/every-minute")).updated == before


async def test_fewer_shards_remove_what_is_left_over_and_nothing_of_anybody_else(
    client: PrefectClient,
) -> None:
    flow_id = await client.create_flow_from_name("somebody-elses")
    await client.create_deployment(flow_id, "theirs", tags=["other"])
    await apply(_plan(shards=3))
    divided = ("webhook-backlog/every-minute", "full-crm-sync-all/hourly-fields")
    assert len(await read_ours(client)) == len(SOME) + 3 * len(divided)
    assert (await compare(_plan(shards=3))).current
    outcome = await apply(_plan(shards=2))
    assert ("webhook-backlog/every-minute-3-of-3", "remove") in _steps(outcome)
    assert {name for name in await read_ours(client) if "-of-" in name} == {
        f"{name}-{number}-of-2" for name in divided for number in (1, 2)
    }
    assert (await compare(_plan(shards=2))).current
    assert await client.read_deployment_by_name("somebody-elses/theirs")
    with pytest.raises(DeployError, match="--pool-type process"):
        await apply(_plan(pool_type=PoolType.DOCKER))


async def test_an_unknown_parameter_is_refused_and_runs_too_many_are_cancelled_before_they_begin(
    client: PrefectClient,
) -> None:
    await apply(_plan())
    sync = await client.read_deployment_by_name("full-crm-sync/on-demand")
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        await client.create_flow_run_from_deployment(sync.id, parameters={"org": "acme", "canary": 1})
    # A worker was away: three runs of a flow that may have two at a time have waited for it.
    settle = await client.read_deployment_by_name("settle-actions/every-minute")
    runs = [await client.create_flow_run_from_deployment(settle.id, state=Scheduled()) for _ in range(3)]
    for run in runs:
        await client.set_flow_run_state(run.id, Pending())
    states = [(await client.read_flow_run(run.id)).state for run in runs]
    assert [state.type for state in states if state] == ["PENDING", "PENDING", "CANCELLED"]


@pytest.mark.proof
@pytest.mark.skipif(
    not FULL, reason="with KOMMO_TEST_ROUNDS=full; the file itself is held equal to the catalogue"
)
async def test_prefects_own_command_and_serve_end_in_the_same_deployments(
    client: PrefectClient, prefect_api: str, tmp_path: Path
) -> None:
    """But for the parameters' form, which Prefect's command makes without our titles."""
    await apply(_plan())
    ours = await read_ours(client)
    for there in ours.values():
        await client.delete_deployment(there.id)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy"]
    file = tmp_path / "prefect.yaml"
    file.write_text(render(_plan()))
    command += ["--prefect-file", str(file), "--all"]
    environment = {**os.environ, "PREFECT_API_URL": prefect_api}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()[-2000:]
    steps = (await compare(_plan())).steps
    assert {step.why for step in steps} == {("parameters' form",)}
    assert set(await read_ours(client)) == set(ours)

    await _clear(client)
    plan = make_plan(pool=None, catalogue=SOME)
    for planned in plan.deployments:
        await runner_deployment(plan, planned).aapply()
    assert (await compare(plan)).current
