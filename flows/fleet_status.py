"""Fleet status: the whole installation at one look, every few minutes.

The story: which connections are broken, what waits, what is late; show it as the artifact `kommo-fleet`; where the
whole has gone wrong or is well again, tell it once by an event, for automations.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import parse_span
from kommo.clock import SystemClock
from tasks.fleet_status import FleetReport, show_fleet
from tasks.installation import open_database

SyncWithin = Annotated[
    str,
    Field(
        title="Sync within",
        description="A connection that was not read for so long is overdue: a number and s, m, h or d.",
        pattern=r"^[0-9]{1,5}[smhd]$",
        examples=["36h"],
    ),
]


@flow(
    name="fleet-status",
    flow_run_name="fleet status",
    description="Who is broken and what waits, as the artifact kommo-fleet; events where the whole has gone wrong.",
    persist_result=False,
)
async def fleet_status(sync_within: SyncWithin = "36h") -> FleetReport:
    """Look at the installation, show it, and tell what is wrong as a whole.

    Args:
        sync_within: a connection that was not read for so long is overdue.

    Returns:
        The look in numbers.
    """
    async with open_database(Settings()) as database:
        return await show_fleet(database, SystemClock(), parse_span(sync_within))
