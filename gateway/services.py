"""What all doors share: the database, the integration, work under way; opened once, closed together."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request
from pydantic import SecretStr

from blocks.app import KommoApp
from blocks.settings import Settings
from gateway.answers import Refusal
from gateway.background import Background
from gateway.first_sync import start_first_sync
from gateway.intake import Capacity
from gateway.metrics import Metrics
from gateway.rates import Rates
from gateway.remembered import LookupBusyError
from gateway.syncs import Syncs
from gateway.waking import waking
from gateway.webhooks import WebhookDoors, open_doors
from kommo.clock import Clock, SystemClock
from store.connections import ConnectionRecord
from store.database import Database
from tasks.actions import ActionSession, open_action_session
from tasks.app import find_app, require_app
from tasks.errors import AppIncompleteError
from tasks.installation import open_database

FINISH_SECONDS = 30.0
"""Seconds that work under way has to end when the gateway stops."""
FRESH_SECONDS = 300.0
"""Seconds after which the integration's settings are read again, while requests go on with those that are known."""
SECRET_SECONDS = 1.0
"""Seconds that a signed webhook waits for the secret, where that is asked for at Prefect's server."""
NOT_SET_UP = "This service is not set up yet. Whoever runs it finds the reason in its log."
FirstSync = Callable[[ConnectionRecord], Coroutine[object, object, None]]


@dataclass
class Services:
    """What the doors work with.

    Attributes:
        settings: This installation.
        database: An open database.
        clock: Source of time.
        first_sync: Has a new connection's account read; may take its time.
        background: Work that goes on after an answer.
        refused_installs: When Kommo refused installs by a widget, by the account's host (`gateway.hooks`).
        rates: How often each key may ask.
        metrics: What is counted.
        syncs: Syncs that callers have asked for.
    """

    settings: Settings
    database: Database
    clock: Clock = field(default_factory=SystemClock)
    first_sync: FirstSync = start_first_sync
    background: Background = field(default_factory=Background)
    refused_installs: dict[str, deque[float]] = field(default_factory=dict)
    rates: Rates = field(init=False)
    metrics: Metrics = field(init=False)
    syncs: Syncs = field(init=False)
    _actions: ActionSession | None = field(default=None, repr=False)
    _webhooks: WebhookDoors | None = field(default=None, repr=False)
    _app: KommoApp | None = field(default=None, repr=False)
    _fresh_until: float = field(default=0.0, repr=False)
    _found_secret: SecretStr = field(default=SecretStr(""), repr=False)
    _found_until: float = field(default=float("-inf"), repr=False)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.rates = Rates(self.clock, settings.key_requests_per_second, settings.key_burst)
        self.metrics = Metrics(self.database, self.clock)
        self.syncs = Syncs(self.database, self.background, self.clock)

    @property
    def actions(self) -> ActionSession:
        """What actions are performed with; there while the gateway runs."""
        if self._actions is None:
            raise RuntimeError("Actions can be performed only inside `open_services`.")
        return self._actions

    @property
    def webhooks(self) -> WebhookDoors:
        """What the doors for webhooks work with; there while the gateway runs."""
        if self._webhooks is None:
            raise RuntimeError("The webhooks' doors are open only inside `open_services`.")
        return self._webhooks

    async def webhook_secret(self) -> SecretStr:
        """The key of the product's signatures: from the environment, or else from the block; empty without one.

        Raises:
            LookupBusyError: It lies in the block, and Prefect's server does not give it in time.
        """
        if self.settings.webhook_secret.get_secret_value():
            return self.settings.webhook_secret
        if self._app is None and self.clock.monotonic() >= self._found_until:
            what = "reading the webhook secret"
            task = self.background.find(what) or self.background.start(what, what, self._find_secret())
            if task is None:
                raise LookupBusyError
            await asyncio.wait({task}, timeout=SECRET_SECONDS)
            if self.clock.monotonic() >= self._found_until:
                raise LookupBusyError
        return self._found_secret if self._app is None else self._app.webhook_secret

    async def _find_secret(self) -> None:
        # Not `require_app`: what is missing for connecting accounts is not missing here.
        self._found_secret = (await find_app(self.settings)).webhook_secret
        self._found_until = self.clock.monotonic() + FRESH_SECONDS

    async def app(self) -> KommoApp:
        """The integration, as Prefect's server and the environment describe it; read again from time to time.

        Raises:
            AppIncompleteError: Its id, secret or redirect URI is missing; it is looked for again the next time.
        """
        async with self._loading:
            if self._app is None:
                self._app = await self._read_app()
        if self.clock.monotonic() > self._fresh_until:
            self._fresh_until = self.clock.monotonic() + FRESH_SECONDS
            self.background.start("settings", "reading the integration's settings again", self._read_app())
        return self._app

    async def _read_app(self) -> KommoApp:
        self._app = await require_app(self.settings)
        self._fresh_until = self.clock.monotonic() + FRESH_SECONDS
        return self._app

    def connected(self, connection: ConnectionRecord) -> None:
        """Have a new connection's account read, without waiting for it."""
        key = f"first sync of {connection.org}"
        self.background.start(key, key, self.first_sync(connection))


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    clock: Clock | None = None,
    first_sync: FirstSync = start_first_sync,
    capacity: Capacity | None = None,
) -> AsyncIterator[Services]:
    """Open what the doors work with; at the end, wait for what is under way.

    Args:
        settings: This installation.
        clock: Source of time.
        first_sync: Has a new connection's account read.
        capacity: How many webhooks are taken in at once.

    Raises:
        StoreError: The database cannot be used.
    """
    async with open_database(settings) as database:
        services = Services(settings, database, clock or SystemClock(), first_sync)
        # It may lie on a Prefect server that takes its time; whoever needs it waits, and all others do not.
        what = "reading the integration's settings"
        services.background.start(what, what, services.app())
        async with (
            open_action_session(settings, database=database, clock=services.clock) as services._actions,
            open_doors(
                database, services.webhook_secret, services.clock, capacity=capacity
            ) as services._webhooks,
            waking(database, lambda: services.webhooks.intake.totals["stored"], services.clock),
        ):
            try:
                yield services
            finally:
                await services.syncs.close()
                await services.metrics.close()
                await services.background.finish(FINISH_SECONDS)


def services_of(request: Request) -> Services:
    """The services of the application that a request came to."""
    services: Services = request.app.state.services
    return services


async def app_of(request: Request) -> KommoApp:
    """The integration, or a refusal that tells no outsider what is missing."""
    try:
        return await services_of(request).app()
    except AppIncompleteError as error:
        request.scope["state"]["fault"] = str(error)
        raise Refusal(
            503, "This service is not set up yet. Whoever runs it finds the reason in its log."
        ) from None
