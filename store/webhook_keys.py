"""Keys in the paths of hooks: which org a delivery is for. Known by their hashes; the keys are stored nowhere."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.tables import WebhookKeyRow, table_of

_TABLE = table_of(WebhookKeyRow)


@dataclass(frozen=True, slots=True)
class WebhookKey:
    """A hook key and whom it stands for. Times are aware and UTC."""

    key_hash: str
    org: str
    account_id: int | None
    created_at: datetime
    revoked_at: datetime | None


def hash_of_key(key: str) -> str:
    """What the store knows a key by."""
    return hashlib.sha256(key.encode()).hexdigest()


async def create_key(
    db: Database, org: str, account_id: int | None, key_hash: str, *, now: datetime
) -> WebhookKey:
    """Make a key.

    Args:
        db: the store.
        org: the product's tenant.
        account_id: Kommo's id of the account whose deliveries it is for; None while it is not known.
        key_hash: SHA-256 (hex) of the key.
        now: the present time.

    Raises:
        WriteRefusedError: the key is there already.
    """
    async with db.begin() as connection:
        return await add_key(connection, org, account_id, key_hash, now=now)


async def add_key(
    connection: AsyncConnection, org: str, account_id: int | None, key_hash: str, *, now: datetime
) -> WebhookKey:
    """Make a key inside another transaction; arguments as of `create_key`."""
    values = {"key_hash": key_hash, "org": org, "account_id": account_id, "created_at": now}
    made = await connection.execute(_TABLE.insert().values(values).returning(_TABLE))
    return WebhookKey(**made.mappings().one())


async def is_good(connection: AsyncConnection, key_hash: str | None) -> bool:
    """Whether there is such a key and it was not revoked, inside another transaction."""
    query = select(_TABLE.c.key_hash).where(_TABLE.c.key_hash == key_hash, _TABLE.c.revoked_at.is_(None))
    return (await connection.execute(query)).first() is not None


async def find_key(db: Database, key_hash: str) -> WebhookKey | None:
    """The key with this hash, None if there is none or it was revoked."""
    query = select(_TABLE).where(_TABLE.c.key_hash == key_hash, _TABLE.c.revoked_at.is_(None))
    async with db.read() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None else WebhookKey(**row)


async def list_keys(db: Database, org: str) -> list[WebhookKey]:
    """An org's keys, also the revoked ones, oldest first."""
    query = select(_TABLE).where(_TABLE.c.org == org).order_by(_TABLE.c.created_at, _TABLE.c.key_hash)
    async with db.read() as connection:
        return [WebhookKey(**row) for row in (await connection.execute(query)).mappings()]


async def revoke_keys(
    connection: AsyncConnection, org: str, *, except_hash: str | None = None, now: datetime
) -> int:
    """Revoke an org's keys for good, inside another transaction.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        except_hash: this one stays: the new one, which takes the place of the others.
        now: the present time.

    Returns:
        How many there were.
    """
    revoking = update(_TABLE).where(_TABLE.c.org == org, _TABLE.c.revoked_at.is_(None))
    if except_hash is not None:
        revoking = revoking.where(_TABLE.c.key_hash != except_hash)
    return (await connection.execute(revoking.values(revoked_at=now))).rowcount
