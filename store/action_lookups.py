"""Looking for actions: by key, those that are due, what belongs to one already."""

import time
from collections.abc import Sequence

from sqlalchemy import func, select

from store.action_journal import IS_OPEN, HeldAction, held_of, was_set_later
from store.action_leases import is_free
from store.actions import TABLE
from store.database import Database
from store.dbclock import SecondsClock, clock_expression
from store.rows import given_rows
from store.types import CleanText


async def find_actions(db: Database, org: str, keys: Sequence[str]) -> dict[str, HeldAction]:
    """The org's actions with these idempotency keys, by key."""
    async with db.read() as connection:
        given = given_rows(connection, {"key": CleanText}, [(key,) for key in keys])
        query = select(TABLE).where(TABLE.c.org == org, TABLE.c.idempotency_key.in_(select(given.c.key)))
        rows = (await connection.execute(query)).mappings().all()
    return {row["idempotency_key"]: held_of(row) for row in rows}


async def set_later(db: Database, ids: Sequence[int]) -> set[int]:
    """Those of the actions whose field has been set, or may have been, by one that was asked for later."""
    later = TABLE.alias("later")
    query = select(TABLE.c.id).where(
        TABLE.c.id.in_(ids), TABLE.c.kind == "update-deal-field", was_set_later(later).exists()
    )
    async with db.read() as connection:
        return set((await connection.execute(query)).scalars())


async def due_actions(
    db: Database, limit: int, *, orgs: Sequence[str] | None = None, clock: SecondsClock = time.time
) -> list[tuple[str, int]]:
    """Open actions that are due and belong to nobody (any more), as (org, id), the longest due ones first."""
    async with db.read() as connection:
        present = clock_expression(connection, clock)
        query = (
            select(TABLE.c.org, TABLE.c.id)
            .where(IS_OPEN, TABLE.c.due_at <= present, is_free(present))
            .order_by(TABLE.c.due_at, TABLE.c.id)
            .limit(limit)
        )
        if orgs is not None:
            query = query.where(TABLE.c.org.in_(list(orgs)))
        return [(row.org, row.id) for row in await connection.execute(query)]


async def made_already(db: Database, org: str, names: Sequence[str]) -> set[str]:
    """Those of the names that belong to an action of the org already."""
    async with db.read() as connection:
        given = given_rows(connection, {"made": CleanText}, [(name,) for name in names])
        query = select(TABLE.c.made).where(TABLE.c.org == org, TABLE.c.made.in_(select(given.c.made)))
        return set((await connection.execute(query)).scalars())


async def open_counts(db: Database) -> dict[str, int]:
    """How many actions are open, by state."""
    query = select(TABLE.c.state, func.count().label("number")).where(IS_OPEN).group_by(TABLE.c.state)
    async with db.read() as connection:
        return {row.state: row.number for row in await connection.execute(query)}
