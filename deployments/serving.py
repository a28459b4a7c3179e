"""All deployments served by one process: it makes them, looks for their runs, executes each in a process below it."""

from collections.abc import Callable
from typing import Literal

from prefect import aserve
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.utilities.callables import ParameterSchema

from deployments.apply import DeployError, apply, find_in_pools, schedules_of
from deployments.plan import Plan, Planned, make_plan


class StrictParameterSchema(ParameterSchema):
    """Prefect's own, which also says that there are no parameters but these."""

    additionalProperties: Literal[False] = False  # noqa: N815 - the name is JSON Schema's


async def serve_all(*, limit: int, hourly: bool, take_over: bool, say: Callable[[str], None]) -> None:
    """Make all deployments, then execute their runs until interrupted.

    Args:
        limit: how many runs at a time.
        hourly: whether the hourly syncs are on.
        take_over: take deployments out of the work pool they are in; without it that is an error.
        say: is told one line for a person when all is ready.

    Raises:
        DeployError: the deployments belong to a work pool, whose workers would execute the same runs.
    """
    plan = make_plan(pool=None, hourly=hourly)
    await _leave_pools(take_over=take_over)
    await apply(plan)
    say(f"{len(plan.deployments)} deployments; {limit} runs at a time. Ctrl-C stops it.")
    await aserve(
        *(runner_deployment(plan, planned) for planned in plan.deployments),
        # True, the default, would pause the schedules at every restart.
        pause_on_shutdown=False,
        print_starting_message=False,
        limit=limit,
    )


async def _leave_pools(*, take_over: bool) -> None:
    """A server cannot take a deployment out of its pool; so it is deleted, and made anew. Past runs stay."""
    async with get_client() as client:
        pooled = await find_in_pools(client)
        if pooled and not take_over:
            pool = next(iter(pooled.values())).work_pool_name
            raise DeployError(
                f"The deployments belong to the work pool '{pool}', as `kommo deploy` makes them. Start a worker "
                f"instead (prefect worker start --pool {pool}), or take them out of it: kommo serve --take-over"
            )
        for there in pooled.values():
            await client.delete_deployment(there.id)


def runner_deployment(plan: Plan, planned: Planned) -> RunnerDeployment:
    """A planned deployment as Prefect's runner takes it; what it writes is what `apply` has written."""
    made = RunnerDeployment(
        name=planned.name,
        flow_name=planned.flow.name,
        entrypoint=planned.entry.entrypoint,
        version=plan.version,
        description=planned.entry.description,
        tags=planned.tags,
        schedules=schedules_of(planned),
        parameters=dict(planned.parameters),
        concurrency_limit=planned.entry.limit,
        concurrency_options=planned.concurrency_options,
    )
    made._parameter_openapi_schema = StrictParameterSchema(**planned.schema)
    return made
