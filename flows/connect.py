"""What follows a consent, and how a connection ends.

The secret part, exchanging the code, is a plain function (`tasks.connect`): a code or token must never be a parameter
of a run, because Prefect stores those (T5). These flows begin when the credentials are safe.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.full_sync import full_crm_sync
from flows.parameters import Org
from store.connections import get_connection
from tasks.disconnect import DisconnectReport, disconnect
from tasks.events import emit_org_event
from tasks.installation import open_database
from tasks.reports import SyncReport
from tasks.scopes import SyncScope


@flow(
    name="connect-account",
    flow_run_name="connect {org}",
    description="After a consent: announce the connection and read the account for the first time.",
    persist_result=False,
)
async def connect_account(org: Org) -> SyncReport:
    """Announce a new connection and make its first snapshot.

    Args:
        org: the product's tenant; its credentials have just been saved.

    Raises:
        UnknownConnectionError: the org has no connection.
        SyncFailedError: at least one part could not be read; the connection itself stands.
    """
    async with open_database(Settings()) as database:
        connection = await get_connection(database, org)
    emit_org_event(
        "kommo.connection.connected",
        org,
        {
            "host": connection.host,
            "account_id": connection.account_id,
            "account_name": connection.account_name,
            "scopes": connection.scopes,
        },
    )
    return await full_crm_sync(org, SyncScope.ALL)


@flow(
    name="disconnect-account",
    flow_run_name="disconnect {org}",
    description="Forget an org's tokens; its snapshots stay unless they are to be purged.",
    persist_result=False,
)
async def disconnect_account(
    org: Org,
    purge: Annotated[
        bool, Field(title="Purge", description="Remove its snapshots and history from our database, too.")
    ] = False,
) -> DisconnectReport:
    """End an org's connection.

    Args:
        org: the product's tenant.
        purge: remove its snapshots and history, too.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    settings = Settings()
    async with open_database(settings) as database:
        return await disconnect(org, settings, database=database, purge=purge)
