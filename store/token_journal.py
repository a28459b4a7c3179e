"""The journal of token pairs: each is written down, sealed, before anything else happens with it (T2).

The connection's row points to the pair last known as current; from there the journal leads to the one that is
(`store.chain`). To promote a pair is to move that pointer, and only ever forward, whoever comes when.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import RowMapping, Select, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.chain import Edge, end_of_chain, may_follow, spare_pairs
from store.connection_records import LONG_LIVED, ConnectionState
from store.database import Database
from store.outbox import OutboxEvent, add_events
from store.tables import Connection, TokenJournalRow, table_of

__all__ = [
    "Chain",
    "Edge",
    "JournalRow",
    "Promotion",
    "append_pair",
    "chain",
    "end_of_chain",
    "forget",
    "get_pair",
    "mark_dead",
    "may_follow",
    "promote",
    "reseal",
    "sealed_rows",
    "spare_pairs",
]

_TABLE = table_of(TokenJournalRow)
_CONNECTION = table_of(Connection)

# Pairs kept of an org. One a day is usual, and a refresh token dies after three months at the latest [D].
KEPT = 200


@dataclass(frozen=True)
class JournalRow:
    """One pair of the journal. Times are aware and UTC."""

    id: int
    org: str
    used: str
    fingerprint: str
    sealed: str = field(repr=False)
    host: str
    account_id: int | None
    expires_at: datetime | None
    created_at: datetime
    promoted_at: datetime | None
    dead_at: datetime | None


@dataclass(frozen=True)
class Chain:
    """What the store knows of an org's pairs, at one moment.

    Attributes:
        start: the fingerprint of the pair last known as current, None if there is none.
        edges: the newest KEPT pairs, oldest first.
    """

    start: str | None
    edges: tuple[Edge, ...]

    def path(self, *more: Edge) -> list[str]:
        """From `start` to the current pair, which is the last; `more` is what the block knows. See `end_of_chain`."""
        return end_of_chain(self.start, (*self.edges, *more))

    def spares(self, *more: Edge) -> list[str]:
        """Pairs that may still work if the current one does not. See `spare_pairs`."""
        return spare_pairs(self.start, (*self.edges, *more))


class Promotion(StrEnum):
    """What came of a promotion.

    `promoted`: the connection now points to this pair. `already`: it did before, nothing was written.
    `superseded`: the connection has a newer pair (or a long-lived token) and was left alone. `gone`: the
    connection is no longer there or was disconnected, or the pair is not in the journal.
    """

    PROMOTED = "promoted"
    ALREADY = "already"
    SUPERSEDED = "superseded"
    GONE = "gone"


async def append_pair(
    db: Database,
    *,
    org: str,
    used: str,
    fingerprint: str,
    sealed: str,
    host: str,
    account_id: int | None = None,
    expires_at: datetime | None,
    now: datetime,
    current: bool = False,
) -> JournalRow:
    """Write a pair down: when this returns it is on the disk. Doing it twice is the same as once.

    Args:
        db: the store.
        org: the product's tenant.
        used: the fingerprint of what the pair was got with.
        fingerprint: its own.
        sealed: the pair, encrypted.
        host: the account's host.
        account_id: Kommo's id of the account.
        expires_at: when its access token expires.
        now: the present time.
        current: it comes from a new consent: the connection, if there is one already, points to it from now on.

    Returns:
        The row; if the pair was there before, the row of that time.
    """
    insert = db.insert(_TABLE).values(
        org=org,
        used=used,
        fingerprint=fingerprint,
        sealed=sealed,
        host=host,
        account_id=account_id,
        expires_at=expires_at,
        created_at=now,
    )
    statement = insert.on_conflict_do_nothing(index_elements=["org", "fingerprint"]).returning(_TABLE)
    async with db.begin(durable=True) as connection:
        if current:  # locked first, so that of two consents the one with the greater id comes last
            await connection.execute(_locking(org))
        row = (await connection.execute(statement)).mappings().first()
        if row is None:
            return await _row(connection, org, fingerprint)
        await _forget_the_oldest(connection, org)
        if current:
            await connection.execute(
                update(_CONNECTION)
                .where(_CONNECTION.c.org == org)
                .values(token_fingerprint=fingerprint, updated_at=now)
            )
        return JournalRow(**row)


async def chain(db: Database, org: str) -> Chain:
    """What the store knows of an org's pairs; the sealed ones are read with `get_pair`."""
    async with db.read() as connection:
        start = await connection.execute(
            select(_CONNECTION.c.token_fingerprint).where(_CONNECTION.c.org == org)
        )
        return Chain(start.scalar(), await _edges(connection, org))


