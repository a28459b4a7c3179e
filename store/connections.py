"""Connections: which org is joined to which Kommo account, and how it stands; no secrets.

Whoever changes a state hands in what is to be told of it: the events are written in the transaction of the change,
and only by the one process that made it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.audit import AuditNote, add_audit
from store.connection_records import (
    LONG_LIVED,
    PAIR,
    ConnectionPage,
    ConnectionRecord,
    ConnectionState,
    due_connections,
    find_connections,
    get_connection,
    has_pairs,
    list_connections,
    still_stands,
    to_record,
    unknown_connection,
)
from store.database import Database
from store.outbox import OutboxEvent, add_events
from store.shards import slot_of
from store.tables import Connection, TokenJournalRow, table_of

__all__ = [
    "LONG_LIVED",
    "PAIR",
    "AttemptNoted",
    "ConnectionPage",
    "ConnectionRecord",
    "ConnectionState",
    "change_state",
    "due_connections",
    "find_connections",
    "get_connection",
    "has_pairs",
    "list_connections",
    "mark_attempt_failed",
    "put_connection",
    "rehome",
    "set_state",
    "still_stands",
]

_TABLE = table_of(Connection)
_JOURNAL = table_of(TokenJournalRow)
_PASSING = (ConnectionState.DEGRADED, ConnectionState.OUTCOME_UNKNOWN)


class AttemptNoted(StrEnum):
    """What came of noting a failed attempt.

    `changed`: it changed the connection's state, and its events were written. `noted`: the state was that before.
    `moved_on`: others have a newer pair meanwhile, or the connection was ended; the failure says nothing about that,
    and nothing was written.
    """

    CHANGED = "changed"
    NOTED = "noted"
    MOVED_ON = "moved_on"


async def put_connection(
    db: Database,
    *,
    org: str,
    block_name: str,
    host: str,
    token_kind: str,
    token_fingerprint: str | None = None,
    account_id: int | None = None,
    account_name: str | None = None,
    subdomain: str | None = None,
    expires_at: datetime | None = None,
    scopes: Sequence[str] = (),
    state: ConnectionState | str = ConnectionState.CONNECTED,
    reason: str | None = None,
    reason_code: str | None = None,
    events: Sequence[OutboxEvent] = (),
    audit: AuditNote | None = None,
    now: datetime,
) -> ConnectionRecord:
    """Make an org's connection, or replace what is known about it. Its sync marks and its age stay.

    Args:
        db: the store.
        org: the product's tenant.
        block_name: the Prefect block that holds the secrets.
        host: the account's host.
        token_kind: `pair` or `long_lived`.
        token_fingerprint: of a pair: its fingerprint, as in the journal.
        account_id: Kommo's id of the account.
        account_name: its name.
        subdomain: its subdomain.
        expires_at: when the access token expires.
        scopes: what the token may do.
        state: see `ConnectionState`.
        reason: why it is in that state, a sentence without secrets.
        reason_code: the same as a word for programs.
        events: what to tell the product, in the same transaction.
        audit: what to write down about it, in the same transaction.
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
        "token_fingerprint": token_fingerprint,
        "expires_at": expires_at,
        "scopes": list(scopes),
        "refreshed_at": None if token_fingerprint is None else now,
        "refresh_attempts": 0,
        "next_refresh_at": None,
        "state": ConnectionState(state),
        "reason": reason,
        "reason_code": reason_code,
        "updated_at": now,
    }
    insert = db.insert(_TABLE).values(
        org=org, slot=slot_of(org), created_at=now, state_since=now, token_serial=1, **facts
    )
    new = insert.excluded
    # A new consent begins anew, whatever the state was; saying the same of a token again does not.
    same = (_TABLE.c.state == new.state) & new.token_fingerprint.is_(None)
    since = case((same, _TABLE.c.state_since), else_=new.state_since)
    statement = insert.on_conflict_do_update(
        index_elements=["org"],
        set_={
            **{name: new[name] for name in facts},
            "state_since": since,
            "token_serial": _TABLE.c.token_serial + 1,
        },
    ).returning(_TABLE)
    async with db.begin() as connection:
        record = to_record((await connection.execute(statement)).mappings().one())
        await add_events(connection, events, now)
        await _add_audit(connection, org, audit, now)
        return record


async def set_state(
    db: Database,
    org: str,
    state: ConnectionState | str,
    reason: str | None = None,
    *,
    reason_code: str | None = None,
    serial: int | None = None,
    was: tuple[str, str | None] | None = None,
    events: Sequence[OutboxEvent] = (),
    audit: AuditNote | None = None,
    now: datetime,
) -> bool:
    """Set a connection's state; see `change_state`, which this does in a transaction of its own."""
    async with db.begin() as connection:
        return await change_state(
            connection,
            org,
            state,
            reason,
            reason_code=reason_code,
            serial=serial,
            was=was,
            events=events,
            audit=audit,
            now=now,
        )


