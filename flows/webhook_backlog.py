"""Webhook backlog: what Kommo has told us takes effect, once, and the product is told.

The story: take the org that has waited longest; read what changed, many records in one request; write mirror, outbox
and done marks in one transaction; go on with the next org. While nothing is due, linger: an event waits for a second,
not for the next run. At the end say how the backlog stands, and what was given up.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import Org, ShardParameter, parse_span, shard_of
from kommo.clock import SystemClock
from tasks.backlog import (
    BacklogReport,
    BacklogSession,
    publish_backlog_report,
    work_backlog,
)
from tasks.backlog_clients import open_clients
from tasks.events import emit_org_event
from tasks.installation import open_database
from tasks.session import process_name

Linger = Annotated[
    str,
    Field(
        title="Linger",
        description="How long to wait for more when nothing is due: a number and s, m, h or d.",
        pattern=r"^[0-9]{1,5}[smhd]$",
        examples=["50s", "0s"],
    ),
]


@flow(
    name="webhook-backlog",
    flow_run_name="backlog, linger {linger}",
    description="Work off what webhooks have told: read what changed, mirror it, tell the product.",
    persist_result=False,
)
async def webhook_backlog(
    linger: Linger = "50s",
    orgs: Annotated[list[Org] | None, Field(title="Only these orgs", description="Without any, all.")] = None,
    shard: ShardParameter = None,
    concurrency: Annotated[
        int, Field(ge=1, le=64, title="Concurrency", description="How many orgs are worked at a time.")
    ] = 8,
) -> BacklogReport:
    """Work off the backlog, and linger for more.

    Args:
        linger: how long to wait for more when nothing is due.
        orgs: only these.
        shard: only a part of the orgs.
        concurrency: how many orgs at a time.

    Returns:
        What was settled, and what is left.
    """
    settings, clock = Settings(), SystemClock()
    async with (
        open_database(settings) as database,
        open_clients(database, settings, clock) as clients,
    ):
        session = BacklogSession(
            database=database,
            clients=clients,
            clock=clock,
            owner=process_name(),
            announce=emit_org_event,
        )
        report = await work_backlog(
            session,
            parse_span(linger).total_seconds(),
            orgs=orgs,
            shard=shard_of(shard),
            concurrency=concurrency,
        )
    await publish_backlog_report(report)
    return report
