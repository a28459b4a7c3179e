"""`kommo serve`: all deployments and their runs in one process, for a small installation."""

from __future__ import annotations

from deployments.cli.output import say
from deployments.cli.run import WrongUseError, let_prefect_speak, many_imports

# A run start costs 1.4 to 3.6 s of CPU (measured); more at a time than cores would only queue on the processor. Two of
# these linger nearly all the time, in the backlog and in the delivery of events, and wait for something to do.
RUNS_AT_A_TIME = 6


async def serve(*, limit: int = RUNS_AT_A_TIME, hourly: bool = False, take_over: bool = False) -> None:
    """Make all deployments and execute their runs, until interrupted; for a small installation.

    It needs a Prefect server (PREFECT_API_URL). For several machines, or more runs than one takes, use `kommo deploy`
    and workers.

    Args:
        limit: How many runs at a time. Two of them nearly always wait for webhooks and events.
        hourly: Switch the hourly syncs on; see docs/deployments.md for what they cost.
        take_over: Take the deployments out of the work pool that `kommo deploy` has put them in.
    """
    if limit < 3:
        raise WrongUseError("--limit is at least 3: two runs nearly always wait for webhooks and events.")
    let_prefect_speak()
    with many_imports():
        from deployments.serving import serve_all

    await serve_all(limit=limit, hourly=hourly, take_over=take_over, say=say)
