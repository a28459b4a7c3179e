"""The task that works off what webhooks have told: one org after the other, several side by side, lingering for more.

One run serves all orgs and stays for a while, because a run's start costs seconds (prefect-facts §0) and an event
should wait for a second at most. Any number of runs may work at once: an org's turn belongs to one of them (W2).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field

from kommo.clock import Clock
from store.backlog import Turn, backlog_counts, end_turn, take_turn
from store.database import Database
from store.errors import DatabaseUnavailableError
from tasks.backlog_clients import Clients
from tasks.backlog_turn import Options, TurnReport, TurnWorker

LONGEST_DRAIN = 900.0
"""Seconds after which a run ends though there is still work: the next one goes on, and this one's figures are seen."""
_OUTAGE_SECONDS = 60.0
"""A run that cannot reach the database for so long fails; the events are where they were."""
_SHOWN = 200

Announce = Callable[[str, str, dict[str, object]], None]
"""Emits a Prefect event: name, org, payload."""
Shard = tuple[int, int]

_log = logging.getLogger(__name__)


class BacklogRow(BaseModel):
    """How the backlog of one org stands at the end of a run."""

    org: str
    pending: int
    oldest_seconds: float = Field(description="Age of the oldest event that still waits.")
    dead: int = Field(description="Dead letters.")
    reason: str | None = Field(default=None, description="Why the org rests at the moment.")


class BacklogReport(BaseModel):
    """What one run of the backlog came to. Holds nothing of a customer's data."""

    turns: int = 0
    lost_turns: int = Field(default=0, description="Turns that another worker took over; they wrote nothing.")
    events: int = Field(default=0, description="Events settled.")
    told: dict[str, int] = Field(default_factory=dict, description="Outbox events by type.")
    failed: int = Field(default=0, description="Attempts that failed and will be repeated, or were the last.")
    dead: int = Field(default=0, description="Events given up in this run.")
    requests: int = Field(default=0, description="Requests sent to Kommo.")
    paused: dict[str, str] = Field(default_factory=dict, description="Org → why it had to rest.")
    seconds: float = 0.0
    backlog: list[BacklogRow] = Field(default_factory=list, description="What is left, and dead letters.")

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        pending, dead = (sum(getattr(row, name) for row in self.backlog) for name in ("pending", "dead"))
        oldest = max((row.oldest_seconds for row in self.backlog if row.pending), default=0.0)
        left = f"{pending} wait, the oldest for {oldest:.0f} s" if pending else "none waits"
        return (
            f"{self.events} events settled in {self.turns} turns, {sum(self.told.values())} told, "
            f"{self.requests} requests, {self.seconds:.1f} s; {left}; {dead} dead letters"
            f"{f', {self.dead} of them new' if self.dead else ''}"
            f"{f'; {len(self.paused)} orgs had to rest' if self.paused else ''}"
        )


class BacklogSession:
    """What a run works with.

    Deliberately not a dataclass or pydantic model: Prefect walks into those when a task gets one as an argument.

    Args:
        database: The store.
        clients: Where clients come from.
        clock: Source of time.
        owner: Whose turns these are; a name that no other run has.
        announce: Emits a Prefect event.
        options: How it is worked.
    """

    def __init__(
        self,
        *,
        database: Database,
        clients: Clients,
        clock: Clock,
        owner: str,
        announce: Announce,
        options: Options | None = None,
    ) -> None:
        self.database = database
        self.clients = clients
        self.clock = clock
        self.owner = owner
        self.announce = announce
        self.options = options or Options()

    def __repr__(self) -> str:
        return f"BacklogSession({self.owner!r})"


async def drain(
    session: BacklogSession,
    linger: float,
    *,
    orgs: Sequence[str] | None = None,
    shard: Shard | None = None,
    concurrency: int = 8,
) -> BacklogReport:
    """Work turns until nothing is due and the time to linger is over.

    Args:
        session: What to work with.
        linger: Seconds for which it waits for more.
        orgs: Only these orgs.
        shard: Only the orgs of this shard: which, of how many.
        concurrency: How many orgs at a time.

    Raises:
        DatabaseUnavailableError: the database was away for too long.
    """
    run = _Run(session, orgs, shard)
    begun = session.clock.monotonic()
    try:
        await _turns(run, session, linger, begun, concurrency)
    except BaseExceptionGroup as errors:
        # Of several workers that met the same outage, one says it; the others' turns end by themselves.
        raise errors.exceptions[0] from None
    run.report.requests = session.clients.requests_sent
    run.report.seconds = round(session.clock.monotonic() - begun, 3)
    run.report.backlog = await backlog_rows(session.database, session.clock)
    return run.report


