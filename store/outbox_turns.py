"""Telling the product: an org's events are told by one run at a time, and marked by it.

As in the backlog (`store.backlog`), a run takes an org for a turn, with a deadline and a serial. A run that was held
up, and whose org another one has taken since, can mark nothing any more. What keeps the order is not the turn, though,
but that nobody sends an event before the one ahead of it, of the same subject, was taken by the product or is marked as
dead: a run that comes back from a long stop can only repeat what was told already.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    and_,
    case,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database, insert_on
from store.dbclock import SecondsClock, clock_expression
from store.outbox import DELIVERED, OutboxRecord
from store.rows import given_rows
from store.shards import is_in
from store.tables import OutboxRow, OutboxTurnRow, table_of
from store.types import CleanText, EpochSeconds, UTCDateTime
from store.waiting import LONGEST_TURN, is_free, is_pending, waiting_orgs

_TABLE = table_of(OutboxRow)
_TURN = table_of(OutboxTurnRow)
_IS_PENDING = is_pending(_TABLE)
_LONGEST_HOLD = timedelta(hours=2)
"""The same for an event's next attempt, which is never put off for much longer than an hour."""


@dataclass(frozen=True, slots=True)
class OutboxTurn:
    """An org that was taken; `serial` grows with every turn of this org."""

    org: str
    serial: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What came of one attempt.

    Attributes:
        id: the event's row.
        org: whose it is.
        state: `delivered`, `pending` for another attempt, or `dead`.
        counted: whether it counts as an attempt.
        retry_at: when to try again, if it is pending.
        reason: why it failed, a sentence without secrets.
    """

    id: int
    org: str
    state: str
    counted: bool = True
    retry_at: datetime | None = None
    reason: str | None = None


async def take_outbox_turns(
    db: Database,
    owner: str,
    seconds: float,
    *,
    limit: int,
    orgs: Sequence[str] | None = None,
    shard: tuple[int, int] | None = None,
    moment: datetime,
    now: SecondsClock = time.time,
) -> list[OutboxTurn]:
    """Take orgs with something due that nobody else has, first those that were served longest ago.

    Args:
        db: the store.
        owner: a name that no other run has.
        seconds: how long the turns last unless they are kept up, at most LONGEST_TURN.
        limit: at most so many.
        orgs: only some of these.
        shard: (number, of how many): only orgs that fall to this part.
        moment: the present time, used on SQLite for what is due.
        now: seconds since 1970, used on SQLite for the turns.

    Raises:
        ValueError: `seconds` is out of range.
    """
    if not 0 < seconds <= LONGEST_TURN:
        raise ValueError(f"A turn lasts for more than 0 and at most {LONGEST_TURN:.0f} seconds.")
    # Looked for first, in a reading transaction: who finds nothing does not disturb those who write.
    async with db.read() as connection:
        clock = clock_expression(connection, now)

        def due(org: ColumnElement[str]) -> ColumnElement[bool]:
            first = select(_TABLE.c.id).where(
                _TABLE.c.org == org, _IS_PENDING, _is_not_held(connection, moment)
            )
            return first.limit(1).scalar_subquery().is_not(None)

        query = waiting_orgs(_TABLE, _TURN, due=due, free=is_free(_TURN, clock), orgs=orgs)
        waiting = list((await connection.execute(query)).scalars())
    if shard is not None:
        waiting = [org for org in waiting if is_in(shard, org)]
    if not waiting:
        return []
    async with db.begin() as connection:
        given = given_rows(connection, {"org": CleanText}, [(org,) for org in sorted(waiting[:limit])])
        await _make_rows(connection, given)
        clock = clock_expression(connection, now)
        free = (
            select(_TURN.c.org)
            .where(_TURN.c.org.in_(select(given.c.org)), is_free(_TURN, clock))
            .order_by(_TURN.c.org)
            .with_for_update(skip_locked=True)
        )
        found = list((await connection.execute(free)).scalars())
        if not found:
            return []
        taken = await connection.execute(
            update(_TURN)
            .where(_TURN.c.org.in_(found))
            .values(
                owner=owner,
                until=clock + literal(seconds, EpochSeconds()),
                serial=_TURN.c.serial + 1,
                served_at=clock,
            )
            .returning(_TURN.c.org, _TURN.c.serial)
        )
        return [OutboxTurn(*row) for row in taken]


async def end_outbox_turns(db: Database, owner: str, turns: Sequence[OutboxTurn]) -> None:
    """Give turns back; those that were lost before are left alone."""
    if not turns:
        return
    async with db.begin() as connection:
        given = _given_turns(connection, turns)
        await connection.execute(update(_TURN).where(_mine(owner, given)).values(until=0.0))


async def due_outbox(
    db: Database, org: str, *, limit: int, busy: Collection[str] = (), moment: datetime
) -> list[OutboxRecord]:
    """An org's events that may be told now, oldest first: of each subject the first ones, in their order.

    Args:
        db: the store.
        org: the product's tenant.
        limit: at most so many.
        busy: subjects that are left out, because somebody is telling their events.
        moment: the present time, used on SQLite.
    """
    async with db.read() as connection:
        query = (
            select(_TABLE)
            .where(_TABLE.c.org == org, _IS_PENDING, _is_not_held(connection, moment))
            .order_by(_TABLE.c.id)
            .limit(limit)
        )
        if busy:
            given = given_rows(connection, {"subject": CleanText}, [(subject,) for subject in busy])
            query = query.where(_TABLE.c.subject.not_in(select(given.c.subject)))
        return [OutboxRecord(*row) for row in await connection.execute(query)]


async def mark_outbox(
    db: Database,
    owner: str,
    turns: Sequence[OutboxTurn],
    marks: Sequence[Mark],
    seconds: float,
    *,
    moment: datetime,
    now: SecondsClock = time.time,
) -> set[str]:
    """Write down what came of attempts, and keep the turns up, in one transaction.

    Args:
        db: the store.
        owner: whose turns these are.
        turns: all that this run has.
        marks: of events of these orgs.
        seconds: how long the turns last from now on.
        moment: the present time on this machine's clock, by which `retry_at` was reckoned.
        now: seconds since 1970, used on SQLite for the turns.

    Returns:
        The orgs whose turns this run still has. Of the others nothing was marked.
    """
    async with db.begin() as connection:
        given = _given_turns(connection, turns)
        kept = await connection.execute(
            update(_TURN)
            .where(_mine(owner, given))
            .values(until=clock_expression(connection, now) + literal(seconds, EpochSeconds()))
            .returning(_TURN.c.org, _TURN.c.until)
        )
        still: dict[str, float] = {org: until - seconds for org, until in kept}
        ours = [one for one in marks if one.org in still]
        if ours:
            # Several machines read what is written here, and their clocks differ: it is told by the database's.
            behind = timedelta()
            if connection.dialect.name == "postgresql":
                behind = datetime.fromtimestamp(max(still.values()), UTC) - moment
            rows = [
                (one.id, one.state, int(one.counted), one.retry_at and one.retry_at + behind, one.reason)
                for one in ours
            ]
            await _write_marks(connection, rows, moment + behind)
        return set(still)


async def _write_marks(
    connection: AsyncConnection, rows: Sequence[tuple[object, ...]], moment: datetime
) -> None:
    types = {
        "id": BigInteger,
        "state": CleanText,
        "counted": BigInteger,
        "retry_at": UTCDateTime,
        "reason": CleanText,
    }
    given = given_rows(connection, types, rows)
    is_delivered = given.c.state == DELIVERED
    await connection.execute(
        update(_TABLE)
        .where(_TABLE.c.id == given.c.id, _TABLE.c.state == literal("pending"))
        .values(
            state=given.c.state,
            attempts=_TABLE.c.attempts + given.c.counted,
            next_attempt_at=given.c.retry_at,
            delivered_at=case((is_delivered, literal(moment, UTCDateTime()))),
            last_error=given.c.reason,
        )
    )


async def _make_rows(connection: AsyncConnection, given: FromClause) -> None:
    await connection.execute(
        insert_on(connection, _TURN)
        .from_select(
            ["org", "owner", "until", "served_at"],
            select(given.c.org, literal(""), *(literal(0.0, EpochSeconds()) for _ in range(2))).where(
                ~select(_TURN.c.org).where(_TURN.c.org == given.c.org).exists()
            ),
            include_defaults=False,
        )
        .on_conflict_do_nothing(index_elements=["org"])
    )


def _is_not_held(connection: AsyncConnection, moment: datetime) -> ColumnElement[bool]:
    """Whether no event of this one's subject has failed and waits for another attempt, by the shared clock.

    Not EXISTS: PostgreSQL would make a join of it, and go through all that waits before it gives the first row. A look
    into the index for each row that is asked for is right whatever the statistics say.
    """
    held = _TABLE.alias("held")
    if connection.dialect.name == "postgresql":
        # The statement's time: one that may differ from row to row could not be looked up in an index.
        clock: ColumnElement[datetime] = func.statement_timestamp()
        farthest: ColumnElement[datetime] = clock + _LONGEST_HOLD
    else:
        clock = literal(moment, UTCDateTime())
        farthest = literal(moment + _LONGEST_HOLD, UTCDateTime())
    return (
        select(held.c.id)
        .where(
            held.c.org == _TABLE.c.org,
            held.c.subject == _TABLE.c.subject,
            held.c.state == literal_column("'pending'"),
            held.c.next_attempt_at.is_not(None),
            held.c.next_attempt_at > clock,
            held.c.next_attempt_at <= farthest,
        )
        .limit(1)
        .scalar_subquery()
        .is_(None)
    )


def _given_turns(connection: AsyncConnection, turns: Sequence[OutboxTurn]) -> FromClause:
    return given_rows(
        connection, {"org": CleanText, "serial": BigInteger}, sorted((one.org, one.serial) for one in turns)
    )


def _mine(owner: str, given: FromClause) -> ColumnElement[bool]:
    return and_(
        _TURN.c.owner == owner,
        tuple_(_TURN.c.org, _TURN.c.serial).in_(select(given.c.org, given.c.serial)),
    )
