"""The installation at one look: its dashboard for people, events for automations where it is wrong as a whole.

Events on the resource `kommo.installation`: `kommo.dead_letters.growing`, `kommo.completeness.low` and
`kommo.backlog.stale` when it begins and every hour while it goes on, each with `.recovered` behind it when it ends.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import BaseModel, Field

from kommo.clock import Clock
from store.alarms import Alarm, Observed, list_alarms, mark_told, note_alarms
from store.database import Database
from store.fleet_figures import LOW, FleetFigures, read_figures
from tasks.events import INSTALLATION
from tasks.fleet_markdown import fleet_markdown
from tasks.status import FleetLook, FleetView, look_at_fleet

ARTIFACT = "kommo-fleet"
DEAD_GROWING = "kommo.dead_letters.growing"
COMPLETENESS_LOW = "kommo.completeness.low"
BACKLOG_STALE = "kommo.backlog.stale"
RECOVERED = ".recovered"
STALE_SECONDS = 300.0
"""An event that is due for longer than this is not worked as it should be."""
_AGAIN = timedelta(hours=1)
_COMPARED_WITHIN = timedelta(days=2)
_SHOWN = 50

Emit = Callable[[str, Mapping[str, Any], uuid.UUID], None]
"""Emits an event: its name, its payload, its id."""


class FleetReport(BaseModel):
    """What one look came to. Holds no reason and nothing of a customer's data."""

    connected: int
    well: int
    broken: int
    pending: int = Field(description="Events of webhooks that wait.")
    due_seconds: float = Field(description="For how long the one that has been due for longest has waited.")
    dead: int = Field(description="Dead letters, of webhooks and for the product.")
    completeness: float | None = Field(description="Share of changes that had come by webhook.")
    stops: int = Field(description="Keys of the request budget that are stopped.")
    refreshes_late: int
    syncs_late: int
    alarms: list[str] = Field(description="What is wrong with the installation as a whole.")
    told: list[str] = Field(default_factory=list, description="The events that this run emitted.")


@dataclass(frozen=True)
class Looked:
    """What one look gave: the broken connections, the figures, the alarms that are on, those to be told of."""

    at: datetime
    fleet: FleetLook
    figures: FleetFigures
    alarms: list[Alarm]
    due: list[Alarm]


async def look(database: Database, clock: Clock, *, sync_within: timedelta) -> Looked:
    """Look at everything, and write down which alarms are on.

    Args:
        database: The store.
        clock: Source of time.
        sync_within: A connection that was not read for so long is late.
    """
    now = clock.now()
    fleet = await look_at_fleet(database, FleetView(broken=True, sort="state", limit=_SHOWN))
    figures = await read_figures(
        database,
        sync_within=sync_within,
        compared_within=_COMPARED_WITHIN,
        now=now,
        seconds=lambda: clock.now().timestamp(),
    )
    before = {alarm.name: alarm for alarm in await list_alarms(database)}
    due = await note_alarms(
        database, _observed(figures, before.get(DEAD_GROWING), now), again=_AGAIN, now=now
    )
    alarms = [alarm for alarm in await list_alarms(database) if alarm.is_on]
    return Looked(now, fleet, figures, alarms, due)


def _observed(figures: FleetFigures, growing: Alarm | None, now: datetime) -> list[Observed]:
    """What there is to say of each alarm."""
    known = growing.figures if growing is not None else {}
    grown = figures.dead > known.get("dead", 0)
    # They are growing until none has come for as long as it would be told again.
    grew_at = now.isoformat() if grown else known.get("grew_at")
    goes_on = grew_at is not None and figures.dead > 0 and now - datetime.fromisoformat(grew_at) < _AGAIN
    waiting, share = figures.waiting, figures.completeness
    return [
        Observed(
            DEAD_GROWING,
            goes_on,
            {
                "dead": figures.dead,
                "webhooks": waiting.dead,
                "unreadable": waiting.unreadable,
                "product": waiting.outbox.get("dead", 0),
                "grew_at": grew_at,
            },
        ),
        Observed(
            COMPLETENESS_LOW,
            share is not None and share < LOW,
            {
                "completeness": None if share is None else round(share, 5),
                "changes": figures.changes,
                "arrived": figures.arrived,
                # How many, and not which: these figures are kept, and outlive an org that is erased.
                "orgs_under": len(figures.incomplete),
            },
        ),
        Observed(
            BACKLOG_STALE,
            figures.due_seconds > STALE_SECONDS,
            {"due_seconds": round(figures.due_seconds, 1), "pending": waiting.pending},
        ),
    ]


def emit_installation_event(name: str, payload: Mapping[str, Any], event_id: uuid.UUID) -> None:
    """Emit an event about the installation as a whole; automations match on `kommo.installation`."""
    emit_event(
        name,
        resource={"prefect.resource.id": INSTALLATION, "prefect.resource.name": "Kommo data plane"},
        payload=dict(payload),
        id=event_id,
    )


async def tell_alarms(database: Database, due: list[Alarm], clock: Clock, emit: Emit) -> list[str]:
    """Emit what is to be told of alarms, and cross it off.

    Args:
        database: The store.
        due: The alarms.
        clock: Source of time.
        emit: Emits an event.

    Returns:
        The names of the events.
    """
    told = []
    for alarm in due:
        name = alarm.name if alarm.is_on else alarm.name + RECOVERED
        emit(name, {**alarm.figures, "since": alarm.since.isoformat()}, alarm.event_id)
        await mark_told(database, alarm, clock.now())
        told.append(name)
    return told


@task(
    name="look-at-fleet",
    description="Look at all connections and at what waits, show it, and tell what is wrong as a whole.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=5,
)
async def show_fleet(database: Database, clock: Clock, sync_within: timedelta) -> FleetReport:
    """Publish the artifact `kommo-fleet`, and emit what is to be told."""
    looked = await look(database, clock, sync_within=sync_within)
    # First the events: an automation waits for them, and a run that dies here tells them again under the same ids.
    told = await tell_alarms(database, looked.due, clock, emit_installation_event)
    report = report_of(looked, told)
    await acreate_markdown_artifact(
        fleet_markdown(looked.fleet, looked.figures, looked.alarms, looked.at),
        key=ARTIFACT,
        description=f"{report.connected} connected, {report.broken} broken; {len(report.alarms)} alarms",
    )
    return report


def report_of(looked: Looked, told: list[str]) -> FleetReport:
    """A look in numbers."""
    totals, figures = looked.fleet.totals, looked.figures
    return FleetReport(
        connected=totals.connected,
        well=totals.well,
        broken=totals.broken,
        pending=figures.waiting.pending,
        due_seconds=round(figures.due_seconds, 1),
        dead=figures.dead,
        completeness=figures.completeness,
        stops=len(figures.stops),
        refreshes_late=figures.refreshes_late,
        syncs_late=figures.syncs_late,
        alarms=[alarm.name for alarm in looked.alarms],
        told=told,
    )
