"""The doctor's checks of how it runs: work pool, workers, queues, deployments, schedules, runs that are late."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from deployments.apply import compare, read_ours
from deployments.catalogue import CATALOGUE, POOL, Queue
from deployments.plan import PoolType, make_plan
from tasks.doctor import CHECKS, Check, Finding, SkippedError, Surroundings
from tasks.doctor.checks import fault, ok, warning

GROUP = "Deployments"
ALIVE = timedelta(seconds=90)
"""A worker says every 30 s that it lives."""
MANY_LATE = 20
_SHARD = re.compile(r"-\d+-of-(\d+)$")


async def _all_of_ours(around: Surroundings) -> Mapping[str, DeploymentResponse]:
    client = await around.prefect()
    return await around.shared("deployments", lambda: read_ours(client))


async def _ours(around: Surroundings) -> Mapping[str, DeploymentResponse]:
    found = await _all_of_ours(around)
    if not found:
        raise SkippedError("There are no deployments of ours.")
    return found


async def _pool(around: Surroundings) -> WorkPool:
    names = {there.work_pool_name for there in (await _ours(around)).values()} - {None}
    if not names:
        raise SkippedError("The deployments belong to no work pool: kommo serve executes them.")
    name = POOL if POOL in names else min(map(str, names))
    try:
        return await (await around.prefect()).read_work_pool(name)
    except ObjectNotFound:
        raise SkippedError("The work pool is gone.") from None


async def _current(around: Surroundings) -> list[Finding]:
    found = await _all_of_ours(around)
    if not found:
        return warning("There are no deployments: nothing runs by itself.", "kommo deploy (or kommo serve)")
    pools = {there.work_pool_name for there in found.values()}
    shards = max((int(m[1]) for name in found if (m := _SHARD.search(name))), default=1)
    pool = None if pools == {None} else POOL if POOL in pools else min(str(one) for one in pools if one)
    kind, image = PoolType.PROCESS, None
    if pool is not None:
        try:
            kind = PoolType((await (await around.prefect()).read_work_pool(pool)).type)
        except ObjectNotFound:
            return fault(f"The work pool '{pool}' is gone.", f"kommo deploy --pool {pool}")
        except ValueError:
            pass
        image = next(
            (
                str(there.job_variables["image"])
                for there in found.values()
                if there.job_variables.get("image")
            ),
            None,
        )
    plan = make_plan(pool=pool, pool_type=kind, image=image, shards=shards, catalogue=CATALOGUE)
    outcome = await compare(plan, keep_schedules=True)
    if outcome.current:
        return ok(f"All {len(found)} deployments are as this version defines them.")
    names = [f"{step.name} ({'; '.join(step.why) or step.change})" for step in outcome.steps]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    again = "kommo serve" if pool is None else f"kommo deploy{f' --shards {shards}' if shards > 1 else ''}"
    return fault(
        f"{len(names)} deployments or queues are not as this version defines them: {', '.join(names[:3])}{more}.",
        f"{again} --keep-schedules" if pool else again,
    )


async def _schedules(around: Surroundings) -> list[Finding]:
    found = await _ours(around)
    standing = {entry.name for entry in CATALOGUE if entry.cron and entry.active}
    off = sorted(
        name
        for name, there in found.items()
        if _SHARD.sub("", there.name) in standing
        and there.schedules
        and (there.paused or not any(row.active for row in there.schedules))
    )
    if off:
        return fault(
            f"{len(off)} deployments that must run by themselves have their schedule switched off: "
            f"{', '.join(off[:5])}.",
            f"prefect deployment resume {off[0]} (and kommo deploy switches schedules on again)",
        )
    return ok("All standing schedules are on.")


async def _workers(around: Surroundings) -> list[Finding]:
    pool = await _pool(around)
    start = f"prefect worker start --pool {pool.name}"
    if pool.is_paused:
        return fault(f"The work pool '{pool.name}' is paused.", f"prefect work-pool resume {pool.name}")
    workers = await (await around.prefect()).read_workers_for_work_pool(pool.name)
    now = datetime.now(UTC)
    beats = [worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time]
    alive = sum(now - beat < ALIVE for beat in beats)
    if alive:
        return ok(f"{alive} workers of '{pool.name}' are alive.")
    if not beats:
        return fault(f"No worker has ever looked into '{pool.name}': no run begins.", start)
    return fault(
        f"No worker of '{pool.name}' is alive: the last was heard of at {max(beats):%Y-%m-%d %H:%M} UTC.",
        start,
    )


async def _queues(around: Surroundings) -> list[Finding]:
    pool = await _pool(around)
    queues = await (await around.prefect()).read_work_queues(work_pool_name=pool.name)
    ours = {queue.value for queue in Queue}
    paused = [queue.name for queue in queues if queue.name in ours and queue.is_paused]
    if paused:
        return fault(
            f"The queue '{paused[0]}' of '{pool.name}' is paused: its runs do not begin.",
            f"prefect work-queue resume {paused[0]} --pool {pool.name}",
        )
    return ok("No queue is paused.")


async def _late(around: Surroundings) -> list[Finding]:
    await _ours(around)
    late = await (await around.prefect()).read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"]))),
        limit=MANY_LATE + 1,
    )
    if len(late) > MANY_LATE:
        return fault(
            f"More than {MANY_LATE} runs are late: there are too few workers, or a queue is full.",
            "prefect worker start --pool kommo, on one more machine; prefect flow-run ls --state Late",
        )
    return ok(f"{len(late)} runs are late.")


DEPLOYMENT_CHECKS = (
    Check("deployments", GROUP, "the deployments", _current),
    Check("schedules", GROUP, "schedules", _schedules),
    Check("workers", GROUP, "workers", _workers),
    Check("queues", GROUP, "queues", _queues),
    Check("late-runs", GROUP, "runs that are late", _late),
)
ALL_CHECKS = (*CHECKS, *DEPLOYMENT_CHECKS)
