"""Webhook health: every connected org's webhooks reach us, and what did not is read.

The story: ask each account how its subscription stands; switch on again what Kommo has switched off, subscribe anew
what is missing; where there was trouble, or for too long no comparison, read what changed meanwhile and publish how
much had come. One run serves thousands of orgs, because a run's start costs seconds (prefect-facts).
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import Org, ShardParameter, Span, parse_span, shard_of
from kommo.budget import Lane
from kommo.clock import SystemClock
from tasks.app import find_app
from tasks.backlog_clients import open_clients
from tasks.errors import WebhookHealthFailedError
from tasks.events import emit_org_event
from tasks.installation import open_database
from tasks.subscription import door_of
from tasks.webhook_health import HealthReport, HealthSession, check_webhooks, publish_webhook_health

Grace = Annotated[
    Span,
    Field(
        title="Grace",
        description="Changes younger than this are left to the next comparison: their webhooks may be on their way.",
    ),
]


@flow(
    name="webhook-health",
    flow_run_name="webhook health",
    description="See that every org's webhook subscription is on; read what was missed, publish how much had come.",
    persist_result=False,
)
async def webhook_health(
    orgs: Annotated[list[Org] | None, Field(title="Only these orgs", description="Without any, all.")] = None,
    shard: ShardParameter = None,
    compare_after: Annotated[
        Span,
        Field(title="Compare after", description="Compare an org if its last comparison is older than this."),
    ] = "6h",
    grace: Grace = "2m",
    concurrency: Annotated[
        int, Field(ge=1, le=64, title="Concurrency", description="How many orgs are looked at at a time.")
    ] = 8,
) -> HealthReport:
    """Look after all webhooks.

    Args:
        orgs: only these.
        shard: only a part of the orgs.
        compare_after: compare an org whose last comparison is older than this, even if all seems well.
        grace: changes younger than this are left to the next comparison.
        concurrency: how many orgs at a time.

    Returns:
        How each subscription was found and stands now.

    Raises:
        WebhookHealthFailedError: not one org could be looked at.
    """
    settings, clock = Settings(), SystemClock()
    async with (
        open_database(settings) as database,
        # Behind what webhooks have told: that is what is waited for.
        open_clients(database, settings, clock, lane=Lane.SYNC, shared=True) as clients,
    ):
        session = HealthSession(
            database=database,
            clients=clients,
            door=door_of(settings, await find_app(settings)),
            clock=clock,
            announce=emit_org_event,
        )
        report = await check_webhooks(
            session,
            orgs=orgs,
            shard=shard_of(shard),
            compare_after=parse_span(compare_after),
            grace=parse_span(grace),
            concurrency=concurrency,
        )
    await publish_webhook_health(report)
    if report.failures and not report.seen:
        raise WebhookHealthFailedError(report)
    return report
