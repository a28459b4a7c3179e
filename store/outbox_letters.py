"""How the outbox stands, and telling again what was told or given up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, func, literal_column, select, update

from store.database import Database
from store.outbox import DEAD, DELIVERED, PENDING
from store.rows import given_rows
from store.tables import OutboxRow, table_of
from store.types import CleanText

_TABLE = table_of(OutboxRow)
# Written out, not a parameter: the database must see that the partial indexes fit.
_IS_PENDING = _TABLE.c.state == literal_column("'pending'")
_IS_DEAD = _TABLE.c.state == literal_column("'dead'")
_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class OrgOutbox:
    """How the outbox of one org stands.

    Attributes:
        org: the product's tenant.
        pending: events that wait.
        oldest_created_at: when the oldest of them was written.
        held: subjects whose first event has failed and will be tried again.
        dead: events that were given up.
    """

    org: str
    pending: int = 0
    oldest_created_at: datetime | None = None
    held: int = 0
    dead: int = 0


async def outbox_counts(db: Database) -> list[OrgOutbox]:
    """How each org's outbox stands, in the order of the orgs; an org with nothing of it is left out."""
    pending = (
        select(_TABLE.c.org, func.count(), func.min(_TABLE.c.created_at))
        .where(_IS_PENDING)
        .group_by(_TABLE.c.org)
    )
    held = (
        select(_TABLE.c.org, func.count(_TABLE.c.subject.distinct()))
        .where(_IS_PENDING, _TABLE.c.next_attempt_at.is_not(None))
        .group_by(_TABLE.c.org)
    )
    dead = select(_TABLE.c.org, func.count()).where(_IS_DEAD).group_by(_TABLE.c.org)
    async with db.read() as connection:
        waiting = {row[0]: (row[1], row[2]) for row in await connection.execute(pending)}
        holding = {row[0]: row[1] for row in await connection.execute(held)}
        given_up = {row[0]: row[1] for row in await connection.execute(dead)}
    return [
        OrgOutbox(org, *waiting.get(org, (0, None)), held=holding.get(org, 0), dead=given_up.get(org, 0))
        for org in sorted({*waiting, *given_up})
    ]


async def replay_outbox(
    db: Database,
    *,
    org: str | None = None,
    ids: Sequence[str] | None = None,
    type: str | None = None,  # noqa: A002 - the field's word
    since: datetime | None = None,
    dead_only: bool = False,
) -> int:
    """Let events be told again, under the same `event_id`, with all their attempts before them.

    Args:
        db: the store.
        org: only this org's.
        ids: only those with these `event_id`s.
        type: only those of this type.
        since: only those that were written at this time or later.
        dead_only: only what was given up, not what was told.

    Returns:
        How many there were.
    """
    conditions = [_IS_DEAD if dead_only else _TABLE.c.state.in_((DEAD, DELIVERED))]
    if org is not None:
        conditions.append(_TABLE.c.org == org)
    if type is not None:
        conditions.append(_TABLE.c.type == type)
    if since is not None:
        conditions.append(_TABLE.c.created_at >= since)
    count, last = 0, 0
    while True:
        # In parts, each its own transaction: all that was ever told at once would hold everybody up.
        async with db.begin() as connection:
            part = select(_TABLE.c.id).where(*conditions, _TABLE.c.id > last)
            if ids is not None:
                given = given_rows(connection, {"event_id": CleanText}, [(one,) for one in sorted(set(ids))])
                part = part.where(_TABLE.c.event_id.in_(select(given.c.event_id)))
            found = (await connection.execute(part.order_by(_TABLE.c.id).limit(_AT_ONCE))).scalars().all()
            rows = given_rows(connection, {"id": BigInteger}, [(one,) for one in found])
            again = (
                update(_TABLE)
                .where(_TABLE.c.id.in_(select(rows.c.id)), *conditions)
                # The reason stays until the event has come to something, for whoever watches it.
                .values(state=PENDING, attempts=0, next_attempt_at=None, delivered_at=None)
            )
            count += (await connection.execute(again)).rowcount
        if len(found) < _AT_ONCE:
            return count
        last = found[-1]
