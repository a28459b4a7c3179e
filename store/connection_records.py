"""What the store knows of connections, to be read: one, a page of them, those that are due; no secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, and_, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.errors import UnknownConnectionError
from store.shards import Shard, slot_in
from store.tables import Connection, table_of
from store.types import UTCDateTime

_TABLE = table_of(Connection)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

PAIR = "pair"
LONG_LIVED = "long_lived"


class ConnectionState(StrEnum):
    """How a connection stands.

    `refreshing`: its pair is being replaced. `degraded`: it works in part (a listing is refused, Kommo is often
    unreachable). `outcome_unknown`: it is not known whether Kommo replaced its pair; that will be settled.
    `reauthorization_required`: only a person can help, by connecting again. `failed`: connecting never succeeded.
    """

    CONNECTED = "connected"
    REFRESHING = "refreshing"
    DEGRADED = "degraded"
    OUTCOME_UNKNOWN = "outcome_unknown"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    DISCONNECTED = "disconnected"
    FAILED = "failed"


# The states in which a pair is worth refreshing; in the others only a person can help.
_REFRESHABLE = (
    ConnectionState.CONNECTED,
    ConnectionState.REFRESHING,
    ConnectionState.DEGRADED,
    ConnectionState.OUTCOME_UNKNOWN,
)


@dataclass(frozen=True)
class ConnectionRecord:
    """One org's connection, without secrets. Times are aware and UTC. Its columns: `store.tables.connection`."""

    org: str
    provider: str
    block_name: str
    host: str
    account_id: int | None
    account_name: str | None
    subdomain: str | None
    token_kind: str
    expires_at: datetime | None
    scopes: list[str]
    state: str
    reason: str | None
    state_since: datetime
    last_sync_run_id: str | None
    last_synced_at: datetime | None
    created_at: datetime
    updated_at: datetime
    token_fingerprint: str | None
    token_serial: int
    refreshed_at: datetime | None
    refresh_attempts: int
    next_refresh_at: datetime | None
    reason_code: str | None


@dataclass(frozen=True)
class ConnectionPage:
    """Connections in the order that was asked for; `next_after` is where the next page begins, None at the end."""

    items: list[ConnectionRecord]
    next_after: str | None


async def get_connection(db: Database, org: str) -> ConnectionRecord:
    """An org's connection.

    Raises:
        UnknownConnectionError: it has none.
    """
    async with db.read() as connection:
        found = (await connection.execute(select(_TABLE).where(_TABLE.c.org == org))).mappings().first()
    if found is None:
        raise unknown_connection(org)
    return to_record(found)


async def list_connections(
    db: Database,
    *,
    after: str | None = None,
    limit: int = 100,
    state: ConnectionState | str | None = None,
    orgs: Sequence[str] | None = None,
) -> ConnectionPage:
    """A page of connections, in the order of their orgs.

    Args:
        db: the store.
        after: the `next_after` of the page before.
        limit: at most so many.
        state: only those in this state.
        orgs: only those of these orgs.
    """
    query = _page(after, limit)
    if orgs is not None:
        query = query.where(_TABLE.c.org.in_(orgs))
    if state is not None:
        query = query.where(_TABLE.c.state == ConnectionState(state))
    return await _read_page(db, query, limit)


async def find_connections(
    db: Database, *, account_id: int | None = None, host: str | None = None
) -> list[ConnectionRecord]:
    """The connections to one Kommo account, by its id, its host or both; several orgs may share an account.

    Args:
        db: the store.
        account_id: Kommo's id of the account.
        host: the account's host.

    Raises:
        ValueError: neither was given; every connection is `list_connections`.
    """
    if account_id is None and host is None:
        raise ValueError("Name the account by its id or its host.")
    query = select(_TABLE).order_by(_TABLE.c.org)
    if account_id is not None:
        query = query.where(_TABLE.c.account_id == account_id)
    if host is not None:
        query = query.where(_TABLE.c.host == host)
    async with db.read() as connection:
        return [to_record(row) for row in (await connection.execute(query)).mappings()]


