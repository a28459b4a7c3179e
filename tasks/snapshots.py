"""The task that reads one group of kinds from Kommo and saves it as one snapshot."""

import asyncio
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from kommo.errors import KommoError
from store.snapshots import Saved, fail_snapshot, save_snapshot
from tasks.errors import DataPlaneError, sentence_of
from tasks.readers import read_group
from tasks.scopes import KINDS_OF_GROUP, Group
from tasks.session import SyncSession

LONGEST = 900.0
"""Seconds for one group: a handful of requests. Whatever may hang, a sync ends, and says which group it was."""


class GroupTookTooLongError(DataPlaneError):
    """A group of kinds was not read and saved in time."""


async def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Only faults that pass by themselves: a refused token stays refused."""
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, KommoError) and error.retryable


@task(
    name="snapshot-group",
    task_run_name="snapshot {group}",
    description="Read one group of kinds from Kommo and save it whole, in one transaction.",
    # The client has tried each request several times by then; this is for a fault that outlasts those seconds.
    retries=1,
    retry_delay_seconds=5,
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def snapshot_group(session: SyncSession, group: Group) -> dict[str, Saved]:
    """Read and save one group.

    Returns:
        What was saved, by kind.

    Raises:
        KommoError: Kommo did not give it; the snapshot is marked failed with the reason, others are untouched.
    """
    return await save_group(session, group)


async def save_group(session: SyncSession, group: Group) -> dict[str, Saved]:
    """The same without a task run of its own: where one is made for many orgs."""
    try:
        return await _read_and_saved(session, group)
    except Exception as error:
        await fail_snapshot(
            session.database,
            session.run_id,
            session.org,
            KINDS_OF_GROUP[group],
            reason=sentence_of(error),
            now=session.clock.now(),
        )
        raise


async def _read_and_saved(session: SyncSession, group: Group) -> dict[str, Saved]:
    read_started_at = session.clock.now()
    limit = asyncio.timeout(LONGEST)
    try:
        async with limit:
            rows = await read_group(session, group)
            return await save_snapshot(
                session.database,
                session.run_id,
                session.org,
                rows,
                read_started_at=read_started_at,
                now=session.clock.now(),
            )
    except TimeoutError:
        if not limit.expired():
            raise  # somebody else's
    raise GroupTookTooLongError(
        f"The {group} were not read and saved within {LONGEST / 60:.0f} minutes; what was there before stays. "
        "Sync again; `kommo budget` shows what else waits for its turn."
    )