async def _turns(run: "_Run", session: BacklogSession, linger: float, begun: float, concurrency: int) -> None:
    async with asyncio.TaskGroup() as group:
        free = asyncio.Semaphore(concurrency)
        while True:
            await free.acquire()
            # What is at work now may have more once it ends: only a look while nothing was at work is the last one.
            idle = run.at_work == 0
            turn = await run.next_turn()
            waited = session.clock.monotonic() - begun
            if turn is not None:
                run.at_work += 1
                group.create_task(run.work(turn, free))
                if waited < linger + LONGEST_DRAIN:
                    continue
            else:
                free.release()
            if waited >= linger and (turn is not None or idle):
                break
            await run.rest()


class _Run:
    """The turns of one run, and what they came to."""

    def __init__(self, session: BacklogSession, orgs: Sequence[str] | None, shard: Shard | None) -> None:
        self.report = BacklogReport()
        self.at_work = 0
        self._session = session
        self._orgs = orgs
        self._shard = shard
        self._worker = TurnWorker(session.database, session.clients, session.clock, session.options)
        self._away_since: float | None = None
        self._ended = asyncio.Event()

    async def rest(self) -> None:
        """Wait before looking again: there may be something new, or the org of a turn that ended may have more."""
        waits = [
            asyncio.ensure_future(self._session.clock.sleep(self._session.options.poll)),
            asyncio.ensure_future(self._ended.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        self._ended.clear()

    async def next_turn(self) -> Turn | None:
        """The next org's turn; None if nothing is due, or the database is away."""
        session = self._session
        try:
            turn = await take_turn(
                session.database,
                session.owner,
                session.options.turn_seconds,
                orgs=self._orgs,
                shard=self._shard,
                now=self._seconds,
            )
        except DatabaseUnavailableError:
            now = session.clock.monotonic()
            self._away_since = now if self._away_since is None else self._away_since
            if now - self._away_since > _OUTAGE_SECONDS:
                raise
            _log.warning("The database does not answer; the backlog waits for it.")
            return None
        self._away_since = None
        return turn

    async def work(self, turn: Turn, free: asyncio.Semaphore) -> None:
        """Work one turn, and give it back."""
        try:
            try:
                report = await self._worker.work(turn)
            except BaseException:
                await asyncio.shield(self._end(turn))
                raise
            self._count(report)
            trouble = report.trouble
            await self._end(
                turn, pause=trouble.pause if trouble else 0.0, reason=trouble.reason if trouble else None
            )
        except DatabaseUnavailableError:
            _log.warning("The database went away during a turn; the turn ends by itself.")
        finally:
            self.at_work -= 1
            self._ended.set()
            free.release()

    async def _end(self, turn: Turn, *, pause: float = 0.0, reason: str | None = None) -> None:
        await end_turn(self._session.database, turn, pause=pause, reason=reason, now=self._seconds)

    def _count(self, turn: TurnReport) -> None:
        report = self.report
        report.turns += 1
        report.lost_turns += turn.lost
        report.events += turn.done
        report.failed += turn.failed
        report.dead += turn.dead
        told = Counter(report.told)
        for name, one in turn.told.items():
            told[name] += one.count
            self._session.announce(
                name,
                turn.org,
                {"org": turn.org, "account_id": turn.account_id, "count": one.count, "ids": one.ids},
            )
        report.told = dict(told)
        if turn.trouble:
            report.paused[turn.org] = turn.trouble.reason

    def _seconds(self) -> float:
        return self._session.clock.now().timestamp()


async def backlog_rows(database: Database, clock: Clock) -> list[BacklogRow]:
    """Every org with something in its backlog: events that wait, or dead letters."""
    now = clock.now()
    return [
        BacklogRow(
            org=count.org,
            pending=count.pending,
            oldest_seconds=0.0
            if count.oldest_received_at is None
            else round((now - count.oldest_received_at).total_seconds(), 1),
            dead=count.dead,
            reason=count.reason,
        )
        for count in await backlog_counts(database)
    ]


@task(
    name="work-backlog",
    description="Work off what webhooks have told, org by org, and linger for more.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def work_backlog(
    session: BacklogSession,
    linger: float,
    *,
    orgs: Sequence[str] | None = None,
    shard: Shard | None = None,
    concurrency: int = 8,
) -> BacklogReport:
    """Work off the backlog; see `drain`."""
    return await drain(session, linger, orgs=orgs, shard=shard, concurrency=concurrency)


@task(
    name="publish-backlog-report",
    description="Put how the backlog stands where people see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_backlog_report(report: BacklogReport) -> None:
    """Publish one report as the artifact `kommo-webhook-backlog`: first the orgs whose events have waited longest."""
    rows = sorted(report.backlog, key=lambda row: (-row.oldest_seconds, -row.dead, row.org))
    await acreate_table_artifact(
        [row.model_dump() for row in rows[:_SHOWN]] or [{"org": "", "pending": 0, "dead": 0}],
        key="kommo-webhook-backlog",
        description=report.summary(),
    )
