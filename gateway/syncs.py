"""Syncs that somebody asks for and may wait for: of those who ask for the same at once, one run does the work.

Where Prefect has the deployment, a worker runs it; over all gateways there is one run, because the newest run with this
org and scope decides: one that has not ended is joined, and one that has gives the key (for Prefect's idempotency)
under which the next one is made. Without a deployment the flow runs in this process, as a first sync does.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.full_sync import full_crm_sync
from gateway.background import Background
from kommo.clock import Clock
from store.database import Database
from store.runs import RunRecord, RunState, find_run
from tasks.errors import sentence_of
from tasks.scopes import Scope, SyncScope

DEPLOYMENT = "full-crm-sync/on-demand"
_JOINED_WITHIN = timedelta(minutes=15)
"""A run that was to begin longer ago and has not ended is not waited for: its process was probably killed."""
_ATTEMPTS = 3
_PAUSE = 0.5
_MOST_HERE = 4
_CHAIN = 4
_ASK_STORE = 0.25
_ASK_PREFECT = 2.0
_PATIENCE = 8.0
"""Seconds that Prefect has to take a run; its client alone would wait for minutes."""
_ASK_PATIENCE = 3.0

_log = logging.getLogger("gateway.syncs")


class SyncUnavailableError(Exception):
    """No run could be started; the same may work in a little while."""


class Phase(StrEnum):
    """How a sync stands."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come of it."""
        return self in {Phase.COMPLETED, Phase.FAILED}


@dataclass(frozen=True)
class SyncStanding:
    """How a sync that was asked for stands.

    Attributes:
        run_id: what it is asked for by: the id of the flow run.
        phase: how far it has come.
        reason: why it failed, a sentence.
        record: what it has written down; None before it has begun.
    """

    run_id: str
    phase: Phase
    reason: str | None = None
    record: RunRecord | None = None


@dataclass(eq=False)
class _Local:
    """A sync that runs in this process."""

    org: str
    began: "asyncio.Future[UUID]"
    task: "asyncio.Task[None] | None" = None
    reason: str | None = None


@dataclass(eq=False)
class _Watch:
    """Looks how a run stands, for all who wait for it."""

    task: "asyncio.Task[SyncStanding]"
    waiting: int = 0


@dataclass
class _Here:
    by_scope: dict[tuple[str, Scope], _Local] = field(default_factory=dict)
    by_run: dict[str, _Local] = field(default_factory=dict)


