"""What one reading of an org's records works with; it knows nothing of Prefect."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from kommo.client import KommoClient
from kommo.clock import Clock
from store.connections import ConnectionRecord
from store.database import Database
from store.dbclock import shared_time
from store.webhook_keys import list_keys
from tasks.effects import Source
from tasks.record_reports import KindCount


class RecordSession:
    """One org's reading in this process.

    No dataclass, as `SyncSession`: Prefect walks into those.

    Args:
        connection: what the store knows about the org's connection; no secrets.
        client: an open client for the account.
        database: an open database.
        clock: source of time.
        ahead: how much the shared clock, by which readings are put in order, is ahead of this machine's.
        told: whether the product hears of changes: the org has webhooks, or had.
    """

    def __init__(
        self,
        *,
        connection: ConnectionRecord,
        client: KommoClient,
        database: Database,
        clock: Clock,
        ahead: timedelta = timedelta(0),
        told: bool = False,
    ) -> None:
        self.org = connection.org
        self.source = Source(connection.org, connection.account_id)
        self.client = client
        self.database = database
        self.clock = clock
        self.told = told
        self.on_page: Callable[[KindCount], Awaitable[None]] | None = None
        """Told how far a kind is after each of its pages."""
        self.run_id = str(uuid.uuid4())
        self.started_at = clock.now()
        self._ahead = ahead

    def __repr__(self) -> str:
        return f"RecordSession(org={self.org!r}, run_id={self.run_id!r})"

    def stamp(self) -> datetime:
        """The present time by which readings are put in their order, whichever machine made them."""
        return self.clock.now() + self._ahead


async def session_of(
    connection: ConnectionRecord, client: KommoClient, database: Database, clock: Clock
) -> RecordSession:
    """A session on what is open already."""
    shared = await shared_time(database, lambda: clock.now().timestamp())
    keys = await list_keys(database, connection.org)
    return RecordSession(
        connection=connection,
        client=client,
        database=database,
        clock=clock,
        # One look is enough: within a run clocks do not drift by what matters.
        ahead=shared - clock.now(),
        told=bool(keys),
    )