async def get_pair(db: Database, org: str, fingerprint: str) -> JournalRow | None:
    """One pair with its sealed text, None if the journal does not have it."""
    query = select(_TABLE).where(_TABLE.c.org == org, _TABLE.c.fingerprint == fingerprint)
    async with db.read() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None else JournalRow(**row)


async def promote(
    db: Database,
    org: str,
    fingerprint: str,
    *,
    expires_at: datetime | None,
    host: str,
    scopes: Sequence[str] | None = None,
    now: datetime,
    recovered: Sequence[OutboxEvent] = (),
    refreshed: Sequence[OutboxEvent] = (),
) -> Promotion:
    """Make a journalled pair the connection's current one, unless it has a newer one.

    A state that said that a refresh was under way, was unsettled or had failed is over with it, in the same
    transaction: the connection is `connected`. Another state stays.

    Args:
        db: the store.
        org: the product's tenant.
        fingerprint: the pair's.
        expires_at: when its access token expires.
        host: the account's host, as it was when Kommo gave the pair.
        scopes: what the token may do; None leaves what is known.
        now: the present time.
        recovered: events, written if this ends `reauthorization_required`: the product had been told of that.
        refreshed: events, written if the connection had another pair before.
    """
    async with db.begin() as connection:
        row = (await connection.execute(_locking(org))).mappings().first()
        edges = await _edges(connection, org)
        mine = next((edge for edge in edges if edge.fingerprint == fingerprint), None)
        if row is None or mine is None or row["state"] == ConnectionState.DISCONNECTED:
            return Promotion.GONE
        before = row["token_fingerprint"]
        if before == fingerprint and mine.promoted:
            return Promotion.ALREADY
        marked = update(_TABLE).where(
            _TABLE.c.org == org, _TABLE.c.fingerprint == fingerprint, _TABLE.c.promoted_at.is_(None)
        )
        await connection.execute(marked.values(promoted_at=now))
        if before != fingerprint and (
            not may_follow(before, fingerprint, edges) or (before is None and row["token_kind"] == LONG_LIVED)
        ):
            return Promotion.SUPERSEDED
        facts: dict[str, Any] = {
            "token_fingerprint": fingerprint,
            "token_serial": _CONNECTION.c.token_serial + int(before != fingerprint),
            "expires_at": expires_at,
            "host": host,
            "refreshed_at": now,
            "refresh_attempts": 0,
            "next_refresh_at": None,
            "updated_at": now,
        }
        if scopes is not None:
            facts["scopes"] = list(scopes)
        if _is_settled_by_a_new_pair(row):
            facts |= {
                "state": ConnectionState.CONNECTED,
                "state_since": now,
                "reason": None,
                "reason_code": None,
            }
        await connection.execute(update(_CONNECTION).where(_CONNECTION.c.org == org).values(facts))
        if row["state"] == ConnectionState.REAUTHORIZATION_REQUIRED:
            await add_events(connection, recovered, now)
        if before is not None and before != fingerprint:
            await add_events(connection, refreshed, now)
        return Promotion.PROMOTED


