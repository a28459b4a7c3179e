"""How the product's address does: it rests after failures, is tried by one event, or is gone.

One row per address, shared by all processes; an address that does well has none. The address itself is not stored, only
its hash and its host: it may hold a key.
"""

import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, delete, func, literal, or_, select, update

from store.database import Database
from store.dbclock import SecondsClock, clock_expression
from store.tables import OutboxEndpointRow, table_of
from store.types import EpochSeconds, UTCDateTime

_TABLE = table_of(OutboxEndpointRow)

RESTING, GONE = "resting", "gone"
_LONGEST = 7200.0
"""Seconds; a rest that ends later than this from now was written before the machine's clock was set back."""


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """How an address does.

    Attributes:
        host: where it is.
        state: `resting` or `gone`.
        failures: how many times in a row it was found not to do.
        seconds: for how long it rests yet; 0 if it may be tried.
        reason: why, a sentence without secrets.
        since: when it began, UTC.
    """

    host: str
    state: str
    failures: int
    seconds: float
    reason: str
    since: datetime


async def endpoint_state(
    db: Database, endpoint: str, *, now: SecondsClock = time.time
) -> EndpointRecord | None:
    """How an address does; None if nothing is known against it.

    Args:
        db: the store.
        endpoint: the address's hash.
        now: seconds since 1970, used on SQLite.
    """
    async with db.read() as connection:
        clock = clock_expression(connection, now)
        query = select(
            _TABLE.c.host,
            _TABLE.c.state,
            _TABLE.c.failures,
            _TABLE.c.rests_until - clock,
            _TABLE.c.probe_until - clock,
            _TABLE.c.reason,
            _TABLE.c.since,
        ).where(_TABLE.c.endpoint == endpoint)
        row = (await connection.execute(query)).first()
    if row is None:
        return None
    host, state, failures, rest, probe, reason, since = row
    # Whoever tries it holds it: for all others it rests for as long.
    seconds = max(0.0, *(left for left in (rest, probe) if left <= _LONGEST or state == GONE))
    return EndpointRecord(host, state, failures, seconds, reason, since)


async def rest_endpoint(
    db: Database,
    endpoint: str,
    host: str,
    seconds: float,
    reason: str,
    *,
    gone: bool = False,
    moment: datetime,
    now: SecondsClock = time.time,
) -> None:
    """Let an address rest, or call it gone. A rest that ends later already stays; what is gone stays gone.

    Args:
        db: the store.
        endpoint: the address's hash.
        host: its host, for people.
        seconds: for how long nobody sends anything to it.
        reason: why, a sentence without secrets.
        gone: it said that it is gone.
        moment: the present time.
        now: seconds since 1970, used on SQLite.
    """
    async with db.begin() as connection:
        until = clock_expression(connection, now) + literal(seconds, EpochSeconds())
        state = GONE if gone else RESTING
        insert = db.insert(_TABLE).from_select(
            ["endpoint", "host", "state", "failures", "rests_until", "probe_until", "reason", "since"],
            select(
                literal(endpoint),
                literal(host),
                literal(state),
                literal(1),
                until,
                literal(0.0, EpochSeconds()),
                literal(reason),
                literal(moment, UTCDateTime()),
            ).where(literal(1) == 1),
            include_defaults=False,
        )
        later = func.max if db.dialect == "sqlite" else func.greatest
        await connection.execute(
            insert.on_conflict_do_update(
                index_elements=["endpoint"],
                set_={
                    "state": case((_TABLE.c.state == GONE, GONE), else_=insert.excluded.state),
                    "failures": _TABLE.c.failures + 1,
                    "rests_until": case(
                        (
                            _TABLE.c.rests_until > until + literal(_LONGEST, EpochSeconds()),
                            insert.excluded.rests_until,
                        ),
                        else_=later(_TABLE.c.rests_until, insert.excluded.rests_until),
                    ),
                    "probe_until": 0.0,
                    "reason": case((_TABLE.c.state == GONE, _TABLE.c.reason), else_=insert.excluded.reason),
                },
            )
        )


async def claim_probe(db: Database, endpoint: str, seconds: float, *, now: SecondsClock = time.time) -> bool:
    """Be the one who tries an address after its rest; whoever gets True does so within `seconds`.

    Args:
        db: the store.
        endpoint: the address's hash.
        seconds: after so long another one may try.
        now: seconds since 1970, used on SQLite.
    """
    async with db.begin() as connection:
        clock = clock_expression(connection, now)
        claimed = await connection.execute(
            update(_TABLE)
            .where(
                _TABLE.c.endpoint == endpoint,
                _TABLE.c.state == RESTING,
                or_(
                    _TABLE.c.rests_until <= clock,
                    _TABLE.c.rests_until > clock + literal(_LONGEST, EpochSeconds()),
                ),
                or_(
                    _TABLE.c.probe_until <= clock,
                    _TABLE.c.probe_until > clock + literal(10 * seconds, EpochSeconds()),
                ),
            )
            .values(probe_until=clock + literal(seconds, EpochSeconds()))
        )
        return claimed.rowcount == 1


async def end_probe(db: Database, endpoint: str) -> None:
    """Let another one try the address: there was nothing to try it with."""
    async with db.begin() as connection:
        await connection.execute(update(_TABLE).where(_TABLE.c.endpoint == endpoint).values(probe_until=0.0))


async def endpoint_does(db: Database, endpoint: str) -> bool:
    """Forget what was known against an address, because it answers well; whether there was anything."""
    async with db.begin() as connection:
        ended = await connection.execute(delete(_TABLE).where(_TABLE.c.endpoint == endpoint))
        return ended.rowcount == 1
