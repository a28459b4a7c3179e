"""The claim to refresh an org's tokens: of all processes exactly one holds it, and only until its deadline (T1).

A row per org, never deleted, so that its serial only grows: whoever lost the claim can be told from whoever holds
it, also when it wakes up much later. A killed holder leaves its step behind; the next one is told.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, RowMapping, Update, and_, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.dbclock import SecondsClock, clock_expression
from store.tables import RefreshClaimRow, table_of
from store.types import EpochSeconds

_TABLE = table_of(RefreshClaimRow)

IDLE = "idle"
# A claim that ends later than this from now was made before the machine's clock was set back.
LONGEST_CLAIM = 600.0


@dataclass(frozen=True)
class Claim:
    """A claim that was won.

    Attributes:
        org: the product's tenant.
        owner: who won it.
        serial: grows with every claim on this org.
        until: its end, in seconds since 1970 on the shared clock.
        previous_step: how far the last holder came; `idle` if it ended in good order.
        previous_used: the fingerprint of the token that it was using up, if it had come so far.
    """

    org: str
    owner: str
    serial: int
    until: float
    previous_step: str
    previous_used: str | None


async def take_claim(
    db: Database, org: str, owner: str, seconds: float, *, now: SecondsClock = time.time
) -> Claim | None:
    """Take the claim if nobody holds it; None if somebody does.

    The step of the last holder stays until `note_step`, so that it is not forgotten if this one dies at once.

    Args:
        db: the store.
        org: the product's tenant.
        owner: a name that nobody else uses, new for each attempt.
        seconds: how long it may be held, at most LONGEST_CLAIM.
        now: seconds since 1970, used on SQLite.

    Raises:
        ValueError: `seconds` is out of range.
    """
    if not 0 < seconds <= LONGEST_CLAIM:
        raise ValueError(f"A claim lasts for more than 0 and at most {LONGEST_CLAIM:.0f} seconds.")
    async with db.begin() as connection:
        clock = clock_expression(connection, now)
        until = clock + literal(seconds, EpochSeconds())
        changed_at = _moment(now)
        insert = db.insert(_TABLE).values(
            org=org, owner=owner, until=until, serial=1, step=IDLE, used=None, changed_at=changed_at
        )
        statement = insert.on_conflict_do_update(
            index_elements=["org"],
            set_={
                "owner": insert.excluded.owner,
                "until": until,
                "serial": _TABLE.c.serial + 1,
                "changed_at": changed_at,
            },
            where=or_(_TABLE.c.until <= clock, _TABLE.c.until > clock + LONGEST_CLAIM),
        ).returning(_TABLE)
        row = (await connection.execute(statement)).mappings().first()
    return None if row is None else _claim(row)


async def note_step(
    db: Database,
    claim: Claim,
    step: str,
    used: str | None = None,
    *,
    seconds: float | None = None,
    now: SecondsClock = time.time,
) -> bool:
    """Note how far the holder has come, for whoever comes after it.

    Args:
        db: the store.
        claim: from `take_claim`.
        step: a word of the caller's.
        used: the fingerprint of the token that is being used up; None leaves what was noted before.
        seconds: the claim must last for at least so long; None: it is enough that nobody else took it since, so
            that what was done late is still noted.
        now: seconds since 1970, used on SQLite.

    Returns:
        False if the claim is lost (or does not last so long); then nothing was written.
    """
    values = {"step": step} if used is None else {"step": step, "used": used}
    async with db.begin() as connection:
        mine = _mine(claim)
        if seconds is not None:
            mine = and_(mine, _lasts(connection, seconds, now))
        return await _changed(
            connection, update(_TABLE).where(mine).values(**values, changed_at=_moment(now))
        )


async def release(db: Database, claim: Claim, step: str = IDLE, *, now: SecondsClock = time.time) -> bool:
    """Give the claim back, if nobody else took it since.

    Args:
        db: the store.
        claim: from `take_claim`.
        step: what the next holder is told; `idle`, which also forgets the token in use, if all is settled.
        now: seconds since 1970, used on SQLite.

    Returns:
        False if the claim was lost before; then nothing was written.
    """
    values: dict[str, object] = {"until": 0.0, "step": step, "changed_at": _moment(now)}
    if step == IDLE:
        values["used"] = None
    async with db.begin() as connection:
        return await _changed(connection, update(_TABLE).where(_mine(claim)).values(values))


async def holder(db: Database, org: str, *, now: SecondsClock = time.time) -> float:
    """For how many seconds the claim of this org is held yet; 0 if nobody holds it."""
    async with db.read() as connection:
        left = _TABLE.c.until - clock_expression(connection, now)
        found = (await connection.execute(select(left).where(_TABLE.c.org == org))).scalar()
    # A longer one is free for whoever comes: see LONGEST_CLAIM.
    return float(found) if found is not None and 0.0 < found <= LONGEST_CLAIM else 0.0


async def held_orgs(db: Database, *, now: SecondsClock = time.time) -> dict[str, datetime]:
    """The orgs whose claim is held at this moment, and since when its holder is at its step."""
    async with db.read() as connection:
        left = _TABLE.c.until - clock_expression(connection, now)
        found = await connection.execute(
            select(_TABLE.c.org, _TABLE.c.changed_at).where(left > 0.0, left <= LONGEST_CLAIM)
        )
        return {row.org: row.changed_at for row in found}


async def revoke_claim(connection: AsyncConnection, org: str, now: datetime) -> None:
    """Take the claim away from whoever holds it, inside another transaction: its connection is gone."""
    await connection.execute(
        update(_TABLE)
        .where(_TABLE.c.org == org)
        .values(owner="", until=0.0, serial=_TABLE.c.serial + 1, step=IDLE, used=None, changed_at=now)
    )


def _mine(claim: Claim) -> ColumnElement[bool]:
    return and_(_TABLE.c.org == claim.org, _TABLE.c.owner == claim.owner, _TABLE.c.serial == claim.serial)


def _lasts(connection: AsyncConnection, seconds: float, now: SecondsClock) -> ColumnElement[bool]:
    return _TABLE.c.until > clock_expression(connection, now) + literal(seconds, EpochSeconds())


async def _changed(connection: AsyncConnection, statement: Update) -> bool:
    return (await connection.execute(statement)).rowcount == 1


def _moment(now: SecondsClock) -> datetime:
    """For people only: on PostgreSQL the machine's clock and not the shared one."""
    return datetime.fromtimestamp(now(), UTC)


def _claim(row: RowMapping) -> Claim:
    return Claim(row["org"], row["owner"], row["serial"], row["until"], row["step"], row["used"])
