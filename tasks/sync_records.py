"""The task that reads one kind of records, and how far a run is with its kinds."""

import time
from collections.abc import Sequence
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
from store.record_sync import RecordMode, count_records
from tasks.errors import DataPlaneError
from tasks.progress import announce_step, announce_under_way, try_to_show
from tasks.record_reading import KindReader
from tasks.record_reports import KindCount, RecordsReport
from tasks.record_session import RecordSession

_SHOWN_EVERY = 5.0


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
    """Shows which kind is read, how far it is, at which rate and for about how much longer.

    Args:
        session: Whose reading.
        kinds: Which kinds are read.
        mode: A whole reading comes to about what is there already; how much has changed nobody knows before.
    """

    def __init__(self, session: RecordSession, kinds: Sequence[str], mode: RecordMode) -> None:
        self._session = session
        self._kinds = frozenset(kinds)
        self._total = len(self._kinds)
        self._mode = mode
        self._done = 0
        self._records = 0
        self._began = self._shown = time.monotonic()
        self._expected: dict[str, int] = {}
        self._artifact: UUID | None = None

    async def start(self) -> None:
        """Show 0 %. Outside a flow run there is no artifact to show it in."""
        org = self._session.org
        if self._mode is RecordMode.FULL:
            counts = await count_records(self._session.database, org)
            self._expected = {one.entity: one.present for one in counts if one.entity in self._kinds}
        if FlowRunContext.get() is not None:
            self._artifact = await acreate_progress_artifact(
                0.0, key=f"kommo-records-progress-{org}", description=f"Records of {org}"
            )
        self._session.on_page = self.page

    async def page(self, count: KindCount) -> None:
        """A page of a kind is stored."""
        now = time.monotonic()
        told = self._how_far(count, now)
        announce_under_way(self._session.org, count.kind, self._done, self._total, told)
        if now - self._shown < _SHOWN_EVERY:
            return
        self._shown = now
        of_this = min(count.records / max(self._expected.get(count.kind, 0), count.records, 1), 0.99)
        await self._show(
            self._done + (of_this if self._expected.get(count.kind) else 0.0), f"{count.kind}: {told}"
        )

    async def step(self, count: KindCount) -> None:
        """One kind more is through."""
        self._done += 1
        self._records += count.records
        announce_step(self._session.org, count.kind, self._done, self._total, failed=count.state == "failed")
        rate = self._records / max(time.monotonic() - self._began, 0.001)
        await self._show(
            self._done, f"{count.kind} read, {self._records:,} records in all, {rate:,.0f} a second"
        )

    def _how_far(self, count: KindCount, now: float) -> str:
        passed = max(now - self._began, 0.001)
        rate = (self._records + count.records) / passed
        sent = self._session.client.requests_sent
        told = f"{count.records:,} records, {rate:,.0f} a second, {sent:,} requests"
        left = (
            sum(
                max(number - (count.records if kind == count.kind else 0), 0)
                for kind, number in self._expected.items()
            )
            - self._records
        )
        if self._expected and left > 0:
            told += f", about {_span(left / max(rate, 0.001))} more"
        return told

    async def _show(self, done: float, told: str) -> None:
        if self._artifact is None:
            return
        await try_to_show(
            aupdate_progress_artifact(
                self._artifact,
                100.0 * done / self._total,
                description=f"Records of {self._session.org}: {told}",
            )
        )


def _span(seconds: float) -> str:
    """About how long, as a person says it."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"


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
