"""Who works on an action: a lease, like the claim on a refresh (`store.claims`); when it is over, somebody else may."""

import time
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, literal, or_, update

from store.action_journal import IS_OPEN, HeldAction, held_of
from store.actions import TABLE, ActionState
from store.database import Database
from store.dbclock import SecondsClock, clock_expression
from store.types import EpochSeconds, UTCDateTime

LONGEST_LEASE = 600.0
"""Seconds; a lease that ends later than this from now was made before the machine's clock was set back."""


async def take_actions(
    db: Database, ids: Sequence[int], owner: str, seconds: float, *, clock: SecondsClock = time.time
) -> list[HeldAction]:
    """Take over those of the actions that are open and belong to nobody (any more).

    Args:
        db: the store.
        ids: which.
        owner: a name that nobody else uses, new for each call.
        seconds: how long they belong to the owner.
        clock: seconds since 1970, used on SQLite.
    """
    async with db.begin() as connection:
        present = clock_expression(connection, clock)
        taken = await connection.execute(
            update(TABLE)
            .where(TABLE.c.id.in_(ids), IS_OPEN, is_free(present))
            .values(owner=owner, until=present + literal(seconds, EpochSeconds()))
            .returning(*TABLE.c)
        )
        return [held_of(row) for row in taken.mappings().all()]


async def keep_actions(
    db: Database, ids: Sequence[int], owner: str, seconds: float, *, clock: SecondsClock = time.time
) -> set[int]:
    """Let a lease last for so many seconds from now; gives the ids of those that were not lost."""
    async with db.begin() as connection:
        until = clock_expression(connection, clock) + literal(seconds, EpochSeconds())
        kept = await connection.execute(
            update(TABLE)
            .where(TABLE.c.id.in_(ids), IS_OPEN, TABLE.c.owner == owner)
            .values(until=until)
            .returning(TABLE.c.id)
        )
        return set(kept.scalars())


async def take_back(
    db: Database, ids: Sequence[int], owner: str, *, reason: str, reason_code: str, now: datetime
) -> None:
    """Write down that actions that were marked as sent were not carried out, and may be sent again.

    Args:
        db: the store.
        ids: which; they stay the owner's.
        owner: whose they are.
        reason: what they wait for, a sentence without secrets.
        reason_code: the same as a word.
        now: the present time.
    """
    async with db.begin() as connection:
        await connection.execute(
            update(TABLE)
            .where(TABLE.c.id.in_(ids), IS_OPEN, TABLE.c.owner == owner)
            .values(
                state=ActionState.INTENDED.value,
                attempts=TABLE.c.attempts - 1,
                reason=reason,
                reason_code=reason_code,
                updated_at=literal(now, UTCDateTime()),
            )
        )


async def hand_back(
    db: Database,
    ids: Sequence[int],
    owner: str,
    *,
    due_in: float,
    reason: str,
    reason_code: str,
    now: datetime,
    clock: SecondsClock = time.time,
) -> list[HeldAction]:
    """Let go of actions that could not be brought to an end; somebody takes them up again when they are due.

    Args:
        db: the store.
        ids: which.
        owner: whose they are.
        due_in: seconds until they may be taken up again.
        reason: what they wait for, a sentence without secrets.
        reason_code: the same as a word.
        now: the present time.
        clock: seconds since 1970, used on SQLite.

    Returns:
        Those that were not lost before.
    """
    async with db.begin() as connection:
        back = await connection.execute(
            update(TABLE)
            .where(TABLE.c.id.in_(ids), IS_OPEN, TABLE.c.owner == owner)
            .values(
                owner="",
                until=0.0,
                due_at=clock_expression(connection, clock) + literal(due_in, EpochSeconds()),
                reason=reason,
                reason_code=reason_code,
                updated_at=literal(now, UTCDateTime()),
            )
            .returning(*TABLE.c)
        )
        return [held_of(row) for row in back.mappings().all()]


def is_free(present: ColumnElement[float]) -> ColumnElement[bool]:
    """The condition that an action belongs to nobody (any more)."""
    return or_(TABLE.c.until <= present, TABLE.c.until > present + LONGEST_LEASE)
