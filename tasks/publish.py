"""The task that shows a finished sync: artifacts where a person looks, events where a machine does."""

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from store.drift import drift_markdown
from tasks.events import emit_org_event
from tasks.outbox import drift_facts
from tasks.reports import SyncReport

FAILING = 3
"""So many failures in a row are told once, as `kommo.sync.failing`."""


@task(
    name="publish-sync-report",
    description="Put what was read and what changed where people and automations see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_sync_report(report: SyncReport) -> None:
    """Publish one report: a table of the kinds, the drift in Markdown, and events.

    Artifact keys: `kommo-sync-ORG` and `kommo-drift-ORG`. Events: `kommo.sync.completed` or `kommo.sync.failed`, and
    `kommo.drift.detected` when something changed since the run before.
    """
    await acreate_table_artifact(
        [kind.model_dump() for kind in report.kinds],
        key=f"kommo-sync-{report.org}",
        description=report.summary() if report.state == "completed" else f"**Failed.** {report.reason}",
    )
    emit_org_event(f"kommo.sync.{report.state}", report.org, report.facts())
    announce_failing(report)
    await publish_drift(report)


def announce_failing(report: SyncReport) -> None:
    """Say once that an org's syncs go on failing: at the third in a row."""
    if report.failures_in_a_row == FAILING:
        emit_org_event("kommo.sync.failing", report.org, report.facts())


async def publish_drift(report: SyncReport) -> None:
    """Show what changed, if anything did: the artifact `kommo-drift-ORG` and the event `kommo.drift.detected`."""
    if not report.drift.changes:
        return
    await acreate_markdown_artifact(
        drift_markdown(report.drift),
        key=f"kommo-drift-{report.org}",
        description=f"{len(report.drift.changes)} changes in {report.org}, {report.breaking} of them breaking",
    )
    counts = report.drift.counts()
    worst = next((name for name in ("breaking", "warning") if counts[name]), "info")
    emit_org_event(
        "kommo.drift.detected",
        report.org,
        report.facts() | drift_facts(report.drift),
        labels={"kommo.severity": worst},
    )