async def change_state(
    connection: AsyncConnection,
    org: str,
    state: ConnectionState | str,
    reason: str | None = None,
    *,
    reason_code: str | None = None,
    serial: int | None = None,
    was: tuple[str, str | None] | None = None,
    events: Sequence[OutboxEvent] = (),
    audit: AuditNote | None = None,
    now: datetime,
) -> bool:
    """Set a connection's state inside another transaction.

    `state_since` moves only when the state changes; the reason is always the newest. A connection that was ended stays
    ended, whatever somebody who began before has to say of it: only `put_connection` makes it anew.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        state: see `ConnectionState`.
        reason: why, a sentence without secrets.
        reason_code: the same as a word for programs.
        serial: the token that this is about, as `token_serial` numbers it: nothing is written if it was replaced.
        was: the state and its code on which this rests: nothing is written if they are others by now.
        events: what to tell the product; written only if the state changed, in the same transaction.
        audit: what to write down about it; likewise.
        now: the present time.

    Returns:
        Whether the state changed. Of several processes that report the same change, exactly one is told True.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    values = {"reason": reason, "reason_code": reason_code, "updated_at": now}
    mine = _TABLE.c.org == org
    about = mine if serial is None else mine & (_TABLE.c.token_serial == serial)
    if was is not None:
        about &= (_TABLE.c.state == was[0]) & _TABLE.c.reason_code.is_not_distinct_from(was[1])
    if state != ConnectionState.DISCONNECTED:
        about &= _TABLE.c.state != ConnectionState.DISCONNECTED
    changed = await _change(connection, about, state, values, now)
    if changed is None and not await _is_there(connection, mine):
        raise unknown_connection(org)
    if changed:
        await add_events(connection, events, now)
        await _add_audit(connection, org, audit, now)
    return bool(changed)


async def mark_attempt_failed(
    db: Database,
    org: str,
    *,
    next_refresh_at: datetime | None,
    reason: str,
    reason_code: str | None = None,
    state: ConnectionState | str | None = None,
    seen: str | None = None,
    serial: int | None = None,
    events: Sequence[OutboxEvent] = (),
    audit: AuditNote | None = None,
    now: datetime,
) -> AttemptNoted:
    """Note that refreshing a connection's pair failed.

    Args:
        db: the store.
        org: the product's tenant.
        next_refresh_at: nobody tries again before.
        reason: why, a sentence without secrets.
        reason_code: the same as a word for programs.
        state: the state it is in now; None leaves it.
        seen: the connection's fingerprint on which the verdict rests. If the connection points to another pair
            now, or the journal has a living pair that was got with it, the verdict is about the past.
        serial: the connection's `token_serial` at that time: likewise if it is another one now.
        events: what to tell the product; written only if the state changed, in the same transaction.
        audit: what to write down about it; likewise.
        now: the present time.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    values = {
        "refresh_attempts": _TABLE.c.refresh_attempts + 1,
        "next_refresh_at": next_refresh_at,
        "reason": reason,
        "reason_code": reason_code,
        "updated_at": now,
    }
    mine = _TABLE.c.org == org
    as_seen = mine & (_TABLE.c.state != ConnectionState.DISCONNECTED)
    if state in _PASSING:  # what Kommo has said for good is not taken back by a failure that says nothing
        as_seen &= _TABLE.c.state != ConnectionState.REAUTHORIZATION_REQUIRED
    if serial is not None:
        as_seen &= _TABLE.c.token_serial == serial
    if seen is not None:
        as_seen &= (_TABLE.c.token_fingerprint == seen) & ~_has_child(org, seen)
    async with db.begin() as connection:
        changed = await _change(connection, as_seen, state, values, now)
        if changed is None:
            if not await _is_there(connection, mine):
                raise unknown_connection(org)
            return AttemptNoted.MOVED_ON
        if not changed:
            return AttemptNoted.NOTED
        await add_events(connection, events, now)
        await _add_audit(connection, org, audit, now)
        return AttemptNoted.CHANGED


async def rehome(
    db: Database,
    org: str,
    host: str,
    subdomain: str | None,
    now: datetime,
    *,
    events: Sequence[OutboxEvent] = (),
) -> bool:
    """Follow an account that moved to another host, with an entry `moved` in the audit.

    Args:
        db: the store.
        org: the product's tenant.
        host: the account's host from now on.
        subdomain: its subdomain.
        now: the present time.
        events: what to tell the product; written only if it moved, in the same transaction.

    Returns:
        Whether it moved. Of several processes that report the same move, exactly one is told True.

    Raises:
        UnknownConnectionError: the org has no connection.
    """
    mine = _TABLE.c.org == org
    async with db.begin() as connection:
        found = await connection.execute(select(_TABLE.c.host).where(mine).with_for_update())
        before = found.scalar()
        if before is None:
            raise unknown_connection(org)
        if before == host:
            return False
        await connection.execute(
            update(_TABLE).where(mine).values(host=host, subdomain=subdomain, updated_at=now)
        )
        await add_audit(connection, org, "moved", {"from": before, "to": host}, now)
        await add_events(connection, events, now)
        return True


async def _change(
    connection: AsyncConnection,
    which: ColumnElement[bool],
    state: ConnectionState | str | None,
    values: Mapping[str, Any],
    now: datetime,
) -> bool | None:
    """Write `values`, and the state if one is given. Whether the state changed; None if there is no such row."""
    if state is not None:
        wanted = ConnectionState(state)
        changed = await connection.execute(
            update(_TABLE)
            .where(which, _TABLE.c.state != wanted)
            .values(state=wanted, state_since=now, **values)
        )
        if changed.rowcount:
            return True
    same = await connection.execute(update(_TABLE).where(which).values(**values))
    return False if same.rowcount else None


async def _is_there(connection: AsyncConnection, which: ColumnElement[bool]) -> bool:
    return (await connection.execute(select(_TABLE.c.org).where(which))).first() is not None


def _has_child(org: str, fingerprint: str) -> ColumnElement[bool]:
    return (
        select(_JOURNAL.c.id)
        .where(_JOURNAL.c.org == org, _JOURNAL.c.used == fingerprint, _JOURNAL.c.dead_at.is_(None))
        .exists()
    )


async def _add_audit(connection: AsyncConnection, org: str, audit: AuditNote | None, now: datetime) -> None:
    if audit is not None:
        await add_audit(connection, org, audit.event, audit.detail, now)
