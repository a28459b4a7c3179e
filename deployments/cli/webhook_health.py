"""`kommo webhooks health` and `kommo webhooks reconcile`: do webhooks arrive, and what have they missed."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deployments.cli.output import cell, print_json, say, state_text, table
from deployments.cli.run import WrongUseError, many_imports
from tasks.completeness import percent

if TYPE_CHECKING:
    from tasks.reconcile import ReconcileReport


async def health(
    *orgs: str, compare_after: str = "6h", grace: str = "2m", concurrency: int = 8, json: bool = False
) -> None:
    """See that webhook subscriptions are on, mend those that are not, and compare with Kommo what may be missing.

    Args:
        orgs: Only these orgs; without any, all that are connected.
        compare_after: Compare an org if its last comparison is older than this, even if all seems well: a number and
            s, m, h or d.
        grace: Changes younger than this are left to the next comparison: their webhooks may be on their way.
        concurrency: How many orgs at a time.
        json: Print the report as JSON.
    """
    with many_imports():
        from flows.parameters import parse_span
        from flows.webhook_health import webhook_health
        from tasks.errors import WebhookHealthFailedError

    _check_spans(parse_span, compare_after=compare_after, grace=grace)
    failure: WebhookHealthFailedError | None = None
    try:
        report = await webhook_health(
            list(orgs) or None, compare_after=compare_after, grace=grace, concurrency=concurrency
        )
    except WebhookHealthFailedError as error:
        report, failure = error.report, error
    if json:
        print_json(report)
    else:
        table(
            ["org", "found", "now", "complete", "repaired", "why"],
            [
                (
                    cell(one.org),
                    state_text(one.found),
                    state_text(one.state),
                    "–" if one.reconciled is None else percent(one.reconciled.share),
                    "–" if one.reconciled is None else one.reconciled.total("repaired"),
                    cell(report.failed.get(one.org) or one.reason or ""),
                )
                for one in report.orgs
            ]
            + [
                (cell(org), state_text("failed"), "–", "–", "–", cell(why))
                for org, why in sorted(report.failed.items())
                if org not in {one.org for one in report.orgs}
            ],
        )
        say(report.summary())
    if failure is not None:
        raise failure


async def reconcile(org: str, *, since: str | None = None, grace: str = "2m", json: bool = False) -> None:
    """Compare an org's webhooks with Kommo since a moment, repair what was missed, and say how much had come.

    Args:
        org: The org.
        since: From this moment on, as in 2026-11-23T12:00 (UTC unless it names another zone); by default from the end
            of the last comparison.
        grace: Changes younger than this are left to the next comparison: a number and s, m, h or d.
        json: Print the report as JSON.
    """
    with many_imports():
        from flows.parameters import parse_span
        from flows.reconcile import reconcile as compare

    _check_spans(parse_span, grace=grace)
    report = await compare(org, None if since is None else _moment(since), grace)
    if json:
        print_json(report)
        return
    _show(report)


def _show(report: "ReconcileReport") -> None:
    table(
        ["entity", "changes", "had come", "repaired"],
        [(name, count.changes, count.arrived, count.repaired) for name, count in report.by_entity.items()],
    )
    say(report.summary())


def _check_spans(parse: Callable[[str], object], **spans: str) -> None:
    for name, text in spans.items():
        try:
            parse(text)
        except ValueError as error:
            raise WrongUseError(f"--{name.replace('_', '-')} {text!r}: {error}") from None


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUseError(f"--since {text!r} is not a time such as 2026-11-01T10:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
