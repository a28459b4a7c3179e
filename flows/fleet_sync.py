"""Sync of all connected orgs: page by page, each org by itself; one that fails does not stop the rest.

The story: take the orgs that have waited longest, those first whose set-up broke somebody lately; sync them, several at
a time; take the next. What was done is in the store, so that a run after a killed one goes on where that ended, and any
number of runs may share a fleet, by shards or without. Spread over a night, every org has its own minute of it.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import ScopeParameter, ShardParameter, Span, parse_span, shard_of
from kommo.budget import Lane
from kommo.client import ATTEMPTS
from kommo.clock import SystemClock
from store.fleet import Round
from tasks.backlog_clients import open_clients
from tasks.errors import FleetSyncFailedError
from tasks.events import emit_org_event
from tasks.fleet_sync import FleetSession, begin_fleet, next_page, publish_fleet_report, sync_page
from tasks.installation import open_database
from tasks.reports import FleetReport
from tasks.scopes import Scope
from tasks.session import process_name

_PAGES_AT_A_TIME = 2
"""While the last orgs of a page are at it, the first ones of the next begin."""
_DRIFTED_WITHIN = timedelta(days=7)


@flow(
    name="full-crm-sync-all",
    flow_run_name="sync all {scope}",
    description="Sync every connected org, several at a time; one that fails does not stop the rest.",
    persist_result=False,
)
async def full_crm_sync_all(
    scope: ScopeParameter = Scope.ALL,
    shard: ShardParameter = None,
    *,
    spread: Annotated[
        Span | None,
        Field(
            title="Spread",
            description="Spread the orgs over this time of the night, each at a minute of its own; a run takes those "
            "whose minute has passed. Without it, all at once.",
            examples=["6h"],
        ),
    ] = None,
    night: Annotated[
        str,
        Field(
            title="Night",
            description="When the spread begins, UTC.",
            pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
            examples=["22:00"],
        ),
    ] = "00:00",
    synced_within: Annotated[
        Span,
        Field(
            title="Synced within",
            description="Without a spread: leave out the orgs that were synced within this time.",
            examples=["12h"],
        ),
    ] = "0s",
    concurrency: Annotated[
        int, Field(ge=1, le=128, title="Concurrency", description="How many orgs are synced at a time.")
    ] = 32,
) -> FleetReport:
    """Sync all connected orgs.

    Args:
        scope: what to read of each.
        shard: only a part of the orgs.
        spread: the time over which the orgs are spread; without it, all at once.
        night: when that time begins, `HH:MM` in UTC.
        synced_within: without a spread, leave out those that were synced within this time.
        concurrency: how many orgs at a time.

    Returns:
        Counts, and the first failures; each org's own run is in the store.

    Raises:
        FleetSyncFailedError: at least one org failed, or Kommo let nobody through; its report says who and why.
    """
    settings, clock = Settings(), SystemClock()
    async with (
        open_database(settings) as database,
        open_clients(database, settings, clock, lane=Lane.SYNC, attempts=ATTEMPTS, shared=True) as clients,
    ):
        session = FleetSession(
            database=database,
            clients=clients,
            scope=scope,
            todo=round_of(
                scope,
                clock.now(),
                shard=shard,
                spread=None if spread is None else parse_span(spread),
                night=night,
                synced_within=parse_span(synced_within),
            ),
            clock=clock,
            owner=process_name(),
            announce=emit_org_event,
            concurrency=concurrency,
        )
        report = FleetReport(scope=scope.value, shard=shard, due=await begin_fleet(session))
        await sync_pages(session, report)
    await publish_fleet_report(report)
    if report.failed or report.stopped:
        raise FleetSyncFailedError(report)
    return report


def round_of(
    scope: Scope,
    now: datetime,
    *,
    shard: str | None = None,
    spread: timedelta | None = None,
    night: str = "00:00",
    synced_within: timedelta = timedelta(0),
) -> Round:
    """Which orgs a run of this moment is for: what counts as done already, and whose moment has come.

    Args:
        scope: what is read; a sync of everything counts for a part of it.
        now: the present time.
        shard: only a part of the orgs.
        spread: the time over which the orgs are spread.
        night: when that time begins, `HH:MM` in UTC.
        synced_within: without a spread, who was synced within this time is done.
    """
    since, passed = now - synced_within, 1.0
    if spread is not None:
        hour, minute = map(int, night.split(":"))
        since = now.astimezone(UTC).replace(hour=hour, minute=minute, second=0, microsecond=0)
        if since > now:
            since -= timedelta(days=1)
        passed = min(1.0, (now - since) / spread) if spread else 1.0
    return Round(
        scopes=tuple({scope.value, Scope.ALL.value}),
        since=since,
        shard=shard_of(shard),
        passed=passed,
        first_since=now - _DRIFTED_WITHIN,
    )


async def sync_pages(session: FleetSession, report: FleetReport) -> None:
    """Take pages and sync them until nothing is left; the report is filled while that goes on."""
    begun, numbers = session.clock.monotonic(), count(1)

    async def pages() -> None:
        while (page := await next_page(session, next(numbers))) is not None:
            report.add(await sync_page(session, page))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_PAGES_AT_A_TIME):
                group.create_task(pages())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    report.stopped = session.stopped
    report.seconds = round(session.clock.monotonic() - begun, 3)
