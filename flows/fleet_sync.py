"""Sync of all connected orgs: several at a time, each by itself; one that fails does not stop the rest."""

import asyncio
from typing import Annotated

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import State
from pydantic import Field

from blocks.settings import Settings
from flows.full_sync import full_crm_sync
from flows.parameters import ScopeParameter
from tasks.errors import FleetSyncFailedError, sentence_of
from tasks.installation import open_database
from tasks.reports import FleetReport, SyncReport
from tasks.scopes import Scope
from tasks.status import fleet_status

_SYNCABLE = frozenset({"connected", "degraded"})


async def syncable_orgs(settings: Settings) -> list[str]:
    """Every org with credentials, by name; those that a person must connect again first are left out."""
    async with open_database(settings) as database:
        return [row["org"] for row in await fleet_status(database) if row["state"] in _SYNCABLE]


@flow(
    name="full-crm-sync-all",
    flow_run_name="sync all {scope}",
    description="Sync every connected org, several at a time; one that fails does not stop the rest.",
    persist_result=False,
)
async def full_crm_sync_all(
    scope: ScopeParameter = Scope.ALL,
    concurrency: Annotated[
        int, Field(ge=1, le=64, title="Concurrency", description="How many orgs are synced at a time.")
    ] = 4,
) -> FleetReport:
    """Sync all connected orgs.

    Args:
        scope: what to read of each.
        concurrency: how many orgs at a time.

    Raises:
        FleetSyncFailedError: at least one org failed; its report names each with the reason.
    """
    report = FleetReport(scope=scope.value)
    turn = asyncio.Semaphore(concurrency)

    async def one(org: str) -> None:
        async with turn:
            state: State[SyncReport] = await full_crm_sync(org, scope, return_state=True)
        if state.is_completed():
            report.completed.append(org)
        else:
            error = await state.aresult(raise_on_failure=False)
            report.failed[org] = (
                sentence_of(error) if isinstance(error, BaseException) else str(state.message)
            )

    await asyncio.gather(*(one(org) for org in await syncable_orgs(Settings())))
    await acreate_table_artifact(
        [{"org": org, "sync": "completed", "why": ""} for org in report.completed]
        + [{"org": org, "sync": "failed", "why": why} for org, why in report.failed.items()],
        key="kommo-sync-all",
        description=f"{len(report.completed)} orgs synced, {len(report.failed)} failed",
    )
    if report.failed:
        raise FleetSyncFailedError(report)
    return report
