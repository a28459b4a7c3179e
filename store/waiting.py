"""Which orgs have something that waits and is worked by nobody: what a backlog and an outbox have in common.

Both keep what waits in a table with a column `state` and an index of what is pending, in the order of the orgs, and
beside it a table of turns: who works which org, and until when.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, func, literal, literal_column, or_, select

from store.types import EpochSeconds

# Written out, not a parameter: the database must see that the partial indexes fit.
_PENDING: ColumnElement[str] = literal_column("'pending'")

LONGEST_TURN = 600.0
"""Seconds; a turn that ends later than this from now was taken before the machine's clock was set back."""


def is_pending(table: Table) -> ColumnElement[bool]:
    """Whether a row of such a table waits."""
    return table.c.state == _PENDING


def is_free(turns: Table, clock: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether nobody has the org's turn, by this clock (seconds since 1970)."""
    farthest = clock + literal(LONGEST_TURN, EpochSeconds())
    return or_(turns.c.until <= clock, turns.c.until > farthest)


def waiting_orgs(
    table: Table,
    turns: Table,
    *,
    due: Callable[[ColumnElement[str]], ColumnElement[bool]],
    free: ColumnElement[bool],
    orgs: Sequence[str] | None = None,
) -> Select[Any]:
    """Orgs with something due that nobody works on, those that were served longest ago first.

    It goes from one org to the next through the index, so that it costs what orgs are waiting, not what rows are.

    Args:
        table: what waits.
        turns: whose turn it is.
        due: whether an org has something that may be worked now.
        free: whether an org's turn may be taken, if it has ever had one.
        orgs: only these.
    """
    waiting = (
        select(func.min(table.c.org).label("org")).where(is_pending(table)).cte("waiting", recursive=True)
    )
    later = table.alias("later")
    following = (
        select(func.min(later.c.org))
        .where(later.c.state == _PENDING, later.c.org > waiting.c.org)
        .scalar_subquery()
    )
    waiting = waiting.union_all(select(following).where(waiting.c.org.is_not(None)))
    query = (
        select(waiting.c.org)
        .join(turns, turns.c.org == waiting.c.org, isouter=True)
        .where(and_(waiting.c.org.is_not(None), or_(turns.c.org.is_(None), free), due(waiting.c.org)))
        .order_by(func.coalesce(turns.c.served_at, 0.0), waiting.c.org)
    )
    return query if orgs is None else query.where(waiting.c.org.in_(list(orgs)))