class Syncs:
    """The syncs of this process's callers.

    Args:
        database: An open database.
        background: What goes on after an answer.
        clock: Source of time.
    """

    def __init__(self, database: Database, background: Background, clock: Clock) -> None:
        self._database = database
        self._background = background
        self._clock = clock
        self._starting: dict[tuple[str, Scope], asyncio.Task[str]] = {}
        self._here = _Here()
        self._watches: dict[str, _Watch] = {}

    async def start(self, org: str, scope: Scope) -> str:
        """Have an org synced; gives the id of the run, the same to all who ask at once.

        Raises:
            SyncUnavailableError: Prefect did not take it, or too many run here.
        """
        key = (org, scope)
        task = self._starting.get(key)
        if task is None:
            task = asyncio.create_task(self._start(org, scope))
            self._starting[key] = task
            task.add_done_callback(lambda done: self._started(key, done))
        # Whoever goes away meanwhile takes nothing from the others.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up what is being started; a run that Prefect has taken goes on."""
        tasks = [*self._starting.values(), *(watch.task for watch in self._watches.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _started(self, key: tuple[str, Scope], task: "asyncio.Task[str]") -> None:
        del self._starting[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def standing(self, org: str, run_id: str, *, since: datetime | None = None) -> SyncStanding | None:
        """How a sync of an org stands; None if there is no such run of this org.

        Args:
            org: The product's tenant.
            run_id: From `start`.
            since: When it was asked for, if that is known.
        """
        told = await self._written(org, run_id, since)
        if told is not None and told.phase.is_final:
            return told
        local = self._here.by_run.get(run_id)
        if local is not None and local.org == org:
            return told or SyncStanding(run_id, Phase.RUNNING)
        seen = await self._seen_by_prefect(org, run_id)
        if seen is None or not seen.phase.is_final:
            return told or seen
        # It may have written its end after we had looked.
        told = await self._written(org, run_id, since)
        return told if told is not None and told.phase.is_final else seen

    async def wait(self, org: str, run_id: str, seconds: float) -> SyncStanding:
        """Wait for the end of a sync, for so many seconds at most."""
        since = self._clock.now() - _JOINED_WITHIN
        local = self._here.by_run.get(run_id)
        if local is not None and local.task is not None:
            await asyncio.wait({local.task}, timeout=seconds)
            if local.task.done():
                told = await self._written(org, run_id, since)
                return told or SyncStanding(run_id, Phase.FAILED, local.reason)
        elif seconds > 0:
            ended = await self._watched(org, run_id, since, seconds)
            if ended is not None:
                return ended
        return await self._written(org, run_id, since) or SyncStanding(run_id, Phase.SCHEDULED)

    async def _watched(self, org: str, run_id: str, since: datetime, seconds: float) -> SyncStanding | None:
        """The end of a run, if it comes in time. However many wait for it, one looks."""
        watch = self._watches.get(run_id)
        if watch is None:
            watch = _Watch(asyncio.create_task(self._end_of(org, run_id, since)))
            self._watches[run_id] = watch
        watch.waiting += 1
        try:
            await asyncio.wait({watch.task}, timeout=seconds)
        finally:
            watch.waiting -= 1
            if not watch.waiting or watch.task.done():
                watch.task.cancel()
                if self._watches.get(run_id) is watch:
                    del self._watches[run_id]
        return watch.task.result() if watch.task.done() and not watch.task.cancelled() else None

    async def _end_of(self, org: str, run_id: str, since: datetime) -> SyncStanding:
        asked = self._clock.monotonic()
        while True:
            standing = await self._written(org, run_id, since)
            is_final = standing is not None and standing.phase.is_final
            if not is_final and self._clock.monotonic() - asked >= _ASK_PREFECT:
                standing = await self.standing(org, run_id, since=since)
                asked = self._clock.monotonic()
            if standing is not None and standing.phase.is_final:
                return standing
            await self._clock.sleep(_ASK_STORE)

    async def _written(self, org: str, run_id: str, since: datetime | None) -> SyncStanding | None:
        record = await find_run(self._database, org, run_id, since=since)
        if record is None:
            return None
        phase = Phase.RUNNING if record.state == RunState.RUNNING else Phase.FAILED
        if record.state == RunState.COMPLETED:
            phase = Phase.COMPLETED
        return SyncStanding(run_id, phase, record.reason, record)

    async def _start(self, org: str, scope: Scope) -> str:
        local = self._here.by_scope.get((org, scope))
        if local is not None and local.task is not None:
            run_id = str(await asyncio.shield(local.began))
            if not await self._has_read(org, run_id):
                return run_id
            await asyncio.wait({local.task})
        if PREFECT_API_URL.value():
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    async with asyncio.timeout(_PATIENCE):
                        run = await self._run_of_deployment(org, scope)
                except Exception as error:
                    _log.warning("Prefect did not take a sync of %s (%s)", org, type(error).__name__)
                    if attempt == _ATTEMPTS:
                        raise SyncUnavailableError from error
                    await self._clock.sleep(_PAUSE * attempt)
                else:
                    if run is not None:
                        return str(run.id)
                    _log.warning("Prefect has no deployment %s: the sync of %s runs here.", DEPLOYMENT, org)
                    break
        return await self._start_here(org, scope)

    async def _run_of_deployment(self, org: str, scope: Scope) -> FlowRun | None:
        """The run that does it: one that has not ended, or else a new one; None if there is no such deployment."""
        tag, now = f"sync-crm:{org}:{scope.value}", self._clock.now()
        async with get_client() as client:
            try:
                deployment = (await client.read_deployment_by_name(DEPLOYMENT)).id
            except ObjectNotFound:
                return None
            run = await _newest(client, tag)
            goes_on = run is not None and run.deployment_id == deployment and not _has_ended(run, now)
            if run is not None and goes_on and not await self._has_read(org, str(run.id)):
                return run
            for _ in range(_CHAIN):
                before = "first" if run is None else str(run.id)
                run = await client.create_flow_run_from_deployment(
                    deployment,
                    parameters={"org": org, "scope": scope.value},
                    idempotency_key=f"{tag}:{before}",
                    tags=["kommo", "sync-crm", tag],
                )
                # The key is that of a run which has come and gone between our two looks, or which somebody has hidden.
                if not _has_ended(run, now):
                    break
            return run

    async def _has_read(self, org: str, run_id: str) -> bool:
        """Whether a run has read everything already, and only its report is still to come: too late to join it."""
        told = await self._written(org, run_id, self._clock.now() - _JOINED_WITHIN)
        return told is not None and told.phase.is_final

    async def _start_here(self, org: str, scope: Scope) -> str:
        if len(self._here.by_scope) >= _MOST_HERE:
            raise SyncUnavailableError
        local = _Local(org, asyncio.get_running_loop().create_future())
        what = f"sync of {org} ({scope.value})"
        local.task = self._background.start(what, what, self._run_here(org, scope, local))
        if local.task is None:
            raise SyncUnavailableError
        self._here.by_scope[org, scope] = local
        local.task.add_done_callback(lambda _: self._ended_here(org, scope, local))
        both: set[asyncio.Future[Any]] = {local.task, local.began}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not local.began.done():
            local.began.cancel()
            raise SyncUnavailableError
        run_id = str(local.began.result())
        self._here.by_run[run_id] = local
        return run_id

    def _ended_here(self, org: str, scope: Scope, local: _Local) -> None:
        del self._here.by_scope[org, scope]
        if local.began.done() and not local.began.cancelled():
            self._here.by_run.pop(str(local.began.result()), None)

    async def _run_here(self, org: str, scope: Scope, local: _Local) -> None:
        async def began(flow: object, flow_run: FlowRun, state: object) -> None:
            del flow, state
            if not local.began.done():
                local.began.set_result(flow_run.id)

        try:
            await full_crm_sync.with_options(on_running=[began])(org, SyncScope(scope))
        except Exception as error:
            local.reason = sentence_of(error)
            raise

    async def _seen_by_prefect(self, org: str, run_id: str) -> SyncStanding | None:
        """What Prefect knows of a run of this org; None if it knows none, or is away."""
        if not PREFECT_API_URL.value():
            return None
        with contextlib.suppress(Exception):  # it is asked beside the store, which knows what matters
            async with asyncio.timeout(_ASK_PATIENCE), get_client() as client:
                run = await client.read_flow_run(UUID(run_id))
            if run.parameters.get("org") == org and run.state is not None:
                if not run.state.is_final():
                    running = run.state.is_running()
                    return SyncStanding(run_id, Phase.RUNNING if running else Phase.SCHEDULED)
                reason = (
                    f"The run ended as {run.state.type.value.lower()} without a report of its own. Its page in "
                    "Prefect has the log."
                )
                return SyncStanding(run_id, Phase.FAILED, reason)
        return None


async def _newest(client: PrefectClient, tag: str) -> FlowRun | None:
    # Of all deployments that there ever were, because keys are unique within the flow.
    found = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[full_crm_sync.name])),
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return found[0] if found else None


def _has_ended(run: FlowRun, now: datetime) -> bool:
    if run.state is not None and run.state.is_final():
        return True
    begin = run.expected_start_time
    return begin is not None and begin < now - _JOINED_WITHIN