async def mark_dead(db: Database, org: str, fingerprint: str, now: datetime) -> bool:
    """Remember that Kommo finally refuses a pair; False if that was known, or the pair is not there."""
    async with db.begin() as connection:
        found = await connection.execute(
            update(_TABLE)
            .where(_TABLE.c.org == org, _TABLE.c.fingerprint == fingerprint, _TABLE.c.dead_at.is_(None))
            .values(dead_at=now)
        )
        return found.rowcount == 1


async def sealed_rows(db: Database, after_id: int = 0, limit: int = 100) -> list[JournalRow]:
    """A page of all orgs' pairs in the order of their ids, to seal them anew."""
    query = select(_TABLE).where(_TABLE.c.id > after_id).order_by(_TABLE.c.id).limit(limit)
    async with db.read() as connection:
        return [JournalRow(**row) for row in (await connection.execute(query)).mappings()]


async def reseal(db: Database, row_id: int, old: str, new: str) -> bool:
    """Replace a pair's sealed text; False if it is no longer `old`, or the row is gone."""
    async with db.begin() as connection:
        found = await connection.execute(
            update(_TABLE).where(_TABLE.c.id == row_id, _TABLE.c.sealed == old).values(sealed=new)
        )
        return found.rowcount == 1


async def forget(db: Database, org: str, fingerprint: str | None = None) -> int:
    """Remove an org's pairs, or only the one that is named; gives how many there were."""
    which = delete(_TABLE).where(_TABLE.c.org == org)
    if fingerprint is not None:
        which = which.where(_TABLE.c.fingerprint == fingerprint)
    async with db.begin() as connection:
        return (await connection.execute(which)).rowcount


def _locking(org: str) -> Select[Any]:
    columns = _CONNECTION.c
    return (
        select(columns.token_fingerprint, columns.token_kind, columns.state, columns.refresh_attempts)
        .where(columns.org == org)
        .with_for_update()
    )


def _is_settled_by_a_new_pair(row: RowMapping) -> bool:
    unsettled = (
        ConnectionState.REFRESHING,
        ConnectionState.OUTCOME_UNKNOWN,
        ConnectionState.REAUTHORIZATION_REQUIRED,
    )
    return row["state"] in unsettled or (
        row["state"] == ConnectionState.DEGRADED and row["refresh_attempts"] > 0
    )


async def _edges(connection: AsyncConnection, org: str) -> tuple[Edge, ...]:
    columns = _TABLE.c
    query = (
        select(columns.id, columns.used, columns.fingerprint, columns.promoted_at, columns.dead_at)
        .where(columns.org == org)
        .order_by(columns.id.desc())
        .limit(KEPT)
    )
    found = (await connection.execute(query)).all()
    return tuple(
        Edge(row.used, row.fingerprint, row.promoted_at is not None, row.dead_at is not None, row.id)
        for row in reversed(found)
    )


async def _row(connection: AsyncConnection, org: str, fingerprint: str) -> JournalRow:
    query = select(_TABLE).where(_TABLE.c.org == org, _TABLE.c.fingerprint == fingerprint)
    return JournalRow(**(await connection.execute(query)).mappings().one())


async def _forget_the_oldest(connection: AsyncConnection, org: str) -> None:
    """Keep the journal as long as it is of use; a pair that never came to its block is kept."""
    oldest_kept = (
        select(_TABLE.c.id)
        .where(_TABLE.c.org == org)
        .order_by(_TABLE.c.id.desc())
        .limit(1)
        .offset(KEPT - 1)
        .scalar_subquery()
    )
    pointed_to = select(_CONNECTION.c.token_fingerprint).where(_CONNECTION.c.org == org).scalar_subquery()
    await connection.execute(
        delete(_TABLE).where(
            _TABLE.c.org == org,
            _TABLE.c.id < oldest_kept,
            or_(_TABLE.c.promoted_at.is_not(None), _TABLE.c.dead_at.is_not(None)),
            _TABLE.c.fingerprint.is_distinct_from(pointed_to),
        )
    )
