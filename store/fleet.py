"""A fleet of orgs that is synced by several processes: whose turn it is, what is left, what was taken.

What was done is read from `sync_run`, so that whoever comes after a killed process goes on where it ended. A turn only
keeps two processes from syncing the same org at once in vain: it ends at its deadline, and holds nothing else.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.connection_records import PAIR, ConnectionRecord, ConnectionState, to_record
from store.database import Database, insert_on
from store.dbclock import SecondsClock, clock_expression
from store.rows import given_rows
from store.runs import RunState
from store.shards import SLOTS, Shard, slot_in
from store.tables import Connection, SyncRun, SyncTurnRow, TokenJournalRow, table_of
from store.token_journal import JournalRow
from store.types import CleanText, EpochSeconds

_CONNECTION = table_of(Connection)
_TURN = table_of(SyncTurnRow)
_RUN = table_of(SyncRun)
_JOURNAL = table_of(TokenJournalRow)

LONGEST_TURN = 600.0
"""Seconds; a turn that ends later than this from now was taken before the machine's clock was set back."""
RETRY_AFTER = timedelta(hours=1)
"""An org whose sync failed is left alone for so long; a night has room for a few tries."""
_SYNCABLE = (ConnectionState.CONNECTED, ConnectionState.DEGRADED)
_TRIES = 3


@dataclass(frozen=True)
class Round:
    """What a fleet is to be synced for, and which part of it.

    Attributes:
        scopes: a run of any of these counts as done.
        since: an org that was synced since then is done.
        shard: only this part of the orgs.
        passed: which part of the night is over, 0 to 1: an org's moment comes with its slot.
        first_since: an org that drifted since then comes first, and does not wait for its moment.
    """

    scopes: tuple[str, ...]
    since: datetime
    shard: Shard | None = None
    passed: float = 1.0
    first_since: datetime | None = None


async def take_orgs(
    db: Database,
    owner: str,
    seconds: float,
    todo: Round,
    *,
    limit: int,
    moment: datetime,
    now: SecondsClock = time.time,
) -> list[ConnectionRecord]:
    """Take the next orgs that are to be synced: first those that drifted, then those that were not synced for longest.

    Args:
        db: the store.
        owner: a name that nobody else uses.
        seconds: how long the turns last if they are not kept up, at most LONGEST_TURN.
        todo: which orgs.
        limit: at most so many.
        moment: the present time, for what runs say.
        now: seconds since 1970, used on SQLite for the turns.

    Returns:
        The connections of the orgs that are this owner's now; none if nothing is left.

    Raises:
        ValueError: `seconds` is out of range.
    """
    if not 0 < seconds <= LONGEST_TURN:
        raise ValueError(f"A turn lasts for more than 0 and at most {LONGEST_TURN:.0f} seconds.")
    for _ in range(_TRIES):
        # Looked for first, in a reading transaction: who finds nothing does not disturb those who write.
        async with db.read() as connection:
            clock = clock_expression(connection, now)
            query = (
                select(_CONNECTION)
                .outerjoin(_TURN, _TURN.c.org == _CONNECTION.c.org)
                .where(_is_due(todo, moment), or_(_TURN.c.org.is_(None), _is_free(clock)))
                .order_by(*_order(todo))
                .limit(limit)
            )
            found = [to_record(row) for row in (await connection.execute(query)).mappings()]
        if not found:
            return []
        async with db.begin() as connection:
            mine = await _take(connection, owner, seconds, sorted(record.org for record in found), now)
        if mine:
            return [record for record in found if record.org in mine]
    return []


async def _take(
    connection: AsyncConnection, owner: str, seconds: float, orgs: Sequence[str], now: SecondsClock
) -> set[str]:
    clock = clock_expression(connection, now)
    given = given_rows(connection, {"org": CleanText}, [(org,) for org in orgs])
    until = clock + literal(seconds, EpochSeconds())
    insert = insert_on(connection, _TURN).from_select(
        ["org", "owner", "until", "taken_at"],
        # Without a condition SQLite would take ON CONFLICT for the condition of a join.
        select(given.c.org, literal(owner, CleanText()), until, clock).where(given.c.org.is_not(None)),
        include_defaults=False,
    )
    taken = await connection.execute(
        insert.on_conflict_do_update(
            index_elements=["org"],
            set_={name: insert.excluded[name] for name in ("owner", "until", "taken_at")},
            where=_is_free(clock),
        ).returning(_TURN.c.org)
    )
    return set(taken.scalars())


