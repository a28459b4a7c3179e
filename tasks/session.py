"""Everything that one sync works with: opened once per flow run, closed by `async with`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from prefect.runtime import flow_run

from blocks.connection import KommoConnection, block_name
from blocks.database import find_database
from blocks.settings import Settings
from kommo.client import KommoClient
from kommo.clock import Clock, SystemClock
from store.budget import DatabaseBudget
from store.connections import ConnectionRecord, get_connection
from store.database import Database
from store.errors import UnknownConnectionError
from store.runs import begin_run, finish_run
from tasks.errors import NotConnectedError, sentence_of
from tasks.scopes import Scope


class SyncSession:
    """One org's sync in this process: its connection, client, database and run.

    Deliberately not a dataclass or pydantic model: Prefect walks into those when a task gets one as an argument.
    Its repr names the org and nothing else, because the client behind it holds a token.

    Args:
        org: the product's tenant.
        connection: what the store knows about the org's connection; no secrets.
        client: an open client for the account.
        database: an open database.
        run_id: the row of `sync_run` that this sync writes under.
        clock: source of time.
    """

    def __init__(
        self,
        *,
        org: str,
        connection: ConnectionRecord,
        client: KommoClient,
        database: Database,
        run_id: str,
        clock: Clock,
    ) -> None:
        self.org = org
        self.connection = connection
        self.client = client
        self.database = database
        self.run_id = run_id
        self.clock = clock
        self.started_at = clock.now()

    def __repr__(self) -> str:
        return f"SyncSession(org={self.org!r}, run_id={self.run_id!r})"


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """This installation's database, open and migrated as far as it may be without asking."""
    async with await find_database(settings) as database:
        await database.ensure()
        yield database


def budget_of(database: Database, settings: Settings) -> DatabaseBudget:
    """The request budget that all processes of this installation share."""
    rate = settings.requests_per_second
    return DatabaseBudget(database, limits={"account": rate, "egress": rate})


async def load_connection(org: str) -> KommoConnection:
    """The credentials of an org.

    Raises:
        NotConnectedError: this Prefect server has no block for the org.
    """
    try:
        return cast("KommoConnection", await KommoConnection.aload(block_name(org)))
    except ValueError as error:
        if "Unable to find block document" not in str(error):
            raise
        raise NotConnectedError(
            f"'{org}' is known here, but its credentials are not on this Prefect server. "
            f"Check PREFECT_API_URL, or connect it again: kommo connect {org} --domain …"
        ) from None


@asynccontextmanager
async def open_sync_session(
    org: str, scope: Scope, settings: Settings, *, clock: Clock | None = None
) -> AsyncIterator[SyncSession]:
    """Open what a sync needs and begin its run.

    Raises:
        NotConnectedError: the org is not connected.
    """
    clock = clock or SystemClock()
    async with open_database(settings) as database:
        connection = await find_connection(database, org)
        block = await load_connection(org)
        client = block.get_client(
            budget=budget_of(database, settings), egress=settings.egress, allow_loopback=settings.sandbox
        )
        async with client:
            run_id = await begin_run(database, org, scope.value, flow_run.get_id(), now=clock.now())
            session = SyncSession(
                org=org, connection=connection, client=client, database=database, run_id=run_id, clock=clock
            )
            try:
                yield session
            except BaseException as error:
                # A cancelled run says so too; a killed one cannot, and is called abandoned by a later one.
                await asyncio.shield(_give_up(session, error))
                raise


async def _give_up(session: SyncSession, error: BaseException) -> None:
    reason = "The run was cancelled." if isinstance(error, asyncio.CancelledError) else sentence_of(error)
    requests = session.client.requests_sent
    await finish_run(session.database, session.run_id, "failed", requests, reason, now=session.clock.now())


async def find_connection(database: Database, org: str) -> ConnectionRecord:
    """The org's connection, if it can be used.

    Raises:
        NotConnectedError: there is none, or it was ended, or it never came about.
    """
    try:
        connection = await get_connection(database, org)
    except UnknownConnectionError:
        connection = None
    if connection is None or connection.state in {"disconnected", "failed"}:
        raise NotConnectedError(
            f"'{org}' is not connected. Connect it first: kommo connect {org} --domain SUBDOMAIN.kommo.com"
        )
    return connection
