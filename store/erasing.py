"""Removing every trace of an org, as privacy law asks for it: more than `purge`, which keeps what still serves.

Rows go in batches, so that no transaction is long; the connection goes last, so that whoever is killed in the middle
finds the org again and goes on. Nothing but one line of the audit is left.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, Table, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.audit import add_audit
from store.belonging import Who, rows_of, who_is
from store.claims import revoke_claim
from store.database import Database
from store.errors import UnknownConnectionError
from store.tables import (
    ApiKeyRow,
    Connection,
    ConnectionAuditRow,
    RateBudgetRow,
    metadata,
    table_of,
)

BATCH = 2_000
"""Rows that one transaction removes."""

ERASED = "erased"
"""The one line of the audit that is left: what was done, when, and who asked for it."""

ORGLESS = frozenset({"rate_budget", "api_key", "outbox_endpoint", "fleet_alarm"})
"""Tables that have no column for the org. Rows that concern one all the same are found by `_of_org`."""

_AUDIT, _KEYS, _BUDGET, _CONNECTION = (
    table_of(ConnectionAuditRow),
    table_of(ApiKeyRow),
    table_of(RateBudgetRow),
    table_of(Connection),
)
_LAST = (_CONNECTION.name, _AUDIT.name)


def _tables() -> list[Table]:
    """Every table that names orgs, children before their parents."""
    return [table for table in reversed(metadata.sorted_tables) if "org" in table.c]


def _rows_of(table: Table, who: Who) -> ColumnElement[bool]:
    of_it = rows_of(table, who)
    return of_it & (table.c.event != ERASED) if table.name == _AUDIT.name else of_it


async def leftovers(db: Database, org: str) -> dict[str, int]:
    """What is stored of an org, in rows by table, but for the line of its erasure; tables without any are left out."""
    found: dict[str, int] = {}
    async with db.read() as connection:
        who = await who_is(connection, org)
        for table in _tables():
            query = select(func.count()).select_from(table).where(_rows_of(table, who))
            found[table.name] = (await connection.execute(query)).scalar_one()
        query = select(func.count()).select_from(_BUDGET).where(_BUDGET.c.key.in_(who.budget_keys))
        found[_BUDGET.name] = (await connection.execute(query)).scalar_one()
        found[_KEYS.name] = len(await _keys_naming(connection, org))
    return {name: count for name, count in found.items() if count}


async def erased_at(db: Database, org: str) -> datetime | None:
    """When the org was erased last, UTC; None if it never was."""
    query = select(func.max(_AUDIT.c.at)).where(_AUDIT.c.org == org, _AUDIT.c.event == ERASED)
    async with db.read() as connection:
        at: datetime | None = (await connection.execute(query)).scalar_one()
    return at


async def erase_rows(db: Database, org: str, *, by: str, now: datetime) -> dict[str, int]:
    """Remove every row that concerns an org; one line of the audit says that it was done.

    It may be killed at any moment and done again: the connection goes last. End the connection first, so that nobody
    writes while this removes.

    Args:
        db: the store.
        org: the product's tenant.
        by: who asked for it, for the audit; never a person's data.
        now: the present time.

    Returns:
        For each table how many rows were removed; tables without any are left out.

    Raises:
        UnknownConnectionError: nothing is stored of the org.
    """
    if not await leftovers(db, org):
        raise UnknownConnectionError(f"Nothing is stored of {org!r}. `kommo status` lists the orgs.")
    removed: dict[str, int] = {}
    async with db.begin() as connection:
        who = await who_is(connection, org)
        # Whoever refreshes at this moment finds its claim taken, and saves nothing any more.
        await revoke_claim(connection, org, now)
    for table in _tables():
        if table.name not in _LAST:
            removed[table.name] = await _in_batches(db, table, _rows_of(table, who))
    async with db.begin() as connection:
        gone = await connection.execute(delete(_BUDGET).where(_BUDGET.c.key.in_(who.budget_keys)))
        removed[_BUDGET.name] = gone.rowcount
        removed[_KEYS.name] = await _forget_in_keys(connection, org)
        for table in (metadata.tables[name] for name in _LAST):
            gone = await connection.execute(delete(table).where(_rows_of(table, who)))
            removed[table.name] = gone.rowcount
        rows = sum(removed.values())
        # Run again after a crash, it adds to what the first one began: each says how much it removed itself.
        await add_audit(connection, org, ERASED, {"by": by, "rows": rows}, now)
    return {name: count for name, count in removed.items() if count}


async def _in_batches(db: Database, table: Table, condition: ColumnElement[bool]) -> int:
    key = list(table.primary_key.columns)
    some = select(*key).where(condition).limit(BATCH)
    chosen = tuple_(*key).in_(some) if len(key) > 1 else key[0].in_(some)
    removed = 0
    while True:
        async with db.begin() as connection:
            gone = (await connection.execute(delete(table).where(chosen))).rowcount
        removed += gone
        if gone < BATCH:
            return removed


async def _keys_naming(connection: AsyncConnection, org: str) -> list[tuple[str, list[str]]]:
    """The product's keys that are bound to orgs of which this is one."""
    rows = await connection.execute(select(_KEYS.c.key_id, _KEYS.c.orgs).where(_KEYS.c.orgs.is_not(None)))
    return [(row.key_id, row.orgs) for row in rows if isinstance(row.orgs, list) and org in row.orgs]


async def _forget_in_keys(connection: AsyncConnection, org: str) -> int:
    """Take the org out of keys for several orgs, and remove keys for it alone: one for nobody would be of no use."""
    naming = await _keys_naming(connection, org)
    for key_id, orgs in naming:
        rest = [one for one in orgs if one != org]
        here = _KEYS.c.key_id == key_id
        await connection.execute(
            update(_KEYS).where(here).values(orgs=rest) if rest else delete(_KEYS).where(here)
        )
    return len(naming)
