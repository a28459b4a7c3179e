"""`kommo refresh` and `kommo disconnect`: the life of a connection's tokens."""

from deployments.cli.asking import confirm_by_name
from deployments.cli.output import cell, out, print_json, say, state_text, table
from deployments.cli.run import WrongUseError, must_be_known


async def refresh(org: str | None = None, *, within: str = "6h", json: bool = False) -> None:
    """Refresh the tokens of one connection, or of all that end soon.

    Args:
        org: Refresh this one, due or not; without it, all that are due.
        within: Due is what ends within this time: a number and s, m, h or d.
        json: Print the report as JSON.
    """
    from flows.parameters import parse_span
    from flows.token_refresh import token_refresh
    from tasks.errors import RefreshRunFailedError

    try:
        parse_span(within)
    except ValueError as error:
        raise WrongUseError(f"--within {within!r}: {error}") from None
    if org is not None:
        await must_be_known(org)
    failure: RefreshRunFailedError | None = None
    try:
        report = await token_refresh(within, org)
    except RefreshRunFailedError as error:
        report, failure = error.report, error
    if json:
        print_json(report)
    else:
        if report.failures:
            rows = [(cell(one.org), state_text(one.outcome), cell(one.reason)) for one in report.failures]
            table(["org", "outcome", "why"], rows)
        say(report.summary())
    if failure is not None:
        raise failure


async def disconnect(org: str, *, purge: bool = False, yes: bool = False, json: bool = False) -> None:
    """Forget an org's tokens. Its snapshots stay unless they are purged.

    To take the access away at Kommo as well, remove the integration in the account's settings.

    Args:
        org: The org.
        purge: Remove its snapshots and history from our database, too. Asks first.
        yes: Do not ask.
        json: Print what was removed as JSON.
    """
    import sys

    if purge and not yes:
        if not sys.stdin.isatty():
            raise WrongUseError("--purge removes the history for good: say --yes as well.")
        confirm_by_name(f"Remove all snapshots and the history of {org}?", org)

    from flows.connect import disconnect_account

    await must_be_known(org)
    report = await disconnect_account(org, purge)
    if json:
        print_json(report)
        return
    out.print(f"[green]Disconnected[/] {cell(org)}.")
    if report.purged is not None:
        say(f"{sum(report.purged.values())} rows of snapshots and history were removed.")
