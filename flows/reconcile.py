"""Reconciliation: what webhooks did not tell of an org is read from the API, repaired and counted.

The story: ask Kommo which records changed since the last comparison and what was deleted or restored; look each up in
the inbox and the mirror; write and tell what is missing; publish what part had come by webhook.
"""

from datetime import UTC, datetime
from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import Org, parse_span
from flows.webhook_health import Grace
from kommo.budget import Lane
from kommo.clock import SystemClock
from tasks.backlog_clients import open_clients
from tasks.events import emit_org_event
from tasks.installation import open_database
from tasks.reconcile import ReconcileReport
from tasks.session import find_connection
from tasks.subscription import door_of
from tasks.webhook_health import HealthSession, publish_completeness, reconcile_org


@flow(
    name="reconcile",
    flow_run_name="reconcile {org}",
    description="Compare an org's webhooks with the API; repair what was missed, publish how much had come.",
    persist_result=False,
)
async def reconcile(
    org: Org,
    since: Annotated[
        datetime | None,
        Field(
            title="Since",
            description="By default the end of the last comparison; UTC unless it names a zone.",
        ),
    ] = None,
    grace: Grace = "2m",
) -> ReconcileReport:
    """Compare one org.

    Args:
        org: the product's tenant.
        since: from this moment on; by default from the end of the last comparison.
        grace: changes younger than this are left to the next comparison.

    Returns:
        What changed, what had come, what was repaired.

    Raises:
        NotConnectedError: the org is not connected.
        KommoError: Kommo could not be asked; nothing is counted.
    """
    settings, clock = Settings(), SystemClock()
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    async with (
        open_database(settings) as database,
        # Behind what webhooks have told: that is what is waited for.
        open_clients(database, settings, clock, lane=Lane.SYNC) as clients,
    ):
        await find_connection(database, org)
        session = HealthSession(
            database=database, clients=clients, door=door_of(settings), clock=clock, announce=emit_org_event
        )
        report = await reconcile_org(session, org, since, grace=parse_span(grace))
    await publish_completeness(report)
    return report
