"""How much is waiting, in numbers of the whole installation: for whoever watches it. No orgs by name."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, literal_column, select

from store.completeness import latest_completeness
from store.database import Database
from store.inbox import DELIVERIES, EVENTS
from store.tables import Connection, OutboxRow, table_of

_CONNECTION = table_of(Connection)
_OUTBOX = table_of(OutboxRow)
# Written out, not a parameter: the database must see that the partial indexes fit.
_IS_PENDING = EVENTS.c.state == literal_column("'pending'")
_IS_DEAD = EVENTS.c.state == literal_column("'dead'")
_WAITING = ("pending", "dead")  # the states of the outbox that have an index of their own
_IS_UNREADABLE = DELIVERIES.c.state == literal_column("'unreadable'")


@dataclass(frozen=True, slots=True)
class Gauges:
    """What waits, at one moment.

    Attributes:
        pending: events of webhooks that wait to be worked off.
        oldest_received_at: when the oldest of them came.
        dead: events that were given up.
        unreadable: deliveries that cannot be read.
        outbox: events for the product that wait (`pending`) or were given up (`dead`).
        outbox_oldest_at: when the oldest of those that wait was written.
        connections: how many connections are in each state.
        completeness: of each org that was ever compared, what share of its changes had come by webhook.
    """

    pending: int
    oldest_received_at: datetime | None
    dead: int
    unreadable: int
    outbox: dict[str, int]
    outbox_oldest_at: datetime | None
    connections: dict[str, int]
    completeness: tuple[float, ...]


async def read_gauges(db: Database) -> Gauges:
    """Count what waits. Each count goes over an index that holds only what it counts."""
    events = select(func.count(), func.min(EVENTS.c.received_at)).where(_IS_PENDING)
    dead = select(func.count()).where(_IS_DEAD)
    unreadable = select(func.count()).where(_IS_UNREADABLE)
    # One for each state: told that it is one of several, the database would go through all that was ever told.
    waiting = {
        state: select(func.count(), func.min(_OUTBOX.c.created_at)).where(
            _OUTBOX.c.state == literal_column(f"'{state}'")
        )
        for state in _WAITING
    }
    states = select(_CONNECTION.c.state, func.count()).group_by(_CONNECTION.c.state)
    async with db.read() as connection:
        pending, oldest = (await connection.execute(events)).one()
        given_up = (await connection.execute(dead)).scalar_one()
        not_read = (await connection.execute(unreadable)).scalar_one()
        outbox = {state: (await connection.execute(query)).one() for state, query in waiting.items()}
        connections = {row[0]: row[1] for row in await connection.execute(states)}
    measured = await latest_completeness(db)
    return Gauges(
        pending=pending,
        oldest_received_at=oldest,
        dead=given_up,
        unreadable=not_read,
        outbox={state: row[0] for state, row in outbox.items()},
        outbox_oldest_at=outbox["pending"][1],
        connections=connections,
        completeness=tuple(one.share for one in measured.values()),
    )
