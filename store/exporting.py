"""Giving out everything that is stored of one org: what a customer may ask for, table by table, without secrets."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from sqlalchemy import Table, select, tuple_

from store.belonging import rows_of, who_is
from store.database import Database
from store.tables import metadata

PAGE = 1_000
"""Rows that are read at a time."""

LEFT_OUT: Mapping[str, str] = {
    "token_journal": "tokens, sealed",
    "refresh_claim": "who refreshes at this moment; nothing about the account",
    "oauth_state": "consents that are under way",
    "webhook_key": "hashes of keys",
}
"""Tables that are no part of an export, and why."""

SECRET_COLUMNS: Mapping[str, frozenset[str]] = {
    "connection": frozenset({"token_fingerprint"}),
    "webhook_subscription": frozenset({"key_hash"}),
}
"""Columns that are left out of the others: what is made from a secret."""


def exported_tables() -> list[Table]:
    """The tables of an export, in the order of their names."""
    return [
        table for name, table in sorted(metadata.tables.items()) if "org" in table.c and name not in LEFT_OUT
    ]


async def pages_of(db: Database, table: Table, org: str) -> AsyncIterator[list[dict[str, Any]]]:
    """The rows that a table holds of an org, in pages, by the order of its primary key.

    Each page is a read of its own, so that a large org holds up no writer; a row that changes meanwhile comes once, as
    it was or as it is.

    Args:
        db: the store.
        table: one of `exported_tables`.
        org: the product's tenant.

    Yields:
        Pages of rows: values as Python has them (times aware and UTC, JSON parsed, bytes as they came).
    """
    key = list(table.primary_key.columns)
    shown = [one for one in table.columns if one.name not in SECRET_COLUMNS.get(table.name, ())]
    last: tuple[Any, ...] | None = None
    async with db.read() as connection:
        of_it = rows_of(table, await who_is(connection, org))
    while True:
        query = select(*shown).where(of_it).order_by(*key).limit(PAGE)
        if last is not None:
            query = query.where(tuple_(*key) > last if len(key) > 1 else key[0] > last[0])
        async with db.read() as connection:
            rows = [dict(row) for row in (await connection.execute(query)).mappings()]
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        last = tuple(rows[-1][column.name] for column in key)
