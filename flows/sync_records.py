"""The records: leads, contacts, companies, tasks, notes, talks, events … read into the mirror, whole or what changed.

The story: one kind after the other, each page by page under the shared request budget; a page and the place behind it
are stored together, so that a run that was killed is gone on with; what a whole reading has not seen is looked at
before it counts as gone. Webhooks write the same rows by the same rule.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import Org
from store.record_sync import RecordMode
from tasks.errors import RecordsFailedError, sentence_of
from tasks.record_opening import open_record_session
from tasks.record_reports import KindCount, RecordsReport
from tasks.record_session import RecordSession
from tasks.sync_records import RecordsProgress, find_record_kinds, publish_records_report, read_records


@flow(
    name="sync-records",
    flow_run_name="records {org} {mode}",
    description="Read one org's records into the mirror: everything, or what changed since the last reading.",
    persist_result=False,
)
async def sync_records(
    org: Org,
    kinds: Annotated[
        list[str] | None, Field(title="Kinds", description="Such as leads and contacts; by default all.")
    ] = None,
    mode: Annotated[
        RecordMode,
        Field(
            title="Mode",
            description="What changed since the last reading, or everything; some kinds can only be read whole.",
        ),
    ] = RecordMode.INCREMENTAL,
) -> RecordsReport:
    """Read one org's records.

    Args:
        org: the product's tenant; it must be connected.
        kinds: which kinds; by default all.
        mode: `incremental` or `full`; the first reading of a kind is full.

    Returns:
        What was read, and what it came to.

    Raises:
        NotConnectedError: the org is not connected.
        UnknownKindOfRecordsError: a kind does not exist.
        RecordsFailedError: at least one kind was not read to its end; what was read is kept.
    """
    wanted = find_record_kinds(kinds)
    async with open_record_session(org, Settings()) as session:
        counts = await read_kinds(session, wanted, mode)
        failed = any(count.state == "failed" for count in counts)
        report = RecordsReport(
            org=org,
            mode=mode.value,
            state="failed" if failed else "completed",
            kinds=counts,
            requests=session.client.requests_sent,
            seconds=round((session.clock.now() - session.started_at).total_seconds(), 3),
        )
    await publish_records_report(report)
    if failed:
        raise RecordsFailedError(report)
    return report


async def read_kinds(session: RecordSession, kinds: list[str], mode: RecordMode) -> list[KindCount]:
    """Read the kinds one after the other; one that fails does not stop the others."""
    progress = RecordsProgress(session, kinds, mode)
    await progress.start()
    counts: list[KindCount] = []
    for kind in kinds:
        try:
            count = await read_records(session, kind, mode)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other kinds go on and the report names it
            count = KindCount(kind=kind, mode=mode.value, state="failed", note=sentence_of(error))
        counts.append(count)
        await progress.step(count)
    return counts
