"""Consents that somebody has begun: each state is known by its hash, bound to an org, and good for one use."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import delete, select, update

from store.database import Database
from store.tables import OAuthStateRow, table_of

_TABLE = table_of(OAuthStateRow)


class StateProblem(StrEnum):
    """Why a state cannot be taken. A used one is called used, also after its time."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    USED = "used"


@dataclass(frozen=True)
class TakenState:
    """A consent that was begun, and what it is bound to. Times are aware and UTC."""

    state_hash: str = field(repr=False)
    org: str
    provider: str
    redirect_uri: str
    base_domain: str | None
    mode: str
    browser_hash: str | None = field(repr=False)
    return_to: str | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


async def put_state(
    db: Database,
    *,
    state_hash: str,
    org: str,
    redirect_uri: str,
    provider: str = "kommo",
    base_domain: str | None = None,
    mode: str = "popup",
    browser_hash: str | None = None,
    return_to: str | None = None,
    expires_at: datetime,
    now: datetime,
) -> None:
    """Remember a consent that begins.

    Args:
        db: the store.
        state_hash: the hash of the state that goes to Kommo; the state itself is never stored.
        org: the product's tenant that asked.
        redirect_uri: where Kommo sends the browser.
        provider: `kommo`.
        base_domain: the account's host, where the product named one.
        mode: `popup` or `post_message`.
        browser_hash: the hash of what the browser keeps, to know it again.
        return_to: where the browser goes in the end.
        expires_at: until when it is good.
        now: the present time.

    Raises:
        WriteRefusedError: the state is there already.
    """
    async with db.begin() as connection:
        await connection.execute(
            _TABLE.insert().values(
                state_hash=state_hash,
                org=org,
                provider=provider,
                redirect_uri=redirect_uri,
                base_domain=base_domain,
                mode=mode,
                browser_hash=browser_hash,
                return_to=return_to,
                created_at=now,
                expires_at=expires_at,
            )
        )


async def take_state(db: Database, state_hash: str, now: datetime) -> TakenState | StateProblem:
    """Use a state up. Of any number who try at once, one gets it.

    Args:
        db: the store.
        state_hash: the hash of what the browser brought.
        now: the present time.
    """
    taking = (
        update(_TABLE)
        .where(_TABLE.c.state_hash == state_hash, _TABLE.c.used_at.is_(None), _TABLE.c.expires_at > now)
        .values(used_at=now)
        .returning(_TABLE)
    )
    async with db.begin() as connection:
        taken = (await connection.execute(taking)).mappings().first()
        if taken is not None:
            return TakenState(**taken)
        used_at = await connection.execute(select(_TABLE.c.used_at).where(_TABLE.c.state_hash == state_hash))
        found = used_at.first()
    if found is None:
        return StateProblem.UNKNOWN
    return StateProblem.EXPIRED if found.used_at is None else StateProblem.USED


async def peek_state(db: Database, state_hash: str) -> TakenState | None:
    """A state as it stands, without using it up; None if it is unknown."""
    async with db.read() as connection:
        found = await connection.execute(select(_TABLE).where(_TABLE.c.state_hash == state_hash))
        row = found.mappings().first()
    return None if row is None else TakenState(**row)


async def prune_states(db: Database, before: datetime) -> int:
    """Remove the states that expired before a time; gives how many there were."""
    async with db.begin() as connection:
        return (await connection.execute(delete(_TABLE).where(_TABLE.c.expires_at < before))).rowcount
