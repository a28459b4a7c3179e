"""The task that reads one kind of records, and how far a run is with its kinds."""

import time
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.tasks import Task

from kommo.errors import KommoError
from kommo.recordkinds import RECORD_KINDS
from store.record_sync import RecordMode
from tasks.errors import DataPlaneError
from tasks.record_reading import KindReader
from tasks.record_reports import KindCount, RecordsReport
from tasks.record_session import RecordSession


class UnknownKindOfRecordsError(DataPlaneError):
    """There is no kind of records of this name."""


def find_record_kinds(names: list[str] | None) -> list[str]:
    """The kinds of these names in the order in which they are read; without names, those that are usual.

    Raises:
        UnknownKindOfRecordsError: there is none of a name.
    """
    for name in names or ():
        if name not in RECORD_KINDS:
            raise UnknownKindOfRecordsError(
                f"There is no kind of records called {name[:50]!r}. Ask for one of: {', '.join(RECORD_KINDS)}."
            )
    return [name for name, kind in RECORD_KINDS.items() if (name in names if names else kind.usual)]


async def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, KommoError) and error.retryable


@task(
    name="read-records",
    task_run_name="read {kind}",
    description="Read one kind of records page by page into the mirror; a second try goes on where the first ended.",
    retries=1,
    retry_delay_seconds=5,
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def read_records(session: RecordSession, kind: str, mode: RecordMode) -> KindCount:
    """Read one kind.

    Raises:
        KommoError: Kommo did not give it; what was stored stays.
        ReadingTakenOverError: another run reads it now.
    """
    return await KindReader(session, RECORD_KINDS[kind], mode).read()


class RecordsProgress:
    """Shows which kind is read, and at which rate, in an artifact.

    Args:
        org: The product's tenant.
        total: How many kinds there are.
    """

    def __init__(self, org: str, total: int) -> None:
        self._org = org
        self._total = total
        self._done = 0
        self._records = 0
        self._began = time.monotonic()
        self._artifact: UUID | None = None

    async def start(self) -> None:
        """Show 0 %. Outside a flow run there is no artifact to show it in."""
        if FlowRunContext.get() is not None:
            self._artifact = await acreate_progress_artifact(
                0.0, key=f"kommo-records-progress-{self._org}", description=f"Records of {self._org}"
            )

    async def step(self, count: KindCount) -> None:
        """One kind more is through."""
        self._done += 1
        self._records += count.records
        if self._artifact is not None:
            rate = self._records / max(time.monotonic() - self._began, 0.001)
            await aupdate_progress_artifact(
                self._artifact,
                100.0 * self._done / self._total,
                description=f"Records of {self._org}: {count.kind} read, {self._records} records, {rate:.0f} a second",
            )


@task(
    name="publish-records-report",
    description="Put what was read where people see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_records_report(report: RecordsReport) -> None:
    """A table of the kinds, under the key `kommo-records-ORG`."""
    await acreate_table_artifact(
        [kind.model_dump() for kind in report.kinds],
        key=f"kommo-records-{report.org}",
        description=report.summary() if report.state == "completed" else f"**Failed.** {report.reason()}",
    )
