"""Everything that one sync works with: opened once per flow run, closed by `async with`."""

import asyncio
import os
import platform
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

from prefect.runtime import flow_run

from blocks.connection import PAIR, KommoConnection
from blocks.names import block_name
from blocks.settings import Settings
from kommo.auth import OAuthClient
from kommo.budget import Lane
from kommo.client import KommoClient, TokenSource
from kommo.clock import Clock, SystemClock
from store.connections import ConnectionRecord, get_connection
from store.database import Database
from store.errors import UnknownConnectionError
from store.runs import begin_run, finish_run
from tasks.app import require_app
from tasks.credentials import PrefectBlocks
from tasks.errors import NotConnectedError, sentence_of
from tasks.events import emit_org_event
from tasks.installation import budget_of, open_database
from tasks.outbox import sync_ended
from tasks.refresh import Refresher
from tasks.scopes import Scope
from tasks.tokens import RefreshingToken
from tasks.vault import Vault, block_of


class SyncSession:
    """One org's sync in this process: its connection, client, database and run.

    Deliberately not a dataclass or pydantic model: Prefect walks into those when a task gets one as an argument.
    Its repr names the org and nothing else, because the client behind it holds a token.

    Args:
        org: the product's tenant.
        scope: what is to be read.
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
        scope: Scope,
        connection: ConnectionRecord,
        client: KommoClient,
        database: Database,
        run_id: str,
        clock: Clock,
    ) -> None:
        self.org = org
        self.scope = scope
        self.connection = connection
        self.client = client
        self.database = database
        self.run_id = run_id
        self.clock = clock
        self.started_at = clock.now()
        self._sent_before = client.requests_sent

    @property
    def requests(self) -> int:
        """How many requests this sync has sent."""
        return self.client.requests_sent - self._sent_before

    def __repr__(self) -> str:
        return f"SyncSession(org={self.org!r}, run_id={self.run_id!r})"


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
async def open_refresher(
    database: Database,
    settings: Settings,
    *,
    lane: Lane = Lane.ACTION,
    clock: Clock | None = None,
    loose: float = 0.0,
) -> AsyncIterator[Refresher]:
    """What gives out fresh pairs of tokens, for as long as the block lasts.

    Raises:
        AppIncompleteError: the integration's id, secret or redirect URI is missing.
    """
    clock = clock or SystemClock()
    app = await require_app(settings)
    oauth = OAuthClient(
        app.oauth(),
        budget=budget_of(database, settings),
        egress_key=f"egress:{settings.egress}",
        lane=lane,
        clock=clock,
        loose=loose,
    )
    async with PrefectBlocks() as blocks, oauth:
        yield Refresher(
            database=database,
            vault=Vault(database=database, blocks=blocks, sealer=app.sealer(), clock=clock),
            oauth=oauth,
            clock=clock,
            owner=process_name(),
            allow_loopback=app.allow_loopback,
            announce=emit_org_event,
        )


def process_name() -> str:
    """What a claim on a connection is held by: host and process, so that a person can find it."""
    return f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"


@asynccontextmanager
async def open_client(
    database: Database, connection: ConnectionRecord, settings: Settings, clock: Clock
) -> AsyncIterator[KommoClient]:
    """A client for the org's account; one with a pair of tokens refreshes them by itself.

    Raises:
        NotConnectedError: the org's credentials are not there.
    """
    async with AsyncExitStack() as stack:
        token: TokenSource | None = None
        if connection.token_kind == PAIR:
            refresher = await stack.enter_async_context(open_refresher(database, settings, clock=clock))
            held = await refresher.held(connection)
            block = block_of(connection, held, connection.scopes)
            token = RefreshingToken(refresher, connection.org, held, clock)
        else:
            block = await load_connection(connection.org)
        client = block.get_client(
            budget=budget_of(database, settings),
            egress=settings.egress,
            allow_loopback=settings.sandbox,
            token=token,
        )
        yield await stack.enter_async_context(client)


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
        async with (
            open_client(database, connection, settings, clock) as client,
            begun_sync(connection, scope, client, database, clock) as session,
        ):
            yield session


@asynccontextmanager
async def begun_sync(
    connection: ConnectionRecord, scope: Scope, client: KommoClient, database: Database, clock: Clock
) -> AsyncIterator[SyncSession]:
    """Begin the run of a sync; if what happens in the block raises, the run has failed."""
    run_id = await begin_run(
        database, connection.org, scope.value, flow_run.get_id(), now=clock.now(), connected=True
    )
    session = SyncSession(
        org=connection.org,
        scope=scope,
        connection=connection,
        client=client,
        database=database,
        run_id=run_id,
        clock=clock,
    )
    try:
        yield session
    except BaseException as error:
        # A cancelled run says so too; a killed one cannot, and is called abandoned by a later one.
        seconds = (clock.now() - session.started_at).total_seconds()
        ending = give_up(
            database,
            session.org,
            scope,
            run_id,
            error,
            requests=session.requests,
            seconds=seconds,
            clock=clock,
        )
        await asyncio.shield(ending)
        raise


async def give_up(
    database: Database,
    org: str,
    scope: Scope,
    run_id: str,
    error: BaseException,
    *,
    requests: int = 0,
    seconds: float = 0.0,
    clock: Clock,
) -> None:
    """End a run that came to nothing, and let the product know."""
    reason = "The run was cancelled." if isinstance(error, asyncio.CancelledError) else sentence_of(error)
    facts = {
        "org": org,
        "scope": scope.value,
        "run_id": run_id,
        "state": "failed",
        "reason": reason,
        "requests": requests,
        "seconds": round(seconds, 3),
    }
    await finish_run(
        database,
        run_id,
        "failed",
        requests,
        reason,
        events=[sync_ended(org, run_id, "failed", facts)],
        now=clock.now(),
    )


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
