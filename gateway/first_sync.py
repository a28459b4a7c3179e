"""The first reading of an account that has just been connected; the person who connected it does not wait for it.

Where a Prefect server has the deployment, it gets a run there, and a worker does the work. Otherwise the flow runs in
this process: right for a laptop, and better than nothing for a service whose deployments are missing.
"""

import asyncio
import logging

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.full_sync import full_crm_sync
from store.connections import ConnectionRecord
from tasks.scopes import Scope

DEPLOYMENT = "full-crm-sync/on-demand"
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
            await full_crm_sync(connection.org, Scope.ALL)


async def _asked_for_a_run(connection: ConnectionRecord) -> bool:
    """Whether the Prefect server has a run of the deployment now; False if it has no such deployment."""
    key = f"first-sync:{connection.org}:{connection.token_fingerprint or connection.created_at.isoformat()}"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with get_client() as client:
                deployment = await client.read_deployment_by_name(DEPLOYMENT)
                run = await client.create_flow_run_from_deployment(
                    deployment.id,
                    parameters={"org": connection.org, "scope": Scope.ALL.value},
                    idempotency_key=key,
                    tags=["kommo", "first-sync"],
                )
        except ObjectNotFound:
            _log.warning(
                "Prefect has no deployment %s: the sync of %s runs here.", DEPLOYMENT, connection.org
            )
            return False
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
