"""Clients for the accounts that actions go to: opened when first needed, kept, and used by many actions at once."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from blocks.connection import PAIR, KommoConnection
from blocks.settings import Settings
from kommo.budget import Lane
from kommo.client import KommoClient, TokenSource
from kommo.clock import Clock
from store.connections import ConnectionRecord
from store.database import Database
from tasks.credentials import PrefectBlocks
from tasks.errors import NotConnectedError, WrongAccountError
from tasks.installation import budget_of
from tasks.session import open_refresher
from tasks.tokens import RefreshingToken
from tasks.vault import block_of

_KEPT = 64
_ATTEMPTS = 3
"""How often a read is tried at once; what fails then is tried again a little later."""


class Clients(Protocol):
    """Where actions get their clients."""

    def use(self, connection: ConnectionRecord) -> AbstractAsyncContextManager[KommoClient]:
        """A client for the connection's account, for as long as the block lasts; many may use it at once.

        Raises:
            DataPlaneError: its credentials are not there or not good any more.
        """
        ...

    def forget(self, org: str) -> None:
        """The next one who asks gets a new client: it may be the connection that has changed."""
        ...


@dataclass
class _Open:
    client: KommoClient
    account: tuple[object, ...]
    stack: AsyncExitStack
    users: int = 0


class ActionClients:
    """Clients with credentials from Prefect's blocks, the most recently used ones kept open."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._forgotten: list[_Open] = []
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def use(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        """A client for the connection's account, for as long as the block lasts."""
        one = await self._taken(connection)
        try:
            yield one.client
        finally:
            one.users -= 1
            await self._close_unused()

    def forget(self, org: str) -> None:
        """The next one who asks gets a new client; those who have the old one may end with it."""
        if (one := self._open.pop(org, None)) is not None:
            self._forgotten.append(one)

    async def aclose(self) -> None:
        """Close all."""
        every = [*self._open.values(), *self._forgotten]
        self._open.clear()
        self._forgotten.clear()
        for one in every:
            await one.stack.aclose()

    async def _taken(self, connection: ConnectionRecord) -> _Open:
        org = connection.org
        account: tuple[object, ...] = (connection.host, connection.account_id, connection.token_kind)
        if connection.token_kind != PAIR:
            # A long-lived token is replaced by connecting again, which a client could not see.
            account = (*account, connection.token_serial)
        lock = self._making.setdefault(org, asyncio.Lock())
        async with lock:
            one = self._open.get(org)
            if one is not None and one.account != account:
                self.forget(org)
                one = None
            if one is None:
                one = self._open[org] = await self._make(connection, account)
            one.users += 1
        self._open.move_to_end(org)
        idle = [name for name, other in self._open.items() if not other.users]
        for name in idle[: max(0, len(self._open) - _KEPT)]:
            self.forget(name)
        await self._close_unused()
        return one

    async def _make(self, connection: ConnectionRecord, account: tuple[object, ...]) -> _Open:
        stack = AsyncExitStack()
        try:
            client = await stack.enter_async_context(self._opened(connection))
        except BaseException:
            await stack.aclose()
            raise
        return _Open(client, account, stack)

    async def _close_unused(self) -> None:
        unused = [one for one in self._forgotten if not one.users]
        self._forgotten = [one for one in self._forgotten if one.users]
        for one in unused:
            await one.stack.aclose()

    @asynccontextmanager
    async def _opened(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        async with AsyncExitStack() as stack:
            token: TokenSource | None = None
            if connection.token_kind == PAIR:
                refresher = await stack.enter_async_context(
                    open_refresher(self._database, self._settings, clock=self._clock)
                )
                held = await refresher.held(connection)
                block = block_of(connection, held, connection.scopes)
                token = RefreshingToken(refresher, connection.org, held, self._clock)
            else:
                async with PrefectBlocks() as blocks:
                    found = await blocks.load(connection.org)
                if found is None:
                    raise NotConnectedError(
                        f"'{connection.org}' is known here, but its credentials are not on this Prefect server. "
                        f"Check PREFECT_API_URL, or connect it again: kommo connect {connection.org} --domain …"
                    )
                block = found
            _of_one_account(connection, block)
            client = block.get_client(
                budget=budget_of(self._database, self._settings),
                egress=self._settings.egress,
                allow_loopback=self._settings.sandbox,
                token=token,
                lane=Lane.ACTION,
                attempts=_ATTEMPTS,
            )
            yield await stack.enter_async_context(client)


def _of_one_account(connection: ConnectionRecord, block: KommoConnection) -> None:
    """The block is saved before the connection: between the two, what is meant for one account would go to the other.

    Raises:
        WrongAccountError: that is so at this moment.
    """
    known = {block.account_id, connection.account_id} - {None}
    if len(known) > 1:
        raise WrongAccountError(
            f"The credentials of '{connection.org}' and what is known of its connection are of two Kommo accounts: "
            f"it is being connected anew. If it stays so, that broke off: kommo connect {connection.org} --domain …"
        )