async def due_connections(
    db: Database,
    *,
    before: datetime,
    idle_before: datetime,
    now: datetime,
    shard: Shard | None = None,
    after: str | None = None,
    limit: int = 100,
) -> ConnectionPage:
    """A page of connections whose pair should be refreshed: first the one whose access token ends first.

    Due are those that expire before a time, have not been refreshed for long, or whose last refresh failed or is to
    be settled; but none before its `next_refresh_at`, and none that only a person can help.

    Args:
        db: the store.
        before: those that expire before this time.
        idle_before: those that were last refreshed before this time.
        now: the present time.
        shard: only this part of the orgs.
        after: the `next_after` of the page before. What is refreshed meanwhile expires later and does not come again.
        limit: at most so many.
    """
    columns = _TABLE.c
    ends = func.coalesce(columns.expires_at, literal(_LONG_AGO, UTCDateTime()))
    query = select(_TABLE).where(
        columns.token_kind == PAIR,
        columns.state.in_(_REFRESHABLE),
        or_(columns.next_refresh_at.is_(None), columns.next_refresh_at <= now),
        or_(
            columns.expires_at.is_(None),
            columns.expires_at < before,
            columns.refreshed_at.is_(None),
            columns.refreshed_at < idle_before,
            columns.next_refresh_at.is_not(None),
            columns.state == ConnectionState.OUTCOME_UNKNOWN,
        ),
    )
    if shard is not None:
        query = query.where(slot_in(shard, columns.slot))
    if after is not None:
        moment, _, org = after.partition(" ")
        ended = literal(datetime.fromisoformat(moment), UTCDateTime())
        query = query.where(or_(ends > ended, and_(ends == ended, columns.org > org)))
    async with db.read() as connection:
        found = (await connection.execute(query.order_by(ends, columns.org).limit(limit + 1))).mappings()
        items = [to_record(row) for row in found]
    if len(items) <= limit:
        return ConnectionPage(items, None)
    last = items[limit - 1]
    return ConnectionPage(items[:limit], f"{(last.expires_at or _LONG_AGO).isoformat()} {last.org}")


async def still_stands(connection: AsyncConnection, org: str, account_id: int | None) -> bool:
    """Whether an org is still connected to an account; it stays so until the transaction ends.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        account_id: Kommo's id of the account.
    """
    columns = _TABLE.c
    found = await connection.execute(
        select(columns.state, columns.account_id).where(columns.org == org).with_for_update()
    )
    row = found.first()
    return row is not None and row.state != ConnectionState.DISCONNECTED and row.account_id == account_id


async def require_connected(connection: AsyncConnection, org: str) -> None:
    """Make sure that an org was not disconnected or erased meanwhile; it stays so until the transaction ends.

    Call it last: who removes an org locks its other rows first.

    Raises:
        UnknownConnectionError: it was.
    """
    query = select(_TABLE.c.state).where(_TABLE.c.org == org).with_for_update(read=True)
    if (await connection.execute(query)).scalar_one_or_none() in {None, ConnectionState.DISCONNECTED}:
        raise UnknownConnectionError(f"{org!r} is not connected any more; nothing is kept of what was read.")


async def has_pairs(db: Database) -> bool:
    """Whether any connection has a pair of tokens, and not a long-lived one."""
    query = select(_TABLE.c.org).where(
        _TABLE.c.token_kind == PAIR, _TABLE.c.state != ConnectionState.DISCONNECTED
    )
    async with db.read() as connection:
        return (await connection.execute(query.limit(1))).first() is not None


def _page(after: str | None, limit: int) -> Select[Any]:
    query = select(_TABLE).order_by(_TABLE.c.org).limit(limit + 1)
    return query if after is None else query.where(_TABLE.c.org > after)


async def _read_page(db: Database, query: Select[Any], limit: int) -> ConnectionPage:
    async with db.read() as connection:
        found = (await connection.execute(query)).mappings().all()
    items = [to_record(row) for row in found[:limit]]
    return ConnectionPage(items, items[-1].org if len(found) > limit else None)


_FIELDS = tuple(field.name for field in fields(ConnectionRecord))


def to_record(row: Mapping[Any, Any]) -> ConnectionRecord:
    """A row of the table as a record."""
    return ConnectionRecord(**{name: row[name] for name in _FIELDS})


def unknown_connection(org: str) -> UnknownConnectionError:
    """The error that names an org without a connection."""
    return UnknownConnectionError(
        f"The org {org[:100]!r} has no connection to Kommo: kommo status lists those that have one, "
        "kommo connect ORG makes one."
    )
