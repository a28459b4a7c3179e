"""The backlog: events that wait to be worked off, an org at a time (W2, W3).

A worker takes an org, not single events: the events of an entity stay in their order, and an org whose requests are
limited anyway does not occupy several workers. The org that was served longest ago comes first, so that a flood of one
does not starve the others. Like the claim on a refresh (`store.claims`), a turn ends at its deadline, and its serial
tells whoever lost it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database, insert_on
from store.dbclock import SecondsClock, clock_expression
from store.dead_letters import OrgBacklog, backlog_counts, dead_letters, replay
from store.inbox import DEAD, DONE, EVENTS, PENDING, StoredEvent, get_delivery, get_event
from store.rows import given_rows
from store.shards import is_in
from store.tables import BacklogTurnRow, table_of
from store.types import CleanText, EpochSeconds, UTCDateTime
from store.waiting import LONGEST_TURN, is_free, is_pending, waiting_orgs

__all__ = [
    "LONGEST_TURN",
    "Failure",
    "OrgBacklog",
    "Turn",
    "backlog_counts",
    "dead_letters",
    "end_pause",
    "end_turn",
    "fail_events",
    "get_delivery",
    "get_event",
    "is_left_lying",
    "keep_turn",
    "pending_events",
    "replay",
    "settle",
    "take_turn",
]

_TURN = table_of(BacklogTurnRow)
_IS_PENDING = is_pending(EVENTS)
# Of so many orgs at least one is free, or will be before it matters.
_CANDIDATES = 32
# An entity that changes all the time must not fill the memory; what is left over is newer, and comes with a later turn.
_MOST_FOR_ONE = 8


@dataclass(frozen=True, slots=True)
class Turn:
    """An org that was taken.

    Attributes:
        org: the product's tenant.
        owner: who took it.
        serial: grows with every turn of this org.
        until: its end, in seconds since 1970 on the shared clock.
    """

    org: str
    owner: str
    serial: int
    until: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that failed.

    Attributes:
        event_id: which.
        reason: why, a sentence without secrets and without what customers wrote.
        retry_at: when to try again, in seconds since 1970; None puts it to the dead letters.
    """

    event_id: int
    reason: str
    retry_at: float | None


