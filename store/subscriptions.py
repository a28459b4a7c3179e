"""How each org's webhook subscription stands at Kommo, as last seen. No key: the destination's host only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import RowMapping, and_, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.connection_records import ConnectionPage, ConnectionState, to_record
from store.database import Database, insert_on
from store.shards import Shard, slot_in
from store.tables import Connection, WebhookSubscriptionRow, table_of
from store.types import UTCDateTime

_TABLE = table_of(WebhookSubscriptionRow)
_CONNECTION = table_of(Connection)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class SubscriptionState(StrEnum):
    """How a subscription stands.

    `off`: there is none, on purpose or because Kommo refuses it (the reason says which). `disabled`: Kommo has
    switched it off. `missing`: it should be there and is not.
    """

    ON = "on"
    OFF = "off"
    DISABLED = "disabled"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Subscription:
    """One org's subscription.

    Attributes:
        org: the product's tenant.
        key_hash: the hash of the key in its destination.
        destination_host: where deliveries go, without the path, which holds the key.
        settings: the names of what it tells of.
        state: see `SubscriptionState`.
        reason: why, a sentence for people.
        checked_at: when Kommo was last asked.
        disabled_seen_at: when it was last found switched off.
    """

    org: str
    key_hash: str | None
    destination_host: str | None
    settings: tuple[str, ...]
    state: str
    reason: str | None
    checked_at: datetime
    disabled_seen_at: datetime | None = None


async def waiting_for_a_check(
    db: Database, *, begun: datetime, shard: Shard | None = None, after: str | None = None, limit: int = 100
) -> ConnectionPage:
    """A page of connections that work: first those whose subscription has not been looked at for longest.

    Args:
        db: the store.
        shard: only this part of the orgs.
        begun: when the first page was asked for: whoever was looked at since is left out.
        after: the `next_after` of the page before.
        limit: at most so many.
    """
    columns = _CONNECTION.c
    seen = func.coalesce(_TABLE.c.checked_at, literal(_LONG_AGO, UTCDateTime()))
    query = (
        select(_CONNECTION, seen.label("seen"))
        .outerjoin(_TABLE, _TABLE.c.org == columns.org)
        .where(columns.state.in_((ConnectionState.CONNECTED, ConnectionState.DEGRADED)))
    )
    if shard is not None:
        query = query.where(slot_in(shard, columns.slot))
    if after is not None:
        moment, _, org = after.partition(" ")
        last = literal(datetime.fromisoformat(moment), UTCDateTime())
        query = query.where(or_(seen > last, and_(seen == last, columns.org > org)))
    query = query.where(seen <= literal(begun, UTCDateTime()))
    async with db.read() as connection:
        rows = (await connection.execute(query.order_by(seen, columns.org).limit(limit + 1))).mappings().all()
    items = [to_record(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return ConnectionPage(items, None)
    last_seen = rows[limit - 1]["seen"]
    return ConnectionPage(items, f"{last_seen.isoformat()} {items[-1].org}")


async def save_subscription(connection: AsyncConnection, subscription: Subscription) -> None:
    """Write how a subscription stands, inside another transaction.

    Args:
        connection: from `Database.begin`.
        subscription: a `disabled_seen_at` of None leaves what is known.
    """
    values = {
        "org": subscription.org,
        "key_hash": subscription.key_hash,
        "destination_host": subscription.destination_host,
        "settings": list(subscription.settings),
        "state": SubscriptionState(subscription.state),
        "reason": subscription.reason,
        "checked_at": subscription.checked_at,
        "disabled_seen_at": subscription.disabled_seen_at,
    }
    changed = dict(values)
    if subscription.disabled_seen_at is None:
        del changed["disabled_seen_at"]
    await connection.execute(
        insert_on(connection, _TABLE)
        .values(values)
        .on_conflict_do_update(index_elements=["org"], set_=changed)
    )


async def get_subscription(db: Database, org: str) -> Subscription | None:
    """How an org's subscription stands; None if nothing is known."""
    async with db.read() as connection:
        row = (await connection.execute(select(_TABLE).where(_TABLE.c.org == org))).mappings().first()
    return None if row is None else _subscription(row)


async def subscriptions_of(db: Database, orgs: Sequence[str] | None = None) -> dict[str, Subscription]:
    """How the subscriptions of these orgs (of all by default) stand; an org of which nothing is known is left out."""
    query = select(_TABLE)
    if orgs is not None:
        query = query.where(_TABLE.c.org.in_(orgs))
    async with db.read() as connection:
        return {row["org"]: _subscription(row) for row in (await connection.execute(query)).mappings()}


async def list_subscriptions(
    db: Database, *, states: Sequence[str] | None = None, after: str = "", limit: int = 1000
) -> list[Subscription]:
    """A page of subscriptions, in the order of their orgs.

    Args:
        db: the store.
        states: only those in one of these states.
        after: the last org of the page before.
        limit: at most so many.
    """
    query = select(_TABLE).where(_TABLE.c.org > after).order_by(_TABLE.c.org).limit(limit)
    if states is not None:
        query = query.where(_TABLE.c.state.in_(states))
    async with db.read() as connection:
        return [_subscription(row) for row in (await connection.execute(query)).mappings()]


def _subscription(row: RowMapping) -> Subscription:
    return Subscription(**{**row, "settings": tuple(row["settings"])})
