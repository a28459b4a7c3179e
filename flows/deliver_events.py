"""Deliver events: what the outbox holds is told to the product, signed, in order, until it takes it.

The story: take the orgs that have waited longest; of each one's subjects send the events one after the other, the
subjects side by side; note down what was taken and what has to be tried again. An address that does not do is left
alone for a while. While nothing is due, linger: an event waits for a second, not for the next run.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.app import KommoApp
from blocks.settings import Settings
from flows.parameters import Org, ShardParameter, parse_span, shard_of
from flows.webhook_backlog import Linger
from kommo.clock import Clock, SystemClock
from store.database import Database
from store.endpoint import GONE
from tasks.app import find_app
from tasks.deliver import DeliverySession, deliver_outbox, outbox_rows, publish_delivery_report
from tasks.deliver_org import Options
from tasks.delivery_report import DeliveryReport
from tasks.endpoint import parse_endpoint
from tasks.errors import EventsGoneError
from tasks.installation import open_database
from tasks.session import process_name
from tasks.signing import Signer


@flow(
    name="deliver-events",
    flow_run_name="events, linger {linger}",
    description="Tell the product what has happened: signed, every subject in its order, until it takes it.",
    persist_result=False,
)
async def deliver_events(
    linger: Linger = "50s",
    orgs: Annotated[list[Org] | None, Field(title="Only these orgs", description="Without any, all.")] = None,
    shard: ShardParameter = None,
    concurrency: Annotated[
        int, Field(ge=1, le=64, title="Concurrency", description="How many events are sent at a time.")
    ] = 16,
) -> DeliveryReport:
    """Tell the product what has happened, and linger for more.

    Args:
        linger: how long to wait for more when nothing is due.
        orgs: only these.
        shard: only a part of the orgs.
        concurrency: how many events are sent at a time.

    Returns:
        What was told, and what is left. Without an address (`KOMMO_EVENTS_URL`) nothing is told.

    Raises:
        EventsSetupError: the address or the secret is not one.
        EventsGoneError: the product says that the address is gone.
    """
    settings, clock = Settings(), SystemClock()
    app = await find_app(settings)
    async with open_database(settings) as database:
        if not app.events_url.get_secret_value():
            rows = await outbox_rows(database, clock)
            report = DeliveryReport(state="unset", reason="KOMMO_EVENTS_URL is not set", outbox=rows)
        else:
            report = await deliver_outbox(
                _session(app, settings, database, clock),
                parse_span(linger).total_seconds(),
                orgs=orgs,
                shard=shard_of(shard),
                concurrency=concurrency,
            )
    await publish_delivery_report(report)
    if report.state == GONE:
        raise EventsGoneError(
            f"The product says that its address for events on {report.host} is gone (410), so nothing is sent there "
            "any more; events wait in the outbox. Set KOMMO_EVENTS_URL to the new one, or switch this one on again "
            "with `kommo events test` once it answers."
        )
    return report


def _session(app: KommoApp, settings: Settings, database: Database, clock: Clock) -> DeliverySession:
    return DeliverySession(
        database=database,
        endpoint=parse_endpoint(app.events_url, allow_loopback=app.allow_loopback),
        signer=Signer(app.events_secret),
        clock=clock,
        owner=process_name(),
        options=Options(attempts=settings.events_attempts),
    )