async def keep_turns(
    db: Database, owner: str, orgs: Sequence[str], seconds: float, *, now: SecondsClock = time.time
) -> None:
    """Let the turns of these orgs last for so many seconds from now, as far as they are still this owner's."""
    async with db.begin() as connection:
        until = clock_expression(connection, now) + literal(seconds, EpochSeconds())
        await connection.execute(
            update(_TURN).where(_TURN.c.org.in_(orgs), _TURN.c.owner == owner).values(until=until)
        )


async def end_turns(db: Database, owner: str, orgs: Sequence[str]) -> None:
    """Give these orgs back, as far as they are still this owner's."""
    async with db.begin() as connection:
        await connection.execute(
            update(_TURN).where(_TURN.c.org.in_(orgs), _TURN.c.owner == owner).values(until=0.0)
        )


async def count_due(db: Database, todo: Round, *, moment: datetime) -> int:
    """How many orgs are to be synced, those among them that somebody is at."""
    query = select(func.count()).select_from(_CONNECTION).where(_is_due(todo, moment))
    async with db.read() as connection:
        return int((await connection.execute(query)).scalar_one())


async def pointed_pairs(db: Database, orgs: Sequence[str]) -> dict[str, JournalRow]:
    """For those of these orgs of which it can be told at a glance: the pair that is their current one.

    That is the one that the connection points to, if nothing was got with it since and Kommo does not refuse it.
    """
    child = _JOURNAL.alias("child")
    query = (
        select(_JOURNAL)
        .join(
            _CONNECTION,
            and_(
                _CONNECTION.c.org == _JOURNAL.c.org, _CONNECTION.c.token_fingerprint == _JOURNAL.c.fingerprint
            ),
        )
        .where(
            _JOURNAL.c.org.in_(orgs),
            _CONNECTION.c.token_kind == PAIR,
            _JOURNAL.c.dead_at.is_(None),
            ~select(child.c.id)
            .where(child.c.org == _JOURNAL.c.org, child.c.used == _JOURNAL.c.fingerprint)
            .exists(),
        )
    )
    async with db.read() as connection:
        return {row["org"]: JournalRow(**row) for row in (await connection.execute(query)).mappings()}


def _is_due(todo: Round, moment: datetime) -> ColumnElement[bool]:
    columns, run = _CONNECTION.c, _RUN.c
    done = (
        select(run.run_id)
        .where(
            run.org == columns.org,
            run.started_at >= todo.since,
            run.scope.in_(todo.scopes),
            or_(
                run.state == RunState.COMPLETED,
                and_(run.state == RunState.FAILED, run.started_at >= moment - RETRY_AFTER),
            ),
        )
        .exists()
    )
    due = [columns.state.in_(_SYNCABLE), ~done]
    if todo.shard is not None:
        due.append(slot_in(todo.shard, columns.slot))
    if todo.passed < 1:
        come = columns.slot < int(todo.passed * SLOTS)
        first = _comes_first(todo)
        due.append(come if first is None else or_(come, first))
    return and_(*due)


def _order(todo: Round) -> list[ColumnElement[bool] | ColumnElement[str]]:
    first, columns = _comes_first(todo), _CONNECTION.c
    longest = [columns.last_synced_at.is_not(None), columns.last_synced_at, columns.org]
    return longest if first is None else [~first, *longest]


def _comes_first(todo: Round) -> ColumnElement[bool] | None:
    if todo.first_since is None:
        return None
    return func.coalesce(_CONNECTION.c.drifted_at >= todo.first_since, False)


def _is_free(clock: ColumnElement[float]) -> ColumnElement[bool]:
    return or_(_TURN.c.until <= clock, _TURN.c.until > clock + LONGEST_TURN)
