"""Bring a Prefect server to a plan: look what differs, mend that, remove what is not planned any more.

It can be repeated: what is as planned is not touched, so that its coming runs stay. What an operator has paused by hand
(a deployment, a queue, the pool) stays paused; `Outcome.notes` says so.
"""

from dataclasses import dataclass, field
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags, FlowFilter, FlowFilterId
from prefect.client.schemas.objects import WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound

from deployments.catalogue import TAG, Queue
from deployments.plan import Plan, Planned
from tasks.errors import DataPlaneError

POOL_PURPOSE = "The flows of the Kommo data plane; made by `kommo deploy`."
_PAGE = 200


class DeployError(DataPlaneError):
    """The deployments could not be made; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that differs: `change` is create, update or remove, `why` says in what."""

    what: str
    name: str
    change: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What differed, what was as planned, and what a person should know."""

    steps: tuple[Step, ...]
    unchanged: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def current(self) -> bool:
        """Whether nothing differed."""
        return not self.steps


@dataclass
class _Found:
    """What the server has."""

    deployments: dict[str, DeploymentResponse]
    pool: WorkPool | None = None
    queues: dict[str, WorkQueue] = field(default_factory=dict)


async def compare(plan: Plan, *, keep_schedules: bool = False) -> Outcome:
    """Say what differs between a plan and the server, and change nothing.

    Args:
        plan: what should be there.
        keep_schedules: schedules of deployments that exist are as they should be, whatever they are.
    """
    async with get_client() as client:
        return _compare(plan, await _find(client, plan), keep_schedules=keep_schedules)


async def apply(plan: Plan, *, keep_schedules: bool = False) -> Outcome:
    """Bring the server to a plan.

    Args:
        plan: what should be there.
        keep_schedules: leave the schedules of deployments that exist as they are.

    Returns:
        What was done.

    Raises:
        DeployError: the pool exists with workers of another type, or there is no template for its type.
    """
    async with get_client() as client:
        found = await _find(client, plan)
        outcome = _compare(plan, found, keep_schedules=keep_schedules)
        if plan.pool:
            await _apply_pool(client, plan, found)
        changed = {step.name for step in outcome.steps if step.what == "deployment"}
        for planned in plan.deployments:
            if planned.full_name in changed:
                there = found.deployments.get(planned.full_name)
                await _put(client, plan, planned, there if keep_schedules else None)
        for name in _left_over(plan, found):
            await client.delete_deployment(found.deployments[name].id)
    return outcome


async def read_ours(client: PrefectClient) -> dict[str, DeploymentResponse]:
    """All deployments that carry our tag, by their full name."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    rows: list[DeploymentResponse] = []
    while True:
        page = await client.read_deployments(deployment_filter=ours, limit=_PAGE, offset=len(rows))
        rows += page
        if len(page) < _PAGE:
            break
    if not rows:
        return {}
    theirs = FlowFilter(id=FlowFilterId(any_=list({row.flow_id for row in rows})))
    flows = {flow.id: flow.name for flow in await client.read_flows(flow_filter=theirs, limit=_PAGE)}
    return {f"{flows[row.flow_id]}/{row.name}": row for row in rows}


async def find_in_pools(client: PrefectClient) -> dict[str, DeploymentResponse]:
    """Those of ours that belong to a work pool."""
    return {name: there for name, there in (await read_ours(client)).items() if there.work_pool_name}


async def _find(client: PrefectClient, plan: Plan) -> _Found:
    found = _Found(deployments=await read_ours(client))
    for planned in plan.deployments:  # one that somebody else has made under our name, without our tag
        if planned.full_name not in found.deployments:
            try:
                there = await client.read_deployment_by_name(planned.full_name)
            except ObjectNotFound:
                continue
            found.deployments[planned.full_name] = there
    if plan.pool:
        try:
            found.pool = await client.read_work_pool(plan.pool)
        except ObjectNotFound:
            return found
        found.queues = {
            queue.name: queue for queue in await client.read_work_queues(work_pool_name=plan.pool)
        }
    return found


