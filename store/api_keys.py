"""The product's keys. The store knows each by the hash of its secret, never by the secret."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, or_, select, update

from store.database import Database
from store.tables import ApiKeyRow, table_of

_TABLE = table_of(ApiKeyRow)

# "Last used" is for people who tidy up: a write for every request would be dear.
USE_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class ApiKey:
    """A key and what it may be used for, without its hash. Times are aware and UTC."""

    key_id: str
    name: str
    orgs: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None

    def allows(self, org: str) -> bool:
        """Whether it may act for this org; a key without a list may act for all."""
        return self.revoked_at is None and (self.orgs is None or org in self.orgs)


async def create_key(
    db: Database,
    name: str,
    orgs: Sequence[str] | None,
    *,
    secret_hash: str,
    key_id: str,
    now: datetime,
) -> ApiKey:
    """Make a key.

    Args:
        db: the store.
        name: what people call it.
        orgs: the orgs it may act for; None for all of them.
        secret_hash: the hash of its secret.
        key_id: its public name.
        now: the present time.

    Raises:
        WriteRefusedError: the id or the secret is there already.
    """
    values = {
        "key_id": key_id,
        "name": name,
        "hash": secret_hash,
        "orgs": None if orgs is None else list(orgs),
        "created_at": now,
    }
    async with db.begin() as connection:
        made = await connection.execute(_TABLE.insert().values(values).returning(_TABLE))
        return _key(made.mappings().one())


async def find_key(db: Database, secret_hash: str) -> ApiKey | None:
    """The key with this secret, None if there is none or it was revoked; both take the same look into the index."""
    query = select(_TABLE).where(_TABLE.c.hash == secret_hash)
    async with db.read() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None or row["revoked_at"] is not None else _key(row)


async def list_keys(db: Database) -> list[ApiKey]:
    """All keys, also the revoked ones, in the order of their names."""
    async with db.read() as connection:
        found = await connection.execute(select(_TABLE).order_by(_TABLE.c.name, _TABLE.c.key_id))
        return [_key(row) for row in found.mappings()]


async def revoke_key(db: Database, key_id: str, *, now: datetime) -> bool:
    """Revoke a key for good; False if there is no such key, or it was revoked before."""
    async with db.begin() as connection:
        found = await connection.execute(
            update(_TABLE)
            .where(_TABLE.c.key_id == key_id, _TABLE.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        return found.rowcount == 1


async def note_use(db: Database, key: ApiKey, *, now: datetime) -> None:
    """Remember that a key was used, to the minute.

    Args:
        db: the store.
        key: from `find_key`: if that was noted a short while ago, the database is left in peace.
        now: the present time.
    """
    stale = now - USE_NOTED_EVERY
    if key.last_used_at is not None and key.last_used_at > stale:
        return
    async with db.begin() as connection:
        await connection.execute(
            update(_TABLE)
            .where(
                _TABLE.c.key_id == key.key_id,
                or_(_TABLE.c.last_used_at.is_(None), _TABLE.c.last_used_at <= stale),
            )
            .values(last_used_at=now)
        )


def _key(row: RowMapping) -> ApiKey:
    values = {name: value for name, value in row.items() if name != "hash"}
    return ApiKey(**{**values, "orgs": None if row["orgs"] is None else tuple(row["orgs"])})
