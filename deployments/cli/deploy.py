"""`kommo deploy`: the work pool, its queues and all deployments, made what the catalogue says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from deployments.cli.output import cell, out, print_json, say, table
from deployments.cli.run import WrongUseError, many_imports

if TYPE_CHECKING:
    from deployments.apply import Outcome

_STYLES = {"create": "green", "update": "yellow", "remove": "red"}


async def deploy(
    *,
    pool: str = "kommo",
    pool_type: Literal["process", "docker", "kubernetes"] = "process",
    image: str | None = None,
    shards: int = 1,
    hourly: bool = False,
    keep_schedules: bool = False,
    notify: str | None = None,
    dry_run: bool = False,
    check: bool = False,
    json: bool = False,
) -> None:
    """Make the work pool, its queues and all deployments what this version of the program defines.

    It can be repeated: what is as it should be is not touched, and what is no longer defined is removed (of the
    deployments that carry the tag `kommo`). What somebody has paused by hand stays paused. Then start workers:
    `prefect worker start --pool kommo`.

    Args:
        pool: Name of the work pool.
        pool_type: What its workers make of a run; a pool keeps the type it was made with.
        image: The image that runs are executed in, for docker and kubernetes.
        shards: Into how many parts the orgs are divided; each scheduled flow over all orgs has a deployment per part.
        hourly: Switch the hourly syncs on; see docs/deployments.md for what they cost.
        keep_schedules: Leave the schedules of deployments that exist as they are.
        notify: The notification block that automations tell, as TYPE/NAME, such as slack-webhook/ops; without it those
            that tell somebody stay as they are.
        dry_run: Change nothing, say what differs; exit code 1 if anything does.
        check: The same as --dry-run.
        json: Print what differs, or was done, as JSON.
    """
    with many_imports():
        from deployments.apply import Outcome, Step, apply, compare
        from deployments.automations import apply_automations
        from deployments.plan import PoolType, make_plan

    if not 1 <= shards <= 1000:
        raise WrongUseError("--shards is a number from 1 to 1000.")
    if pool_type != "process" and image is None:
        raise WrongUseError(f"Workers of type {pool_type} need --image, the image with this program in it.")
    if pool_type == "process" and image is not None:
        raise WrongUseError("--image is for workers of type docker and kubernetes; a process needs none.")
    plan = make_plan(pool=pool, pool_type=PoolType(pool_type), image=image, shards=shards, hourly=hourly)
    only_look = dry_run or check
    outcome = await (compare if only_look else apply)(plan, keep_schedules=keep_schedules)
    if not only_look:
        # Always: without the one for runs that died with their worker, these keep places in limited deployments.
        done = await apply_automations(notify, keep_notices=True)
        steps = tuple(Step("automation", step.name, step.change) for step in done.steps)
        notes = done.notes if notify or not outcome.current else ()
        outcome = Outcome(
            (*outcome.steps, *steps), (*outcome.unchanged, *done.unchanged), (*outcome.notes, *notes)
        )
    if json:
        print_json(
            {
                "pool": pool,
                "changed": not only_look and not outcome.current,
                "current": outcome.current,
                "steps": outcome.steps,
                "unchanged": outcome.unchanged,
                "notes": outcome.notes,
            }
        )
    else:
        _show(outcome, pool, only_look=only_look)
    if only_look and not outcome.current:
        sys.exit(1)


def _show(outcome: Outcome, pool: str, *, only_look: bool) -> None:
    if outcome.steps:
        table(
            ("what", "name", "would" if only_look else "done", "why"),
            [
                (
                    cell(step.what),
                    cell(step.name),
                    f"[{_STYLES[step.change]}]{step.change if only_look else _DONE[step.change]}[/]",
                    cell("; ".join(step.why)) if step.why else "",
                )
                for step in outcome.steps
            ],
        )
    for note in outcome.notes:
        out.print(f"[yellow]note:[/] {cell(note)}")
    rest = f"{len(outcome.unchanged)} as they should be."
    if only_look:
        say(
            f"{len(outcome.steps)} would change, {rest} Without --dry-run, `kommo deploy` does it."
            if outcome.steps
            else f"Nothing would change: all {rest}"
        )
        return
    say(f"{len(outcome.steps)} changed, {rest}" if outcome.steps else f"Nothing to do: all {rest}")
    say(f"Runs need a worker: prefect worker start --pool {pool}")


_DONE = {"create": "created", "update": "updated", "remove": "removed"}
