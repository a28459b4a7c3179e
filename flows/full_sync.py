"""Full CRM sync: read an account's set-up, keep it as versioned snapshots, say what changed.

The story: the account first, because it is the cheapest check of the token; then everything else that was asked for,
side by side under the shared request budget; each group is saved whole or not at all; at the end a report, the drift
since the run before, and events for whoever listens.
"""

import asyncio

from prefect import flow

from blocks.settings import Settings
from flows.parameters import Org, SyncScopeParameter
from flows.sync_records import sync_records
from tasks.conclude import Outcomes, conclude_sync
from tasks.errors import SyncFailedError
from tasks.progress import SyncProgress
from tasks.publish import publish_sync_report
from tasks.reports import SyncReport
from tasks.scopes import GROUPS_OF_SCOPE, Group, Scope, SyncScope
from tasks.session import SyncSession, open_sync_session
from tasks.snapshots import snapshot_group


@flow(
    name="full-crm-sync",
    flow_run_name="sync {org} {scope}",
    description="Read one org's Kommo set-up, save it as versioned snapshots, report what changed; the records, too, "
    "if the scope says so.",
    persist_result=False,
)
async def full_crm_sync(org: Org, scope: SyncScopeParameter = SyncScope.ALL) -> SyncReport:
    """Sync one org.

    Args:
        org: the product's tenant; it must be connected.
        scope: what to read; the records by a run of `sync-records`, after the set-up that they are understood by.

    Returns:
        What was read, saved and found changed; under `records` what was read of them.

    Raises:
        NotConnectedError: the org is not connected.
        SyncFailedError: at least one group failed; the snapshots of the others are whole, and no record was read.
        RecordsFailedError: at least one kind of records was not read to its end; what was read is kept.
    """
    if scope.set_up is None:
        return SyncReport.of_records(await sync_records(org))
    report = await sync_set_up(org, scope.set_up)
    if scope.has_records:
        report.records = await sync_records(org)
    return report


async def sync_set_up(org: str, scope: Scope) -> SyncReport:
    """Sync an org's set-up, or a part of it.

    Raises:
        NotConnectedError: the org is not connected.
        SyncFailedError: at least one group failed; the snapshots of the others are whole.
    """
    async with open_sync_session(org, scope, Settings()) as session:
        outcomes = await read_and_save(session, scope)
        report = await conclude_sync(session, scope, outcomes)
    await publish_sync_report(report)
    if report.state == "failed":
        raise SyncFailedError(report)
    return report


async def read_and_save(session: SyncSession, scope: Scope) -> Outcomes:
    """Read every group of the scope and save each by itself; one that fails does not stop the others."""
    groups = GROUPS_OF_SCOPE[scope]
    progress = SyncProgress(session.org, total=1 + len(groups))
    await progress.start()
    outcomes: Outcomes = {}

    async def one(group: Group) -> None:
        try:
            outcomes[group] = await snapshot_group(session, group)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other groups go on and the report names it
            outcomes[group] = error
        await progress.step(group, failed=isinstance(outcomes[group], Exception))

    await one(Group.ACCOUNT)
    if not isinstance(outcomes[Group.ACCOUNT], Exception):
        await asyncio.gather(*(one(group) for group in groups))
    return outcomes
