"""When webhooks last told of one kind of happening: what deletions and restorations are compared with (W5)."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select

from store.database import Database
from store.inbox import EVENTS
from store.rows import given_rows
from store.types import CleanText


async def last_heard(
    db: Database, org: str, entity: str, action: str, entity_ids: Sequence[str]
) -> dict[str, datetime]:
    """When a webhook last came that told this of these entities, by our clock; whatever came of it.

    Args:
        db: the store.
        org: the product's tenant.
        entity: our word, such as `leads`.
        action: Kommo's word, such as `delete`: it gives no time of its own.
        entity_ids: which ones; one that no webhook told of is left out.
    """
    async with db.read() as connection:
        wanted = given_rows(connection, {"entity_id": CleanText}, [(one,) for one in set(entity_ids)])
        query = (
            select(EVENTS.c.entity_id, func.max(EVENTS.c.received_at))
            .join(wanted, wanted.c.entity_id == EVENTS.c.entity_id)
            .where(EVENTS.c.org == org, EVENTS.c.entity == entity, EVENTS.c.action == action)
            .group_by(EVENTS.c.entity_id)
        )
        return {row[0]: row[1] for row in await connection.execute(query)}
