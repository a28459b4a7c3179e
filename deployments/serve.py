"""Serve the flows to a Prefect server: `python -m deployments.serve`.

One process that polls for runs and executes them, for a small installation. It gives the Prefect UI its deployments: on
demand, for the UI's form, the API and the product, and by schedule (a nightly sync of all, a refresh of tokens, the
backlog of webhooks, the delivery of events to the product).
"""

import asyncio

from prefect import aserve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron

from flows.actions import add_note, create_task, send_message, settle_actions, update_deal_field
from flows.connect import connect_account, disconnect_account
from flows.deliver_events import deliver_events
from flows.fleet_sync import full_crm_sync_all
from flows.full_sync import full_crm_sync
from flows.reconcile import reconcile
from flows.sync_records import sync_records
from flows.token_refresh import token_refresh
from flows.webhook_backlog import webhook_backlog
from flows.webhook_health import webhook_health

# A run start costs 1.4 to 3.6 s of CPU (measured); more at a time than cores would only queue on the processor. Two of
# these linger nearly all the time, in the backlog and in the delivery of events, and wait for something to do.
_RUNS_AT_A_TIME = 6


async def main() -> None:
    """Create the deployments and run them until interrupted."""
    await aserve(
        await full_crm_sync.ato_deployment(
            name="on-demand",
            tags=["kommo"],
            description="Sync one org, when somebody or something asks for it.",
        ),
        await sync_records.ato_deployment(
            name="on-demand",
            tags=["kommo"],
            description="Read one org's records: what changed since the last reading, or everything.",
        ),
        await connect_account.ato_deployment(
            name="on-demand",
            tags=["kommo"],
            description="Announce and read an account that has just been connected; the gateway asks for it.",
        ),
        await full_crm_sync_all.ato_deployment(
            name="nightly",
            tags=["kommo"],
            schedule=Cron("0 3 * * *", timezone="UTC"),
            description="Sync every connected org, every night at 03:00 UTC.",
        ),
        await token_refresh.ato_deployment(
            name="every-half-hour",
            tags=["kommo"],
            # An access token lives for a day: six hours of margin are a dozen tries.
            parameters={"within": "6h"},
            schedule=Cron("*/30 * * * *", timezone="UTC"),
            description="Refresh every connection whose access token ends within six hours.",
        ),
        await webhook_backlog.ato_deployment(
            name="every-minute",
            tags=["kommo"],
            # It lingers until the next one is about to begin, so that somebody always is there.
            parameters={"linger": "58s"},
            schedule=Cron("* * * * *", timezone="UTC"),
            # Runs may overlap without harm; more than two would take the other flows' place during a long drain.
            concurrency_limit=ConcurrencyLimitConfig(
                limit=2, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
            description="Work off what webhooks have told; lingers, so that an event waits for a second.",
        ),
        await deliver_events.ato_deployment(
            name="every-minute",
            tags=["kommo"],
            # As the backlog: somebody always is there.
            parameters={"linger": "58s"},
            schedule=Cron("* * * * *", timezone="UTC"),
            concurrency_limit=ConcurrencyLimitConfig(
                limit=2, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
            description="Tell the product what has happened; lingers, so that an event waits for a second.",
        ),
        await disconnect_account.ato_deployment(
            name="on-demand", tags=["kommo"], description="Forget an org's tokens."
        ),
        await webhook_health.ato_deployment(
            name="every-half-hour",
            tags=["kommo"],
            # Kommo repeats a webhook for an hour and a half: looked at twice in that time, it is often not lost yet.
            schedule=Cron("10,40 * * * *", timezone="UTC"),
            description="See that every org's webhook subscription is on; read what was missed.",
        ),
        await reconcile.ato_deployment(
            name="on-demand",
            tags=["kommo"],
            description="Compare one org's webhooks with Kommo since a moment, and repair what was missed.",
        ),
        await send_message.ato_deployment(
            name="on-demand", tags=["kommo"], description="Send a customer a text in an open conversation."
        ),
        await create_task.ato_deployment(
            name="on-demand", tags=["kommo"], description="Create a task for the sales team, once."
        ),
        await update_deal_field.ato_deployment(
            name="on-demand", tags=["kommo"], description="Give one field of a deal a new value."
        ),
        await add_note.ato_deployment(
            name="on-demand",
            tags=["kommo"],
            description="Leave an internal note; the customer never sees it.",
        ),
        await settle_actions.ato_deployment(
            name="every-minute",
            tags=["kommo"],
            schedule=Cron("* * * * *", timezone="UTC"),
            # Runs may overlap without harm: an action belongs to one of them. One at a time is enough.
            concurrency_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
            description="Go on with the actions that a killed process left behind.",
        ),
        # True, the default, would pause the schedules at every restart.
        pause_on_shutdown=False,
        limit=_RUNS_AT_A_TIME,
    )


if __name__ == "__main__":
    asyncio.run(main())
