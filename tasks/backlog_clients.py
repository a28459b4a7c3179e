"""Clients for the accounts that a run of the backlog works for: opened when first needed, kept for the next turn.

A run lingers for a minute and more and serves many orgs; to load an org's block for every event would cost more than
the event. A client that met a fault is closed and opened anew: it may have been the connection that has changed.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from blocks.connection import PAIR
from blocks.settings import Settings
from kommo.budget import LOOSE, Lane
from kommo.client import KommoClient, TokenSource
from kommo.clock import Clock
from kommo.transport import Transport
from store.connections import ConnectionRecord
from store.database import Database
from tasks.credentials import PrefectBlocks
from tasks.errors import AppIncompleteError, NotConnectedError
from tasks.installation import budget_of
from tasks.refresh import Refresher
from tasks.session import open_refresher
from tasks.tokens import RefreshingToken
from tasks.vault import HeldPair, block_of

_KEPT = 64
_ATTEMPTS = 3
"""How often a read is tried at once; what fails then is tried again when the org's pause is over."""


class Clients(Protocol):
    """Where the backlog gets its clients."""

    def use(self, connection: ConnectionRecord) -> AbstractAsyncContextManager[KommoClient]:
        """A client for the connection's account, for as long as the block lasts.

        Raises:
            DataPlaneError: its credentials are not there or not good any more.
        """
        ...

    @property
    def requests_sent(self) -> int:
        """How many requests all clients have sent."""
        ...


@dataclass
class _Open:
    client: KommoClient
    account: tuple[str, int | None, str, int]
    in_use: bool = False


class OpenClients:
    """Clients with credentials from Prefect's blocks, the most recently used ones kept open."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        clock: Clock,
        blocks: PrefectBlocks,
        refresher: Refresher | AppIncompleteError,
        *,
        lane: Lane,
        attempts: int = _ATTEMPTS,
        transport: Transport | None = None,
        loose: float = 0.0,
    ) -> None:
        self._loose = loose
        self._attempts = attempts
        self._transport = transport
        self._ahead: dict[str, HeldPair] = {}
        self._settings = settings
        self._clock = clock
        self._blocks = blocks
        self._refresher = refresher
        self._lane = lane
        self._budget = budget_of(database, settings)
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._sent_before = 0

    @property
    def requests_sent(self) -> int:
        """How many requests all clients have sent."""
        return self._sent_before + sum(one.client.requests_sent for one in self._open.values())

    @asynccontextmanager
    async def use(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        """A client for the connection's account. An org's turn is worked by one worker, and so is its client."""
        # A pair is replaced again and again, which its token source sees to; another long-lived token is not.
        serial = 0 if connection.token_kind == PAIR else connection.token_serial
        account = (connection.host, connection.account_id, connection.token_kind, serial)
        known = self._open.get(connection.org)
        if known is None or known.account != account:
            await self._drop(connection.org)
            known = self._open[connection.org] = _Open(await self._make(connection), account)
        self._open.move_to_end(connection.org)
        known.in_use = True
        try:
            yield known.client
        except BaseException:
            await self._drop(connection.org)
            raise
        finally:
            known.in_use = False
        idle = [org for org, one in self._open.items() if not one.in_use]
        for org in idle[: max(0, len(self._open) - _KEPT)]:
            await self._drop(org)

    async def read_ahead(self, connections: Sequence[ConnectionRecord]) -> None:
        """Read the pairs of orgs that are about to be used in one go; what is not found is read when it is needed."""
        if not isinstance(self._refresher, AppIncompleteError):
            orgs = [one.org for one in connections if one.token_kind == PAIR and one.org not in self._open]
            self._ahead |= await self._refresher.read_ahead(orgs) if orgs else {}

    async def aclose(self) -> None:
        """Close all."""
        for org in list(self._open):
            await self._drop(org)

    async def _drop(self, org: str) -> None:
        known = self._open.pop(org, None)
        if known is not None:
            self._sent_before += known.client.requests_sent
            await known.client.aclose()

    async def _make(self, connection: ConnectionRecord) -> KommoClient:
        token: TokenSource | None = None
        if connection.token_kind == PAIR:
            if isinstance(self._refresher, AppIncompleteError):
                raise self._refresher
            held = self._ahead.pop(connection.org, None) or await self._refresher.held(connection)
            block = block_of(connection, held, connection.scopes)
            token = RefreshingToken(self._refresher, connection.org, held, self._clock)
        else:
            found = await self._blocks.load(connection.org)
            if found is None:
                raise NotConnectedError(
                    f"'{connection.org}' is known here, but its credentials are not on this Prefect server. "
                    f"Check PREFECT_API_URL, or connect it again: kommo connect {connection.org} --domain …"
                )
            block = found
        return block.get_client(
            budget=self._budget,
            egress=self._settings.egress,
            allow_loopback=self._settings.sandbox,
            token=token,
            lane=self._lane,
            attempts=self._attempts,
            transport=self._transport,
            loose=self._loose,
        )


@asynccontextmanager
async def open_clients(
    database: Database,
    settings: Settings,
    clock: Clock,
    *,
    lane: Lane = Lane.WEBHOOK,
    attempts: int = _ATTEMPTS,
    shared: bool = False,
) -> AsyncIterator[OpenClients]:
    """Clients for as long as the block lasts.

    Args:
        database: The store.
        settings: Of this installation.
        clock: Source of time.
        lane: How urgent their requests are.
        attempts: How often a read is tried at once.
        shared: All use one pool of connections, and none is in a hurry: for a run that goes through many accounts and
            comes back to none.

    An installation with long-lived tokens only needs no integration; one that is incomplete is said when a pair is met.
    """
    async with AsyncExitStack() as stack:
        refresher: Refresher | AppIncompleteError
        try:
            refresher = await stack.enter_async_context(
                open_refresher(database, settings, lane=lane, clock=clock, loose=LOOSE if shared else 0.0)
            )
        except AppIncompleteError as error:
            refresher = error
        blocks = await stack.enter_async_context(PrefectBlocks())
        transport = await stack.enter_async_context(Transport()) if shared else None
        clients = OpenClients(
            database,
            settings,
            clock,
            blocks,
            refresher,
            lane=lane,
            attempts=attempts,
            transport=transport,
            loose=LOOSE if shared else 0.0,
        )
        stack.push_async_callback(clients.aclose)
        yield clients