def _compare(plan: Plan, found: _Found, *, keep_schedules: bool) -> Outcome:
    steps: list[Step] = []
    unchanged: list[str] = []
    notes: list[str] = []
    if plan.pool:
        if found.pool is None:
            steps.append(Step("work pool", plan.pool, "create", (f"type {plan.pool_type}",)))
        else:
            unchanged.append(plan.pool)
        for queue, limit in plan.limits.items():
            _settle(
                steps, unchanged, "work queue", f"{plan.pool}/{queue}", _queue_differs(queue, limit, found)
            )
        notes += _pool_notes(plan, plan.pool, found)
    for planned in plan.deployments:
        was = found.deployments.get(planned.full_name)
        why = None if was is None else _differs(plan, planned, was, keep_schedules=keep_schedules)
        _settle(steps, unchanged, "deployment", planned.full_name, why)
        if was is not None and was.paused:
            notes.append(f"{planned.full_name} is paused by hand; it stays so until somebody resumes it.")
    steps += [
        Step("deployment", name, "remove", ("not defined any more",)) for name in _left_over(plan, found)
    ]
    return Outcome(tuple(steps), tuple(unchanged), tuple(notes))


def _settle(
    steps: list[Step], unchanged: list[str], what: str, name: str, why: tuple[str, ...] | None
) -> None:
    if why is None:
        steps.append(Step(what, name, "create"))
    elif why:
        steps.append(Step(what, name, "update", why))
    else:
        unchanged.append(name)


def _pool_notes(plan: Plan, pool: str, found: _Found) -> list[str]:
    notes = []
    if found.pool and found.pool.type != plan.pool_type:
        notes.append(f"The work pool '{pool}' is of type {found.pool.type}, not {plan.pool_type}.")
    if found.pool and found.pool.is_paused:
        notes.append(f"The work pool '{pool}' is paused: prefect work-pool resume {pool}")
    notes += [
        f"The queue '{queue}' is paused: prefect work-queue resume {queue} --pool {pool}"
        for queue in plan.limits
        if (there := found.queues.get(queue)) and there.is_paused
    ]
    return notes


def _left_over(plan: Plan, found: _Found) -> list[str]:
    planned = {one.full_name for one in plan.deployments}
    return sorted(
        name for name, there in found.deployments.items() if name not in planned and TAG in there.tags
    )


def _queue_differs(queue: Queue, limit: int, found: _Found) -> tuple[str, ...] | None:
    there = found.queues.get(queue)
    if there is None:
        return None
    return tuple(
        f"{what}: {was} → {wanted}"
        for what, was, wanted in (
            ("limit", there.concurrency_limit, limit),
            ("priority", there.priority, queue.priority),
        )
        if was != wanted
    )


def _differs(
    plan: Plan, planned: Planned, there: DeploymentResponse, *, keep_schedules: bool
) -> tuple[str, ...]:
    limit = there.global_concurrency_limit
    strategy = there.concurrency_options.collision_strategy if there.concurrency_options else None
    pairs: list[tuple[str, object, object]] = [
        ("pool", there.work_pool_name, plan.pool),
        ("queue", there.work_queue_name if there.work_pool_name else None, _queue(plan, planned)),
        ("entrypoint", there.entrypoint, planned.entry.entrypoint),
        ("version", there.version, plan.version),
        ("tags", sorted(there.tags), planned.tags),
        ("parameters", there.parameters, dict(planned.parameters)),
        ("limit", limit.limit if limit else None, planned.entry.limit),
        (
            "on collision",
            strategy,
            planned.concurrency_options and planned.concurrency_options.collision_strategy,
        ),
        ("image", there.job_variables.get("image"), plan.image),
        ("pull steps", there.pull_steps or [], []),
    ]
    if not keep_schedules:
        pairs.append(("schedule", _shown(there), _planned_schedule(planned)))
    why = [f"{what}: {_say(was)} → {_say(wanted)}" for what, was, wanted in pairs if was != wanted]
    if there.description != planned.entry.description:
        why.append("description")
    if there.parameter_openapi_schema != planned.schema or not there.enforce_parameter_schema:
        why.append("parameters' form")
    return tuple(why)


