"""The task that refreshes every connection that is due: thousands in one run, several at a time (T1, T4)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field

from kommo.clock import Clock
from store.connections import ConnectionRecord, ConnectionState, has_pairs
from store.connections import due_connections as due_page
from store.database import Database
from store.shards import Shard
from tasks.attempt import Refreshed
from tasks.calling import refreshable
from tasks.errors import ClaimLostError, ReauthorizationRequiredError, RefreshUnknownError, sentence_of
from tasks.refresh import Refresher

IDLE = timedelta(days=20)
"""A pair that has not been refreshed for so long is due whatever its age: Kommo's refresh token dies after three
months without use [D K/oauth-20]."""
_PAGE = 500
_TRIES = 3
_SHOWN = 200


class RefreshFailure(BaseModel):
    """One connection that could not be refreshed."""

    org: str
    outcome: str = Field(description="reauthorization_required, outcome_unknown or failed.")
    reason: str


class RefreshReport(BaseModel):
    """What one run of the refresh came to. Holds no secret."""

    within: str
    due: int = 0
    refreshed: int = 0
    good: int = Field(default=0, description="Were good after all: another process had been there.")
    moved: dict[str, str] = Field(default_factory=dict, description="Org → its account's new host.")
    failures: list[RefreshFailure] = Field(
        default_factory=list, description="The first of those that failed."
    )
    outcomes: dict[str, int] = Field(default_factory=dict, description="How many failures of each outcome.")
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many could not be refreshed."""
        return sum(self.outcomes.values())

    def fail(self, org: str, outcome: str, reason: str) -> None:
        """Count one that could not be refreshed."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if len(self.failures) < _SHOWN:
            self.failures.append(RefreshFailure(org=org, outcome=outcome, reason=reason))

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        failed = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.outcomes.items()))
        return (
            f"{self.due} connections due, {self.refreshed} refreshed, {self.good} were good"
            f"{f', {len(self.moved)} moved' if self.moved else ''}{f', {failed}' if failed else ''} "
            f"in {self.seconds:.1f} s"
        )


class RefreshSession:
    """What the task works with; not a pydantic model, because Prefect walks into those."""

    def __init__(self, database: Database, refresher: Refresher, clock: Clock) -> None:
        self.database = database
        self.refresher = refresher
        self.clock = clock

    def __repr__(self) -> str:
        return "RefreshSession()"


async def has_refreshable(database: Database, org: str | None) -> bool:
    """Whether there is any pair at all.

    Raises:
        UnknownConnectionError: the org that was named has no connection.
        NotConnectedError: it was disconnected, or has a long-lived token.
    """
    if org is None:
        return await has_pairs(database)
    await refreshable(database, org)
    return True


async def _due(
    session: RefreshSession, margin: timedelta, shard: Shard | None
) -> AsyncIterator[ConnectionRecord]:
    """Every connection that is due as of now, page by page, first the one whose access token ends first."""
    now, after = session.clock.now(), None
    while True:
        page = await due_page(
            session.database,
            before=now + margin,
            idle_before=now - IDLE,
            now=now,
            shard=shard,
            after=after,
            limit=_PAGE,
        )
        for record in page.items:
            yield record
        after = page.next_after
        if after is None:
            return


@task(
    name="refresh-due",
    description="Refresh every connection whose token ends soon, several at a time.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def refresh_due(
    session: RefreshSession,
    within: str,
    margin: timedelta,
    *,
    concurrency: int,
    org: str | None = None,
    shard: Shard | None = None,
) -> RefreshReport:
    """Refresh what is due; one dead connection never stops the rest.

    Args:
        session: what to work with.
        within: the margin as a person wrote it.
        margin: connections whose access token ends within it are due.
        concurrency: how many at a time.
        org: only this one, due or not.
        shard: only this part of the orgs.
    """
    report, begun = RefreshReport(within=within), session.clock.monotonic()

    async def one(name: str, *, force: bool) -> None:
        report.due += 1
        try:
            _count(report, name, await _fresh(session.refresher, name, margin, force=force))
        except Exception as error:  # noqa: BLE001 - whatever it was, the others go on and the report names it
            outcome = (
                "reauthorization_required"
                if isinstance(error, ReauthorizationRequiredError)
                else "outcome_unknown"
                if isinstance(error, RefreshUnknownError)
                else "failed"
            )
            report.fail(name, outcome, sentence_of(error))

    if org is not None:
        await one(org, force=True)
    else:
        await _several(
            _due(session, margin, shard),
            lambda record: one(record.org, force=_is_idle(session, record) or _is_unsettled(record)),
            concurrency,
        )
    report.seconds = round(session.clock.monotonic() - begun, 3)
    return report


async def _fresh(refresher: Refresher, org: str, margin: timedelta, *, force: bool) -> Refreshed:
    """Refresh one; again if its turn did not come in time, which happens where many processes share the budget."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(ClaimLostError):
            return await refresher.fresh(org, margin=margin, force=force, due=not force)
    return await refresher.fresh(org, margin=margin, force=force, due=not force)


def _is_idle(session: RefreshSession, record: ConnectionRecord) -> bool:
    """Its access token may be good for long yet, but its refresh token wants to be used."""
    return record.refreshed_at is not None and record.refreshed_at < session.clock.now() - IDLE


def _is_unsettled(record: ConnectionRecord) -> bool:
    """Its last refresh failed: however good its access token is, only another one can tell how it stands."""
    return record.next_refresh_at is not None or record.state == ConnectionState.OUTCOME_UNKNOWN


def _count(report: RefreshReport, org: str, done: Refreshed) -> None:
    report.refreshed += done.called
    report.good += not done.called
    if done.moved_from is not None and len(report.moved) < _SHOWN:
        report.moved[org] = done.pair.host


async def _several(
    records: AsyncIterator[ConnectionRecord],
    work: Callable[[ConnectionRecord], Awaitable[None]],
    concurrency: int,
) -> None:
    """Work on records as they come, at most so many at a time: no page waits for the slowest of the page before."""
    queue: asyncio.Queue[ConnectionRecord | None] = asyncio.Queue(concurrency)

    async def worker() -> None:
        while (record := await queue.get()) is not None:
            await work(record)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
        async for record in records:
            await queue.put(record)
        for _ in range(concurrency):
            await queue.put(None)


@task(
    name="publish-refresh-report",
    description="Put what came of the refresh where people see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_refresh_report(report: RefreshReport) -> None:
    """Publish one report as the artifact `kommo-token-refresh`: first the connections that need somebody."""
    rows = [failure.model_dump() for failure in report.failures]
    rows += [{"org": org, "outcome": "moved", "reason": f"to {host}"} for org, host in report.moved.items()]
    await acreate_table_artifact(
        rows[:_SHOWN] or [{"org": "", "outcome": "all good", "reason": report.summary()}],
        key="kommo-token-refresh",
        description=report.summary(),
    )
