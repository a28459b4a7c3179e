"""The clock that all processes of an installation share.

On PostgreSQL it is the server's. The processes on one SQLite file share a machine, so there it is the machine's,
handed in, so that a test can turn it.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Double, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.types import EpochSeconds

SecondsClock = Callable[[], float]


def clock_expression(connection: AsyncConnection, now: SecondsClock = time.time) -> ColumnElement[float]:
    """Seconds since 1970, as an expression for a statement that this transaction runs next.

    PostgreSQL evaluates it row by row, after whatever the statement had to wait for. On SQLite it is the time of
    this call: make it inside the transaction, which waits for its lock at its beginning.
    """
    if connection.dialect.name != "postgresql":
        return literal(now(), EpochSeconds())
    return server_clock()


def server_clock() -> ColumnElement[float]:
    """Seconds since 1970 by PostgreSQL's own clock, as an expression."""
    return cast(func.extract("epoch", func.clock_timestamp()), Double)


async def read_clock(connection: AsyncConnection, now: SecondsClock = time.time) -> float:
    """Seconds since 1970. Asked after taking locks: a time from before a wait for them would be stale."""
    if connection.dialect.name != "postgresql":
        return now()
    return float((await connection.execute(select(clock_expression(connection)))).scalar_one())


async def shared_time(db: Database, now: SecondsClock = time.time) -> datetime:
    """The shared clock's time, aware and UTC: what several machines put their readings in order by."""
    if db.dialect != "postgresql":
        return datetime.fromtimestamp(now(), UTC)
    async with db.read() as connection:
        return datetime.fromtimestamp(await read_clock(connection, now), UTC)
