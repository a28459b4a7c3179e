"""How the backlog stands, and the events that could not be worked off: to be looked at, and tried again (W3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, func, literal_column, select, update

from store.database import Database
from store.inbox import DELIVERIES, EVENTS, PENDING, StoredEvent
from store.rows import given_rows
from store.tables import BacklogTurnRow, table_of

_TURN = table_of(BacklogTurnRow)
# Written out, not a parameter: the database must see that the partial indexes fit.
_IS_PENDING = EVENTS.c.state == literal_column("'pending'")
_IS_DEAD = EVENTS.c.state == literal_column("'dead'")
_IS_UNREADABLE = DELIVERIES.c.state == literal_column("'unreadable'")


@dataclass(frozen=True, slots=True)
class OrgBacklog:
    """How the backlog of one org stands.

    Attributes:
        org: the product's tenant; empty for deliveries that could not be given to one.
        pending: events that wait.
        oldest_received_at: when the oldest of them came.
        dead: events that were given up.
        unreadable: deliveries that cannot be read.
        paused_until: nobody works on it before, in seconds since 1970; 0 if it does not pause.
        reason: why it pauses.
    """

    org: str
    pending: int = 0
    oldest_received_at: datetime | None = None
    dead: int = 0
    unreadable: int = 0
    paused_until: float = 0.0
    reason: str | None = None


async def backlog_counts(db: Database) -> list[OrgBacklog]:
    """How each org's backlog stands, in the order of the orgs; an org without any of it is left out."""
    pending = (
        select(EVENTS.c.org, func.count(), func.min(EVENTS.c.received_at))
        .where(_IS_PENDING)
        .group_by(EVENTS.c.org)
    )
    dead = select(EVENTS.c.org, func.count()).where(_IS_DEAD).group_by(EVENTS.c.org)
    unreadable = select(DELIVERIES.c.org, func.count()).where(_IS_UNREADABLE).group_by(DELIVERIES.c.org)
    paused = select(_TURN.c.org, _TURN.c.not_before, _TURN.c.reason).where(_TURN.c.not_before > 0.0)
    async with db.read() as connection:
        waiting = {row[0]: row for row in await connection.execute(pending)}
        given_up = {row[0]: row[1] for row in await connection.execute(dead)}
        not_read = {row[0]: row[1] for row in await connection.execute(unreadable)}
        pauses = {row[0]: row for row in await connection.execute(paused)}
    return [
        OrgBacklog(
            org,
            pending=waiting[org][1] if org in waiting else 0,
            oldest_received_at=waiting[org][2] if org in waiting else None,
            dead=given_up.get(org, 0),
            unreadable=not_read.get(org, 0),
            paused_until=pauses[org][1] if org in pauses else 0.0,
            reason=pauses[org][2] if org in pauses else None,
        )
        for org in sorted({*waiting, *given_up, *not_read, *pauses})
    ]


async def dead_letters(
    db: Database, org: str | None = None, *, limit: int = 100, after: int = 0
) -> list[StoredEvent]:
    """A page of the events that were given up, oldest first.

    Args:
        db: the store.
        org: only this org's.
        limit: at most so many.
        after: the last id of the page before.
    """
    query = select(EVENTS).where(_IS_DEAD, EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
    if org is not None:
        query = query.where(EVENTS.c.org == org)
    async with db.read() as connection:
        return [StoredEvent(**row) for row in (await connection.execute(query)).mappings()]


async def replay(
    db: Database,
    *,
    ids: Sequence[int] | None = None,
    org: str | None = None,
    reason: str | None = None,
    since: datetime | None = None,
) -> int:
    """Put events that were given up back into the backlog, with all their attempts before them.

    Args:
        db: the store.
        ids: only these.
        org: only this org's.
        reason: only those that were given up for exactly this reason.
        since: only those that came at this time or later.

    Returns:
        How many there were.
    """
    async with db.begin() as connection:
        statement = update(EVENTS).where(_IS_DEAD)
        if ids is not None:
            given = given_rows(connection, {"id": BigInteger}, [(one,) for one in set(ids)])
            statement = statement.where(EVENTS.c.id.in_(select(given.c.id)))
        if org is not None:
            statement = statement.where(EVENTS.c.org == org)
        if reason is not None:
            statement = statement.where(EVENTS.c.reason == reason)
        if since is not None:
            statement = statement.where(EVENTS.c.received_at >= since)
        again = statement.values(
            # The reason stays until the event has come to something, for whoever watches it.
            state=PENDING,
            attempts=0,
            due_at=0.0,
            settled_at=None,
        )
        return (await connection.execute(again)).rowcount
