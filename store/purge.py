"""Removing what is stored of an org: its snapshots, runs, tokens and connection."""

from datetime import datetime

from sqlalchemy import delete

from store.audit import add_audit
from store.belonging import rows_of, who_is
from store.claims import revoke_claim
from store.database import Database
from store.outbox import DEAD, DELIVERED
from store.tables import OutboxRow, metadata, table_of

_OUTBOX = table_of(OutboxRow)

# The audit says that it was done, and the claim only counts. Of the outbox only what still has to be told stays: what
# was told, or given up, holds customers' data like everything else.
_KEPT = frozenset({"connection_audit", "outbox", "outbox_turn", "refresh_claim"})


async def purge_org(db: Database, org: str, *, now: datetime) -> dict[str, int]:
    """Remove everything of an org in one transaction, but the audit and what is still to be told to the product.

    Args:
        db: the store.
        org: the product's tenant.
        now: the present time.

    Returns:
        For each table how many rows were removed.
    """
    removed: dict[str, int] = {}
    async with db.begin() as connection:
        who = await who_is(connection, org)
        await revoke_claim(connection, org, now)
        # Children before their parents: the reverse of the order in which tables can be made.
        for table in reversed(metadata.sorted_tables):
            if "org" in table.c and table.name not in _KEPT:
                removed[table.name] = (
                    await connection.execute(delete(table).where(rows_of(table, who)))
                ).rowcount
        told = delete(_OUTBOX).where(_OUTBOX.c.org == org, _OUTBOX.c.state.in_((DELIVERED, DEAD)))
        removed[_OUTBOX.name] = (await connection.execute(told)).rowcount
        await add_audit(connection, org, "purged", {"rows": sum(removed.values())}, now)
    return removed
