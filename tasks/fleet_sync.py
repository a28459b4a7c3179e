"""The tasks that sync a fleet: a task run for a page of orgs; one costs Prefect's server 20 ms, a flow run 1.4 s.

What became of each org is in our own tables, as after a sync of its own. Told one by one is only what somebody wants to
know of one org: that it failed, or that its set-up has changed.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from kommo.clock import Clock
from store.connections import ConnectionRecord
from store.database import Database
from store.fleet import Round, count_due, end_turns, keep_turns, take_orgs
from tasks.backlog_clients import OpenClients
from tasks.progress import FleetProgress, try_to_show
from tasks.publish import FAILING, publish_drift
from tasks.reports import FleetReport, SyncReport
from tasks.scopes import Scope
from tasks.sync_org import OrgSync, sync_org

PAGE = 100
"""Orgs of one task run: 20 ms of it against half a minute of work."""
TURN_SECONDS = 120.0
"""Seconds for which an org is held; of a killed process nobody has to wait longer."""
_KEEP_EVERY = 30.0
_IN_A_ROW = 40
"""So many orgs one after the other that fail for a fault that passes: Kommo is down, and the rest is left for later."""
_MOST_ANNOUNCED = 500
"""So many failures of one run are announced one by one; Prefect's server loses events of a burst of ten thousand."""

_log = logging.getLogger(__name__)

Announce = Callable[[str, str, dict[str, object]], None]
"""Emits a Prefect event: name, org, payload."""


class FleetSession:
    """What the tasks work with; not a dataclass or pydantic model, because Prefect walks into those.

    Args:
        database: The store.
        clients: Where the clients come from.
        scope: What to read of each org.
        todo: Which orgs.
        clock: Time, waiting and chance.
        owner: Who holds the turns.
        announce: Emits Prefect events.
        concurrency: How many orgs at a time.
    """

    def __init__(
        self,
        *,
        database: Database,
        clients: OpenClients,
        scope: Scope,
        todo: Round,
        clock: Clock,
        owner: str,
        announce: Announce,
        concurrency: int,
    ) -> None:
        self.database = database
        self.clients = clients
        self.scope = scope
        self.todo = todo
        self.clock = clock
        self.owner = owner
        self.announce = announce
        self.turn = asyncio.Semaphore(concurrency)
        self.progress = FleetProgress()
        self.stopped: str | None = None
        self._in_a_row = 0
        self._announced = 0

    def __repr__(self) -> str:
        return f"FleetSession(scope={self.scope.value!r})"

    def note(self, done: OrgSync) -> None:
        """Tell of one org, and stop the run where going on is of no use."""
        self.progress.step(done.org, failed=done.failed)
        if isinstance(done.outcome, SyncReport):
            facts = done.outcome.facts()
        else:
            facts = {"org": done.org, "scope": self.scope.value, "state": "failed", "reason": done.outcome}
        if done.failed and self._announced < _MOST_ANNOUNCED:
            self._announced += 1
            self.announce("kommo.sync.failed", done.org, facts)
            if isinstance(done.outcome, SyncReport) and done.outcome.failures_in_a_row == FAILING:
                self.announce("kommo.sync.failing", done.org, facts)
        self._in_a_row = self._in_a_row + 1 if done.passes else 0
        if self.stopped is None and (done.is_stop or self._in_a_row >= _IN_A_ROW):
            self.stopped = str(done.error)


class FleetPage:
    """Some orgs that are this process's now; its text is what the task run is called."""

    def __init__(self, number: int, connections: Sequence[ConnectionRecord]) -> None:
        self.number = number
        self.connections = connections

    def __repr__(self) -> str:
        first, last = self.connections[0].org, self.connections[-1].org
        return f"page {self.number}: {len(self.connections)} orgs, {first} to {last}"

    @property
    def orgs(self) -> list[str]:
        """Their names."""
        return [one.org for one in self.connections]


async def begin_fleet(session: FleetSession) -> int:
    """How many orgs are to be synced; shown as progress from now on."""
    due = await count_due(session.database, session.todo, moment=session.clock.now())
    await session.progress.start(due)
    return due


async def next_page(session: FleetSession, number: int) -> FleetPage | None:
    """Take the next orgs, None when nothing is left to be taken."""
    if session.stopped is not None:
        return None
    taken = await take_orgs(
        session.database, session.owner, TURN_SECONDS, session.todo, limit=PAGE, moment=session.clock.now()
    )
    return FleetPage(number, taken) if taken else None


@task(
    name="sync-page",
    task_run_name="{page}",
    description="Sync a page of orgs, several at a time; each has a run of its own in the store.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def sync_page(session: FleetSession, page: FleetPage) -> FleetReport:
    """Sync a page of orgs; one that fails does not stop the rest.

    Args:
        session: What to work with; its limit of orgs at a time holds for all pages together.
        page: The orgs, taken by this session.
    """
    report = FleetReport(scope=session.scope.value)

    async def one(connection: ConnectionRecord) -> None:
        async with session.turn:
            if session.stopped is not None:
                return
            done = await sync_org(session.database, session.clients, connection, session.scope, session.clock)
            if done.ended:
                return
            report.count(done.org, done.outcome)
            session.note(done)
            if isinstance(done.outcome, SyncReport):
                await try_to_show(publish_drift(done.outcome))

    async with _kept(session, page.orgs):
        await session.clients.read_ahead(page.connections)
        try:
            async with asyncio.TaskGroup() as group:
                for connection in page.connections:
                    group.create_task(one(connection))
        except BaseExceptionGroup as errors:
            # What ends all of them is seldom more than one thing, the database for example; the first says which.
            raise errors.exceptions[0] from None
    await session.progress.show()
    _log.info("%s: %d synced, %d failed", page, report.completed, report.failed)
    return report


@contextlib.asynccontextmanager
async def _kept(session: FleetSession, orgs: Sequence[str]) -> AsyncIterator[None]:
    """Keep the turns of these orgs up for as long as the block lasts, then give them back."""

    async def keep() -> None:
        while True:
            await session.clock.sleep(_KEEP_EVERY)
            try:
                await keep_turns(session.database, session.owner, orgs, TURN_SECONDS)
            except Exception as error:  # noqa: BLE001 - a turn outlasts three failures; after that another run may take it
                _log.warning("the turns of %d orgs were not kept up: %s", len(orgs), type(error).__name__)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.shield(end_turns(session.database, session.owner, orgs))


@task(
    name="publish-fleet-report",
    description="Put what came of the sync of many orgs where people and automations see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_fleet_report(report: FleetReport) -> None:
    """Publish one report: the artifact `kommo-sync-all` with those that failed, and the event `kommo.fleet.synced`."""
    rows = [{"org": one.org, "sync": "failed", "why": one.reason} for one in report.failures]
    shard = "" if report.shard is None else f"-{report.shard.replace('/', '-of-')}"
    await acreate_table_artifact(
        rows or [{"org": "", "sync": "all good", "why": report.summary()}],
        key=f"kommo-sync-all{shard}",
        description=report.summary(),
    )
    emit_event(
        "kommo.fleet.synced",
        resource={"prefect.resource.id": "kommo.fleet", "prefect.resource.name": "fleet"},
        payload=report.model_dump(exclude={"failures"}),
    )