def _say(value: object) -> str:
    return "none" if value is None or value in ([], {}) else str(value)


def _shown(there: DeploymentResponse) -> str | None:
    """The schedules of a deployment in one text, to be compared and read."""
    return " and ".join(map(_shown_schedule, there.schedules)) or None


def _shown_schedule(row: Any) -> str:  # noqa: ANN401 - Prefect's three kinds have no common type
    schedule = row.schedule
    text = f"{schedule.cron} {schedule.timezone}" if isinstance(schedule, CronSchedule) else str(schedule)
    return text + ("" if row.active else " (off)") + (f" with {row.parameters}" if row.parameters else "")


def _planned_schedule(planned: Planned) -> str | None:
    return None if planned.cron is None else f"{planned.cron} UTC" + ("" if planned.active else " (off)")


def _queue(plan: Plan, planned: Planned) -> str | None:
    return planned.entry.queue.value if plan.pool else None


def schedules_of(planned: Planned) -> list[DeploymentScheduleCreate]:
    """Its schedule, for Prefect's client."""
    if planned.cron is None:
        return []
    schedule = CronSchedule(cron=planned.cron, timezone="UTC")
    return [DeploymentScheduleCreate(schedule=schedule, active=planned.active, slug=planned.entry.name)]


async def _put(client: PrefectClient, plan: Plan, planned: Planned, kept: DeploymentResponse | None) -> None:
    """Make the deployment, or make it what it should be: the server replaces one of the same name."""
    schedules = schedules_of(planned)
    if kept is not None:
        schedules = [
            DeploymentScheduleCreate(
                schedule=row.schedule, active=row.active, parameters=row.parameters, slug=row.slug
            )
            for row in kept.schedules
        ]
    await client.create_deployment(
        flow_id=await client.create_flow_from_name(planned.flow.name),
        name=planned.name,
        version=plan.version,
        description=planned.entry.description,
        tags=planned.tags,
        entrypoint=planned.entry.entrypoint,
        work_pool_name=plan.pool,
        work_queue_name=_queue(plan, planned),
        parameters=dict(planned.parameters),
        parameter_openapi_schema=planned.schema,
        enforce_parameter_schema=True,
        schedules=schedules,
        concurrency_limit=planned.entry.limit,
        concurrency_options=planned.concurrency_options,
        job_variables=plan.job_variables,
        pull_steps=[],
    )


async def _apply_pool(client: PrefectClient, plan: Plan, found: _Found) -> None:
    assert plan.pool is not None  # noqa: S101 - for the type checker; the caller has looked
    if found.pool is None:
        # Imported where it is needed: with it come Prefect's workers and its runner, a third of a second.
        from prefect.workers.utilities import (  # noqa: PLC0415 - see above
            get_default_base_job_template_for_infrastructure_type,
        )

        template = await get_default_base_job_template_for_infrastructure_type(plan.pool_type)
        if template is None:
            raise DeployError(
                f"Prefect knows no workers of type {plan.pool_type} here. Install its integration "
                f"(prefect-{plan.pool_type}) beside this program, or make the pool yourself: "
                f"prefect work-pool create {plan.pool} --type {plan.pool_type}"
            )
        await client.create_work_pool(
            WorkPoolCreate(
                name=plan.pool, type=plan.pool_type, description=POOL_PURPOSE, base_job_template=template
            )
        )
    elif found.pool.type != plan.pool_type:
        raise DeployError(
            f"The work pool '{plan.pool}' is for {found.pool.type} workers, and the type of a pool cannot be changed. "
            f"Say --pool-type {found.pool.type}, or choose another name with --pool."
        )
    for queue, limit in plan.limits.items():
        there = found.queues.get(queue)
        if there is None:
            await client.create_work_queue(
                queue.value,
                description=queue.purpose,
                concurrency_limit=limit,
                priority=queue.priority,
                work_pool_name=plan.pool,
            )
        elif _queue_differs(queue, limit, found):
            await client.update_work_queue(
                there.id, concurrency_limit=limit, priority=queue.priority, description=queue.purpose
            )
