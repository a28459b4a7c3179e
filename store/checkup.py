"""What `kommo doctor` asks the tables: a few numbers and a few examples of what is wrong, whatever the fleet's size."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, literal_column, select, text

from store.database import Database
from store.dbclock import read_clock
from store.tables import (
    ApiKeyRow,
    Connection,
    TokenJournalRow,
    WebhookSubscriptionRow,
    table_of,
)

_KEY = table_of(ApiKeyRow)
_CONNECTION = table_of(Connection)
_JOURNAL = table_of(TokenJournalRow)
_SUBSCRIPTION = table_of(WebhookSubscriptionRow)
_SHOWN = 5
# Written out, so that the partial index is seen to fit.
_IS_WAITING = (_JOURNAL.c.promoted_at.is_(None), _JOURNAL.c.dead_at.is_(None))


@dataclass(frozen=True, slots=True)
class Some:
    """How many there are, and the first of them by name."""

    count: int
    orgs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a database says of itself: its version, its time zone and its clock (seconds since 1970)."""

    version: str
    time_zone: str | None
    now: float | None


async def server_facts(db: Database) -> ServerFacts:
    """Ask the database about itself; SQLite has no clock and no zone of its own."""
    async with db.read() as connection:
        if db.dialect != "postgresql":
            version = (await connection.execute(text("select sqlite_version()"))).scalar_one()
            return ServerFacts(str(version), None, None)
        version = (await connection.execute(text("show server_version"))).scalar_one()
        zone = (await connection.execute(text("show time zone"))).scalar_one()
        return ServerFacts(str(version), str(zone), await read_clock(connection))


async def connections_in(db: Database, state: str) -> Some:
    """The connections in a state."""
    which = _CONNECTION.c.state == state
    async with db.read() as connection:
        count = (await connection.execute(select(func.count()).where(which))).scalar_one()
        first = select(_CONNECTION.c.org).where(which).order_by(_CONNECTION.c.org).limit(_SHOWN)
        return Some(count, tuple((await connection.execute(first)).scalars()))


async def some_connections(db: Database, limit: int = _SHOWN) -> list[tuple[str, str, str]]:
    """Org, host and block's name of a few connections that work; those that were synced last come first."""
    query = (
        select(_CONNECTION.c.org, _CONNECTION.c.host, _CONNECTION.c.block_name)
        .where(_CONNECTION.c.state == literal_column("'connected'"))
        .order_by(_CONNECTION.c.org)
        .limit(limit)
    )
    async with db.read() as connection:
        return [(row[0], row[1], row[2]) for row in await connection.execute(query)]


async def subscriptions_wanting(db: Database) -> Some:
    """The connected orgs whose subscription is switched off by Kommo, or not there."""
    which = (
        _SUBSCRIPTION.c.state.in_(("disabled", "missing")),
        _SUBSCRIPTION.c.org == _CONNECTION.c.org,
        _CONNECTION.c.state.in_(("connected", "degraded")),
    )
    async with db.read() as connection:
        count = (
            await connection.execute(select(func.count()).select_from(_SUBSCRIPTION).where(*which))
        ).scalar_one()
        first = select(_SUBSCRIPTION.c.org).where(*which).order_by(_SUBSCRIPTION.c.org).limit(_SHOWN)
        return Some(count, tuple((await connection.execute(first)).scalars()))


async def keys_that_count(db: Database) -> int:
    """How many of the product's keys are not revoked."""
    query = select(func.count()).select_from(_KEY).where(_KEY.c.revoked_at.is_(None))
    async with db.read() as connection:
        return int((await connection.execute(query)).scalar_one())


async def pairs_waiting(db: Database, before: datetime) -> Some:
    """The pairs of tokens that were written down before a moment and are still not in their block."""
    which = (*_IS_WAITING, _JOURNAL.c.created_at < before)
    async with db.read() as connection:
        count = (
            await connection.execute(select(func.count()).select_from(_JOURNAL).where(*which))
        ).scalar_one()
        first = select(_JOURNAL.c.org).where(*which).distinct().order_by(_JOURNAL.c.org).limit(_SHOWN)
        return Some(count, tuple((await connection.execute(first)).scalars()))


async def newest_sealed(db: Database, limit: int = _SHOWN) -> list[str]:
    """A few sealed pairs, the newest first."""
    query = select(_JOURNAL.c.sealed).order_by(_JOURNAL.c.id.desc()).limit(limit)
    async with db.read() as connection:
        return list((await connection.execute(query)).scalars())
