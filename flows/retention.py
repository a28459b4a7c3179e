"""Retention: what has been done with goes when it has grown old; what is still to be worked or told never does.

The story: look up how old things may become; go through the tables, a batch to a transaction; say what went. A run that
was cut off has removed what it had removed, and the next one goes on.
"""

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from kommo.clock import SystemClock
from tasks.errors import RetentionFailedError
from tasks.installation import open_database
from tasks.retention import (
    RetentionReport,
    RetentionSession,
    ages_of,
    publish_retention,
    remove_all_old,
)

Age = Literal[
    "deliveries",
    "events",
    "dead_letters",
    "told",
    "actions",
    "runs",
    "record_versions",
    "tokens",
    "consents",
    "completeness",
    "audit",
]


@flow(
    name="retention",
    flow_run_name="retention, dry_run={dry_run}",
    description="Remove what has been done with and has grown old; never what is still to be worked, told or shown.",
    persist_result=False,
)
async def retention(
    dry_run: Annotated[bool, Field(title="Dry run", description="Only count what would go.")] = False,
    days: Annotated[
        dict[Age, Annotated[int, Field(ge=0, le=36_500)]] | None,
        Field(
            title="Days",
            description="Ages for this run in place of the settings KOMMO_RETENTION_…_DAYS; 0 is for ever.",
            examples=[{"deliveries": 7}],
        ),
    ] = None,
) -> RetentionReport:
    """Remove what has grown old.

    Args:
        dry_run: only count.
        days: ages in days, in place of those of the settings; orgs with ages of their own keep these.

    Returns:
        What went, by rule.

    Raises:
        RetentionSetupError: an age cannot be used.
        RetentionFailedError: a rule did not come to its end.
    """
    ages = ages_of({str(name): value for name, value in days.items()} if days else None)
    async with open_database(Settings()) as database:
        report = await remove_all_old(RetentionSession(database, ages, SystemClock(), dry_run=dry_run))
    await publish_retention(report)
    if report.failed:
        raise RetentionFailedError(report)
    return report
