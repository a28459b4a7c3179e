"""The first reading of an account that has just been connected; the person who connected it does not wait for it.

Where a Prefect server has a deployment for it, it gets a run there, and a worker does the work. Otherwise the flow runs
in this process: right for a laptop, and better than nothing for a service whose deployments are missing.
"""

import asyncio
import logging
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.connect import connect_account
from store.connections import ConnectionRecord

DEPLOYMENTS = ("connect-account/on-demand", "full-crm-sync/on-demand")
"""Those that can do it; the first that is there."""
_ATTEMPTS = 5
_PAUSE = 2.0
_AT_A_TIME = asyncio.Semaphore(2)

_log = logging.getLogger("gateway.first_sync")


async def start_first_sync(connection: ConnectionRecord) -> None:
    """Have a new connection's account read.

    A repeat for the same pair of tokens finds the run that is there already.

    Args:
        connection: The connection.

    Raises:
        Exception: Prefect stayed out of reach, or the sync failed; its sentence belongs into the log.
    """
    if not PREFECT_API_URL.value() or not await _asked_for_a_run(connection):
        async with _AT_A_TIME:
            await connect_account(connection.org)


async def _asked_for_a_run(connection: ConnectionRecord) -> bool:
    """Whether the Prefect server has a run of a deployment now; False if it has no such deployment."""
    key = f"first-sync:{connection.org}:{connection.token_fingerprint or connection.created_at.isoformat()}"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with get_client() as client:
                deployment = await _deployment(client)
                if deployment is None:
                    _log.warning(
                        "Prefect has no deployment for it: the first sync of %s runs here.", connection.org
                    )
                    return False
                run = await client.create_flow_run_from_deployment(
                    deployment,
                    parameters={"org": connection.org},
                    idempotency_key=key,
                    tags=["kommo", "first-sync"],
                )
        except Exception as error:
            if attempt == _ATTEMPTS:
                raise
            _log.warning(
                "Prefect did not take the first sync of %s (%s)", connection.org, type(error).__name__
            )
            await asyncio.sleep(_PAUSE * attempt)
        else:
            _log.info("first sync of %s: flow run %s", connection.org, run.name)
            return True
    return False


async def _deployment(client: PrefectClient) -> UUID | None:
    for name in DEPLOYMENTS:
        try:
            return (await client.read_deployment_by_name(name)).id
        except ObjectNotFound:
            continue
    return None
