"""`kommo retention`: removing what has grown old."""

from deployments.cli.output import cell, print_json, say, table
from deployments.cli.run import WrongUseError, many_imports


async def retention(*, dry_run: bool = False, days: dict[str, int] | None = None, json: bool = False) -> None:
    """Remove what has been done with and has grown old; never what is still to be worked, told or shown.

    How old is set by KOMMO_RETENTION_DELIVERIES_DAYS and its like, for single orgs by KOMMO_RETENTION_ORGS.

    Args:
        dry_run: Only count what would go.
        days: An age for this once: --days.deliveries 7; 0 is for ever.
        json: Print the report as JSON.
    """
    with many_imports():
        from flows.retention import retention as run_retention
        from tasks.errors import RetentionFailedError, RetentionSetupError
        from tasks.retention import ages_of

    try:
        ages_of(days)
    except RetentionSetupError as error:
        if days:
            raise WrongUseError(str(error)) from None
        raise
    failure: RetentionFailedError | None = None
    try:
        report = await run_retention(dry_run, days)  # type: ignore[arg-type]  # its names were just checked
    except RetentionFailedError as error:
        report, failure = error.report, error
    if json:
        print_json(report)
    else:
        table(
            ["what", "kept for", "would go" if dry_run else "went", "why not"],
            [
                (
                    cell(rule.rule),
                    f"{rule.days} days" if rule.days else "ever",
                    rule.rows + rule.with_them,
                    cell(rule.failed or ""),
                )
                for rule in report.rules
            ],
        )
        if report.orgs:
            say(f"With ages of their own: {', '.join(report.orgs)}.")
        say(report.summary())
    if failure is not None:
        raise failure
