"""Token refresh: every connection whose access token ends soon gets a new pair, long before anybody misses it.

The story: find what is due; refresh several at a time under the request budget, each under its own claim and by way of
the journal; report what needs a person. One run serves thousands, because a run's start costs seconds (prefect-facts).
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import Org, ShardParameter, parse_span, shard_of
from kommo.budget import LOOSE, Lane
from kommo.clock import SystemClock
from tasks.errors import RefreshRunFailedError
from tasks.installation import open_database
from tasks.refresh_due import (
    RefreshReport,
    RefreshSession,
    has_refreshable,
    publish_refresh_report,
    refresh_due,
)
from tasks.session import open_refresher

Within = Annotated[
    str,
    Field(
        title="Within",
        description="Refresh connections whose access token ends within this time: a number and s, m, h or d.",
        pattern=r"^[0-9]{1,5}[smhd]$",
        examples=["6h", "30m"],
    ),
]


@flow(
    name="token-refresh",
    flow_run_name="refresh within {within}",
    description="Give every connection whose access token ends soon a new pair; report those that need a person.",
    persist_result=False,
)
async def token_refresh(
    within: Within = "6h",
    org: Annotated[
        Org | None, Field(title="Only this org", description="Refresh this one, due or not.")
    ] = None,
    shard: ShardParameter = None,
    concurrency: Annotated[
        int, Field(ge=1, le=128, title="Concurrency", description="How many connections at a time.")
    ] = 16,
) -> RefreshReport:
    """Refresh what is due.

    Args:
        within: connections whose access token ends within this time are due.
        org: only this one, due or not.
        shard: only a part of the orgs.
        concurrency: how many at a time.

    Returns:
        What was refreshed, and what needs somebody.

    Raises:
        UnknownConnectionError: the org that was named has no connection.
        NotConnectedError: it has nothing to refresh.
        RefreshRunFailedError: not one of those that were due could be refreshed.
    """
    settings, clock = Settings(), SystemClock()
    lane = Lane.ACTION if org else Lane.SYNC
    async with open_database(settings) as database:
        report = RefreshReport(within=within)
        # Before the integration is asked for: an org may be misspelt, and without a pair no integration is needed.
        if await has_refreshable(database, org):
            async with open_refresher(
                database, settings, lane=lane, clock=clock, loose=0.0 if org else LOOSE
            ) as refresher:
                report = await refresh_due(
                    RefreshSession(database, refresher, clock),
                    within,
                    parse_span(within),
                    concurrency=concurrency,
                    org=org,
                    shard=shard_of(shard),
                )
    await publish_refresh_report(report)
    if report.due and report.failed == report.due:
        raise RefreshRunFailedError(report)
    return report
