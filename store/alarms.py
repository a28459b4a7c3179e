"""Alarms of the whole installation: what is wrong now, since when, and what of it is still to be told.

What is to be told is written down before it is told, under a number of its own, and crossed off afterwards. A run that
is killed between the two is followed by one that tells the same thing under the same number, by which whoever hears
it knows that it is the same.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.tables import FleetAlarmRow, table_of

_TABLE = table_of(FleetAlarmRow)
_NAMES = uuid.UUID("6f0c1a52-6b1f-4d0e-9a55-5b3a0e2f7c11")
ON, OFF = "on", "off"


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of one alarm.

    Attributes:
        name: the alarm's, such as `kommo.backlog.stale`.
        wrong: whether there is reason for it now.
        figures: what that rests on; JSON without secrets.
    """

    name: str
    wrong: bool
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm as it stands. Times are aware and UTC. Its fields: `store.tables.alarms`."""

    name: str
    state: str
    since: datetime
    serial: int
    told: int
    told_at: datetime | None
    figures: Any

    @property
    def is_on(self) -> bool:
        """Whether something is wrong."""
        return self.state == ON

    @property
    def event_id(self) -> uuid.UUID:
        """The id of what is to be told: the same however often it is told."""
        return uuid.uuid5(_NAMES, f"{self.name} {self.since.isoformat()} {self.serial}")


async def note_alarms(
    db: Database, observed: Sequence[Observed], *, again: timedelta, now: datetime
) -> list[Alarm]:
    """Write down what was seen, and give those of which something is to be told.

    An alarm is to be told when it begins, when it ends, and again while it goes on, `again` after it was told last. One
    that was never on and is not now is not told of.

    Args:
        db: the store.
        observed: what was seen of each alarm.
        again: how long after it was told last an alarm that goes on is told again.
        now: the present time.
    """
    due: list[Alarm] = []
    async with db.begin() as connection:
        await connection.execute(
            db.insert(_TABLE).on_conflict_do_nothing(),
            [
                {"name": one.name, "state": OFF, "since": now, "serial": 0, "told": 0, "figures": {}}
                for one in observed
            ],
        )
        # All are locked, in one order: two runs at once decide one after the other.
        found = {alarm.name: alarm for alarm in await _locked(connection, [one.name for one in observed])}
        for one in observed:
            before = found[one.name]
            state = ON if one.wrong else OFF
            changed = state != before.state
            repeated = one.wrong and before.told_at is not None and now - before.told_at >= again
            waiting = before.told < before.serial
            values: dict[str, Any] = {
                "state": state,
                "since": now if changed else before.since,
                "serial": before.serial + (changed or (repeated and not waiting)),
                "figures": dict(one.figures),
            }
            await connection.execute(update(_TABLE).where(_TABLE.c.name == one.name).values(values))
            alarm = Alarm(name=one.name, told=before.told, told_at=before.told_at, **values)
            if alarm.told < alarm.serial:
                due.append(alarm)
    return due


async def mark_told(db: Database, alarm: Alarm, now: datetime) -> None:
    """Cross off what was told of an alarm; what came up meanwhile stays."""
    async with db.begin() as connection:
        await connection.execute(
            update(_TABLE)
            .where(_TABLE.c.name == alarm.name, _TABLE.c.told < alarm.serial)
            .values(told=alarm.serial, told_at=now)
        )


async def list_alarms(db: Database) -> list[Alarm]:
    """All alarms that were ever looked at, by name."""
    async with db.read() as connection:
        rows = (await connection.execute(select(_TABLE).order_by(_TABLE.c.name))).mappings()
        return [Alarm(**row) for row in rows]


async def _locked(connection: AsyncConnection, names: Sequence[str]) -> list[Alarm]:
    query = select(_TABLE).where(_TABLE.c.name.in_(names)).order_by(_TABLE.c.name).with_for_update()
    return [Alarm(**row) for row in (await connection.execute(query)).mappings()]