async def take_turn(
    db: Database,
    owner: str,
    seconds: float,
    *,
    orgs: Sequence[str] | None = None,
    shard: tuple[int, int] | None = None,
    now: SecondsClock = time.time,
) -> Turn | None:
    """Take the org that was served longest ago among those that have something due; None if there is none.

    Args:
        db: the store.
        owner: a name that nobody else uses, new for each worker.
        seconds: how long the turn lasts if it is not kept up, at most LONGEST_TURN.
        orgs: only one of these.
        shard: (number, of how many): only orgs that fall to this part.
        now: seconds since 1970, used on SQLite.

    Raises:
        ValueError: `seconds` is out of range.
    """
    if not 0 < seconds <= LONGEST_TURN:
        raise ValueError(f"A turn lasts for more than 0 and at most {LONGEST_TURN:.0f} seconds.")
    # Looked for first, in a reading transaction: who finds nothing does not disturb those who write.
    async with db.read() as connection:
        query = _waiting(connection, orgs=orgs, now=now)
        if shard is None:
            query = query.limit(_CANDIDATES)
        waiting = list((await connection.execute(query)).scalars())
    if shard is not None:
        waiting = [org for org in waiting if is_in(shard, org)][:_CANDIDATES]
    if not waiting:
        return None
    async with db.begin() as connection:
        given = given_rows(connection, {"org": CleanText}, [(org,) for org in sorted(waiting)])
        await connection.execute(
            insert_on(connection, _TURN)
            .from_select(
                ["org", "owner", "until", "not_before", "served_at"],
                select(given.c.org, literal(""), *(literal(0.0, EpochSeconds()) for _ in range(3))).where(
                    ~select(_TURN.c.org).where(_TURN.c.org == given.c.org).exists()
                ),
                include_defaults=False,
            )
            .on_conflict_do_nothing(index_elements=["org"])
        )
        clock = clock_expression(connection, now)
        free = (
            select(_TURN.c.org)
            .where(_TURN.c.org.in_(select(given.c.org)), _is_free(clock))
            .order_by(_TURN.c.served_at, _TURN.c.org)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        org = (await connection.execute(free)).scalar()
        if org is None:
            return None
        taken = await connection.execute(
            update(_TURN)
            .where(_TURN.c.org == org)
            .values(
                owner=owner,
                until=clock + literal(seconds, EpochSeconds()),
                serial=_TURN.c.serial + 1,
                not_before=0.0,
                reason=None,
                served_at=clock,
            )
            .returning(_TURN.c.org, _TURN.c.owner, _TURN.c.serial, _TURN.c.until)
        )
        return Turn(*taken.one())


async def is_left_lying(db: Database, seconds: float, *, now: SecondsClock = time.time) -> bool:
    """Whether an event could have been worked for so many seconds, and nobody has its org's turn."""
    async with db.read() as connection:
        query = _waiting(connection, for_seconds=seconds, now=now).limit(1)
        return (await connection.execute(query)).first() is not None


async def keep_turn(
    db: Database, turn: Turn, seconds: float, *, now: SecondsClock = time.time
) -> Turn | None:
    """Let a turn last for so many seconds from now; None if it was lost."""
    async with db.begin() as connection:
        until = clock_expression(connection, now) + literal(seconds, EpochSeconds())
        kept = await connection.execute(
            update(_TURN)
            .where(_mine(turn))
            .values(until=until)
            .returning(_TURN.c.org, _TURN.c.owner, _TURN.c.serial, _TURN.c.until)
        )
        row = kept.first()
    return None if row is None else Turn(*row)


async def pending_events(
    db: Database, turn: Turn, limit: int, *, now: SecondsClock = time.time
) -> list[StoredEvent]:
    """The org's events that are due, and whatever else is pending of the same entities, oldest first.

    Args:
        db: the store.
        turn: from `take_turn`.
        limit: at most so many due ones, and at most eight times as many together.
        now: seconds since 1970, used on SQLite.
    """
    async with db.read() as connection:
        clock = clock_expression(connection, now)
        due = (
            select(EVENTS)
            .where(EVENTS.c.org == turn.org, _IS_PENDING, EVENTS.c.due_at <= clock)
            .order_by(EVENTS.c.due_at, EVENTS.c.id)
            .limit(limit)
        )
        found = [StoredEvent(*row) for row in await connection.execute(due)]
        if found:
            # Those that are not among them come after the last one, in the order in which these were taken.
            last = (found[-1].due_at, found[-1].id)
            entities = {(event.entity, event.entity_id) for event in found}
            more = _also_pending(connection, turn.org, entities, last, limit * (_MOST_FOR_ONE - 1))
            found += [StoredEvent(*row) for row in await connection.execute(more)]
    return sorted(found, key=lambda event: (event.received_at, event.delivery_id, event.position))


def _also_pending(
    connection: AsyncConnection,
    org: str,
    entities: set[tuple[str, str]],
    last: tuple[float, int],
    limit: int,
) -> Select[Any]:
    """What else is pending of these entities: one look into the index for each, whatever the planner believes.

    Right after a flood, which is when it matters, no statistics say how many rows there are of anything.
    """
    given = given_rows(connection, {"entity": CleanText, "entity_id": CleanText}, sorted(entities))
    others = (
        EVENTS.c.org == org,
        _IS_PENDING,
        or_(EVENTS.c.due_at > last[0], and_(EVENTS.c.due_at == last[0], EVENTS.c.id > last[1])),
    )
    if connection.dialect.name == "postgresql":
        same = and_(EVENTS.c.entity == given.c.entity, EVENTS.c.entity_id == given.c.entity_id)
        # The order is that of the index that is meant.
        each = select(EVENTS).where(same, *others).order_by(EVENTS.c.id).limit(limit).lateral("each")
        return select(each).select_from(given.join(each, true())).limit(limit)
    return (
        select(EVENTS)
        .with_hint(EVENTS, "INDEXED BY ix_webhook_event_waiting", "sqlite")
        .where(
            tuple_(EVENTS.c.entity, EVENTS.c.entity_id).in_(select(given.c.entity, given.c.entity_id)),
            *others,
        )
        .limit(limit)
    )


async def settle(
    connection: AsyncConnection, turn: Turn, done: Sequence[tuple[int, str | None]], *, now: datetime
) -> bool:
    """Mark events as done inside the transaction of their effects.

    Args:
        connection: from `Database.begin`.
        turn: from `take_turn`. It stays locked until the transaction ends, so that nobody takes it meanwhile.
        done: ids, each with what it came to.
        now: the present time.

    Returns:
        False if the turn was lost, or an event was settled by somebody else: then roll everything back.
    """
    if not await _lock(connection, turn):
        return False
    if not done:
        return True
    given = given_rows(connection, {"id": BigInteger, "outcome": CleanText}, done)
    settled = await connection.execute(
        update(EVENTS)
        .where(_given_pending(given, turn))
        .values(state=DONE, outcome=given.c.outcome, reason=None, settled_at=now)
    )
    return settled.rowcount == len(done)


async def fail_events(db: Database, turn: Turn, failures: Sequence[Failure], *, now: datetime) -> bool:
    """Count a failed attempt of each event, and say when it is tried again, or that it is dead.

    Args:
        db: the store.
        turn: from `take_turn`.
        failures: what failed and why.
        now: the present time.

    Returns:
        False if the turn was lost; then nothing was written.
    """
    async with db.begin() as connection:
        if not await _lock(connection, turn):
            return False
        types = {"id": BigInteger, "reason": CleanText, "retry_at": EpochSeconds}
        rows = [(one.event_id, one.reason, one.retry_at) for one in failures]
        given = given_rows(connection, types, rows)
        is_dead = given.c.retry_at.is_(None)
        await connection.execute(
            update(EVENTS)
            .where(_given_pending(given, turn))
            .values(
                attempts=EVENTS.c.attempts + 1,
                state=case((is_dead, DEAD), else_=PENDING),
                due_at=func.coalesce(given.c.retry_at, EVENTS.c.due_at),
                reason=given.c.reason,
                settled_at=case((is_dead, literal(now, UTCDateTime()))),
            )
        )
        return True


async def end_turn(
    db: Database, turn: Turn, *, pause: float = 0.0, reason: str | None = None, now: SecondsClock = time.time
) -> bool:
    """Give a turn back.

    Args:
        db: the store.
        turn: from `take_turn`.
        pause: nobody takes the org for so many seconds; 0 for no pause.
        reason: why it pauses, a sentence without secrets.
        now: seconds since 1970, used on SQLite.

    Returns:
        False if it was lost before; then nothing was written.
    """
    async with db.begin() as connection:
        later: ColumnElement[float] = literal(0.0, EpochSeconds())
        if pause > 0:
            later = clock_expression(connection, now) + literal(pause, EpochSeconds())
        ended = await connection.execute(
            update(_TURN).where(_mine(turn)).values(until=0.0, not_before=later, reason=reason)
        )
        return ended.rowcount == 1


async def end_pause(db: Database, org: str) -> bool:
    """Let an org be taken again at once, because the cause of its pause is gone; whether it paused."""
    async with db.begin() as connection:
        ended = await connection.execute(
            update(_TURN)
            .where(_TURN.c.org == org, _TURN.c.not_before > 0.0)
            .values(not_before=0.0, reason=None)
        )
        return ended.rowcount == 1


def _waiting(
    connection: AsyncConnection,
    *,
    orgs: Sequence[str] | None = None,
    for_seconds: float = 0.0,
    now: SecondsClock,
) -> Select[Any]:
    clock = clock_expression(connection, now)

    def due(org: ColumnElement[str]) -> ColumnElement[bool]:
        since = clock - literal(for_seconds, EpochSeconds())
        return select(EVENTS.c.id).where(EVENTS.c.org == org, _IS_PENDING, EVENTS.c.due_at <= since).exists()

    return waiting_orgs(EVENTS, _TURN, due=due, free=_is_free(clock), orgs=orgs)


def _is_free(clock: ColumnElement[float]) -> ColumnElement[bool]:
    return and_(is_free(_TURN, clock), _TURN.c.not_before <= clock)


def _mine(turn: Turn) -> ColumnElement[bool]:
    return and_(_TURN.c.org == turn.org, _TURN.c.owner == turn.owner, _TURN.c.serial == turn.serial)


def _given_pending(given: FromClause, turn: Turn) -> ColumnElement[bool]:
    """Those of the given ids that are pending events of the turn's org.

    The org is part of an expression, so that no database goes through all of the org's events for each given one.
    """
    is_ours = EVENTS.c.org.concat("") == turn.org
    return and_(EVENTS.c.id == given.c.id, is_ours, EVENTS.c.state == PENDING)


async def _lock(connection: AsyncConnection, turn: Turn) -> bool:
    return (
        await connection.execute(select(_TURN.c.org).where(_mine(turn)).with_for_update())
    ).first() is not None
