"""`kommo budget`: the request budget that all processes of an installation share."""

from deployments.cli.output import cell, print_json, say, table

_LONG = 2.0  # seconds; what is reserved ahead is less
_SLOWED = "Kommo asked for fewer requests (429); it goes on by itself"


async def show(*, json: bool = False) -> None:
    """Show every key of the budget: when its next request may go, and whether it is stopped.

    Args:
        json: Print it as JSON.
    """
    from blocks.settings import Settings
    from tasks.installation import budget_of, open_database

    settings = Settings()
    async with open_database(settings) as database:
        rows = await budget_of(database, settings).status()
    if json:
        print_json([vars(row) for row in rows])
        return
    table(
        ["key", "next request in", "stopped for", "why"],
        [
            (
                cell(row.key),
                f"{row.next_in:.2f} s",
                f"{row.blocked_for:.0f} s" if row.blocked_for else "–",
                cell(row.blocked_reason or (_SLOWED if row.next_in > _LONG else "")),
            )
            for row in rows
        ],
    )


async def unblock(key: str) -> None:
    """Let requests of a stopped key go again, once Kommo has lifted its block.

    Args:
        key: The key as `kommo budget show` writes it, for example egress:default.
    """
    from blocks.settings import Settings
    from tasks.installation import budget_of, open_database

    settings = Settings()
    async with open_database(settings) as database:
        budget = budget_of(database, settings)
        stopped = {row.key for row in await budget.status() if row.blocked_for}
        await budget.unblock(key)
    say(
        f"{key} may send again."
        if key in stopped
        else f"{key} was not stopped: kommo budget show lists the keys."
    )
