"""Opening what a reading of records works with: once per flow run, closed by `async with`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blocks.settings import Settings
from kommo.clock import Clock, SystemClock
from tasks.installation import open_database
from tasks.record_session import RecordSession, session_of
from tasks.session import find_connection, open_client


@asynccontextmanager
async def open_record_session(
    org: str, settings: Settings, *, clock: Clock | None = None
) -> AsyncIterator[RecordSession]:
    """Open what a reading of records needs.

    Raises:
        NotConnectedError: the org is not connected.
    """
    clock = clock or SystemClock()
    async with open_database(settings) as database:
        connection = await find_connection(database, org)
        async with open_client(database, connection, settings, clock) as client:
            yield await session_of(connection, client, database, clock)
