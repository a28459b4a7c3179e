"""`kommo automations`: what Prefect does by itself."""

from __future__ import annotations

from deployments.cli.output import cell, out, print_json, say, table
from deployments.cli.run import many_imports


async def apply(*, notify: str | None = None, json: bool = False) -> None:
    """Make all automations, or bring them up to date; it can be repeated.

    Args:
        notify: The notification block that is told, as TYPE/NAME, such as slack-webhook/ops.
        json: Print what was done as JSON.
    """
    with many_imports():
        from deployments.automations import apply_automations

    done = await apply_automations(notify)
    if json:
        print_json(done)
        return
    if done.steps:
        table(("automation", "done"), [(cell(step.name), _DONE[step.change]) for step in done.steps])
    for note in done.notes:
        out.print(f"[yellow]note:[/] {cell(note)}")
    say(f"{len(done.steps)} changed, {len(done.unchanged)} as they should be.")


async def show(*, json: bool = False) -> None:
    """Show our automations as they stand.

    Args:
        json: Print them as JSON.
    """
    with many_imports():
        from deployments.automations import read_automations

    found = await read_automations()
    if json:
        print_json([{"name": one.name, "enabled": one.enabled, "does": one.description} for one in found])
        return
    if not found:
        say("There are none: kommo automations apply --notify TYPE/NAME")
        return
    table(
        ("automation", "state", "what it does"),
        [
            (cell(one.name), "[green]on[/]" if one.enabled else "[yellow]paused[/]", cell(one.description))
            for one in found
        ],
    )


async def remove() -> None:
    """Remove all of our automations, and none of anybody else."""
    with many_imports():
        from deployments.automations import remove_automations

    names = await remove_automations()
    say(f"{len(names)} removed." if names else "There were none.")


_DONE = {"create": "[green]created[/]", "update": "[yellow]updated[/]", "remove": "[red]removed[/]"}
