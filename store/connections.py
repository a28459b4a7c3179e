"""Connections: which org is joined to which Kommo account, and how it stands; no secrets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import RowMapping, case, select, update

from store.database import Database
from store.errors import UnknownConnectionError
from store.tables import Connection, table_of

_TABLE = table_of(Connection)


class ConnectionState(StrEnum):
    """How a connection stands.

    `degraded`: it works in part (a listing is refused, Kommo is often unreachable).
    `reauthorization_required`: only a person can help, by connecting again. `failed`: connecting never
    succeeded.
    """

    CONNECTED = "connected"
    DEGRADED = "degraded"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    DISCONNECTED = "disconnected"
    FAILED = "failed"


@dataclass(frozen=True)
class ConnectionRecord:
    """One org's connection, without secrets. Times are aware and UTC."""

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


@dataclass(frozen=True)
class ConnectionPage:
    """Connections in the order of their orgs; `next_after` is where the next page begins, None at the end."""

    items: list[ConnectionRecord]
    next_after: str | None


async def put_connection(
    db: Database,
    *,
    org: str,
    block_name: str,
    host: str,
    token_kind: str,
    account_id: int | None = None,
    account_name: str | None = None,
    subdomain: str | None = None,
    expires_at: datetime | None = None,
    scopes: Sequence[str] = (),
    state: ConnectionState | str = ConnectionState.CONNECTED,
    reason: str | None = None,
    now: datetime,
) -> ConnectionRecord:
    """Make an org's connection, or replace what is known about it. Its sync marks and its age stay.

    Args:
        db: the store.
        org: the product's tenant.
        block_name: the Prefect block that holds the secrets.
        host: the account's host.
        token_kind: `oauth` or `long_lived`.
        account_id: Kommo's id of the account.
        account_name: its name.
        subdomain: its subdomain.
        expires_at: when the access token expires.
        scopes: what the token may do.
        state: see `ConnectionState`.
        reason: why it is in that state, a sentence without secrets.
        now: the present time.
    """
    facts = {
        "provider": "kommo",
        "block_name": block_name,
        "host": host,
        "account_id": account_id,
        "account_name": account_name,
        "subdomain": subdomain,
        "token_kind": token_kind,
        "expires_at": expires_at,
        "scopes": list(scopes),
        "state": ConnectionState(state),
        "reason": reason,
        "updated_at": now,
    }
    insert = db.insert(_TABLE).values(org=org, created_at=now, state_since=now, **facts)
    new = insert.excluded
    since = case((_TABLE.c.state == new.state, _TABLE.c.state_since), else_=new.state_since)
    statement = insert.on_conflict_do_update(
        index_elements=["org"], set_={**{name: new[name] for name in facts}, "state_since": since}
    ).returning(_TABLE)
    async with db.begin() as connection:
        return _record((await connection.execute(statement)).mappings().one())


async def get_connection(db: Database, org: str) -> ConnectionRecord:
    """An org's connection.

    Raises:
        UnknownConnectionError: it has none.
    """
    async with db.read() as connection:
        found = (await connection.execute(select(_TABLE).where(_TABLE.c.org == org))).mappings().first()
    if found is None:
        raise _unknown(org)
    return _record(found)


async def list_connections(
    db: Database, *, after: str | None = None, limit: int = 100, state: ConnectionState | str | None = None
) -> ConnectionPage:
    """A page of connections, in the order of their orgs.

    Args:
        db: the store.
        after: the `next_after` of the page before.
        limit: at most so many.
        state: only those in this state.
    """
    query = select(_TABLE).order_by(_TABLE.c.org).limit(limit + 1)
    if after is not None:
        query = query.where(_TABLE.c.org > after)
    if state is not None:
        query = query.where(_TABLE.c.state == ConnectionState(state))
    async with db.read() as connection:
        found = (await connection.execute(query)).mappings().all()
    items = [_record(row) for row in found[:limit]]
    return ConnectionPage(items, items[-1].org if len(found) > limit else None)


async def set_state(
    db: Database, org: str, state: ConnectionState | str, reason: str | None = None, *, now: datetime
) -> bool:
    """Set a connection's state.

    `state_since` moves only when the state changes; the reason is always the newest.

    Returns:
        Whether the state changed. Of several processes that report the same change, exactly one is told True:
        it is the one to tell the product.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    wanted = ConnectionState(state)
    mine = update(_TABLE).where(_TABLE.c.org == org)
    async with db.begin() as connection:
        changed = await connection.execute(
            mine.where(_TABLE.c.state != wanted).values(
                state=wanted, reason=reason, state_since=now, updated_at=now
            )
        )
        if changed.rowcount:
            return True
        same = await connection.execute(mine.values(reason=reason, updated_at=now))
        if same.rowcount == 0:
            raise _unknown(org)
        return False


async def note_sync(db: Database, org: str, run_id: str, *, now: datetime) -> None:
    """Remember the newest run that completed.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    async with db.begin() as connection:
        found = await connection.execute(
            update(_TABLE)
            .where(_TABLE.c.org == org)
            .values(last_sync_run_id=run_id, last_synced_at=now, updated_at=now)
        )
        if found.rowcount == 0:
            raise _unknown(org)


def _record(row: RowMapping) -> ConnectionRecord:
    return ConnectionRecord(**row)


def _unknown(org: str) -> UnknownConnectionError:
    return UnknownConnectionError(f"The org {org[:100]!r} has no connection to Kommo. Connect it first.")
