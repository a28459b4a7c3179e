"""What the tests of the gateway share: a gateway on a real socket, a sandbox as Kommo, the product with its keys."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import uvicorn

from blocks.app import CALLBACK_PATH
from blocks.connection import KommoConnection
from blocks.names import block_name
from blocks.settings import Settings
from gateway.app import create_app
from gateway.services import Services, open_services
from kommo.clock import Clock
from sandbox import AccountAccess, Sandbox
from store.connections import ConnectionRecord, get_connection
from store.errors import UnknownConnectionError
from store.outbox import list_outbox
from tasks.api_keys import make_api_key

START = "/api/v1/crm/kommo/oauth"
CALLBACK = CALLBACK_PATH
DISABLED = "/api/v1/crm/kommo/disabled"
APP_URL = "https://app.example.com"
CLIENT_SECRET = "canary-client-secret-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
AS_BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@dataclass
class House:
    """A running gateway and all around it.

    Args:
        url: Address of the gateway.
        settings: The installation.
        services: What the doors work with.
        kommo: The sandbox.
        product: The product's HTTP client; no redirects are followed, no cookies kept.
        key: A key for the org acme.
        every: A key for every org.
        synced: Connections whose first sync was asked for.
    """

    url: str
    settings: Settings
    services: Services
    kommo: Sandbox
    product: httpx.AsyncClient
    key: str
    every: str
    synced: list[ConnectionRecord] = field(default_factory=list)

    @property
    def acme(self) -> AccountAccess:
        return self.kommo.accounts[0]

    @property
    def globex(self) -> AccountAccess:
        return self.kommo.accounts[1]

    async def start(self, org: str = "acme", **query: str) -> "Consent":
        """The product starts, and hands on what it gets."""
        parameters = {"domain": self.acme.host} | query
        answer = await self.product.get(START, params=parameters, headers=self.signed(org))
        assert answer.status_code == 302, answer.text
        cookie, _, rest = answer.headers["set-cookie"].partition(";")
        name, _, value = cookie.partition("=")
        return Consent(answer.headers["location"], name, value, rest, org)

    def signed(self, org: str = "acme", key: str | None = None) -> dict[str, str]:
        """The headers of the product's calls for an org."""
        return {"Authorization": f"Bearer {key or self.every}", "X-Kommo-Org": org}

    def code_query(
        self, state: str | None, account: AccountAccess | None = None, **more: str
    ) -> dict[str, str]:
        """What Kommo sends along when somebody has pressed Allow."""
        account = account or self.acme
        world = self.kommo.world
        state_of = self.kommo.account(account.subdomain)
        code = world.oauth.new_code(state_of, world.integration, state_of.admin_id)
        query = {
            "code": code,
            "referer": account.host,
            "client_id": world.integration.client_id,
            "platform": "2",
        }
        return query | ({"state": state} if state is not None else {}) | more

    async def come_back(
        self,
        consent: "Consent | None",
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """A browser with the consent's cookie (or, without one, a stranger's) brings a callback."""
        cookies = {} if consent is None else {"Cookie": f"{consent.cookie}={consent.secret}"}
        return await self.product.get(CALLBACK, params=dict(query), headers=cookies | dict(headers or {}))

    async def connection(self, org: str = "acme") -> ConnectionRecord | None:
        try:
            return await get_connection(self.services.database, org)
        except UnknownConnectionError:
            return None

    async def told(self, org: str = "acme") -> list[tuple[str, str | None]]:
        """What the product is to be told: type and reason of each event."""
        events = await list_outbox(self.services.database, org=org)
        return [(event.type, event.payload.get("reason")) for event in events]

    async def nothing_stored(self, org: str = "acme") -> bool:
        """Neither a connection nor a pair nor a block of the org."""
        try:
            await KommoConnection.aload(block_name(org))
        except ValueError:
            return await self.connection(org) is None and not self.token_calls()
        return False

    def token_calls(self) -> int:
        """How often the sandbox was asked for tokens."""
        return sum(entry.path == "/oauth2/access_token" for entry in self.kommo.world.log.entries)

    def requests(self) -> int:
        """How many requests the sandbox has had."""
        return len(self.kommo.world.log.entries)


@dataclass(frozen=True)
class Consent:
    """A consent that has begun, as the browser knows it."""

    url: str
    cookie: str
    secret: str
    attributes: str
    org: str

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).query).items()}

    @property
    def state(self) -> str:
        return self.query["state"]


async def forget_blocks(*orgs: str) -> None:
    """Remove the credentials that earlier tests have left on the session's Prefect server."""
    for org in orgs:
        with contextlib.suppress(ValueError):
            await KommoConnection.adelete(block_name(org))


def _documented(url: str) -> Callable[[httpx.Response], Awaitable[None]]:
    """Every status that a test gets from a door must be in the OpenAPI document."""
    paths = _paths()

    async def check(answer: httpx.Response) -> None:
        request = answer.request
        path = re.sub("/orgs/[^/]+/", "/orgs/{org}/", request.url.path)
        if str(request.url).startswith(url) and request.method == "GET" and path in paths:
            assert str(answer.status_code) in paths[path]["get"]["responses"], (path, answer.status_code)

    return check


@cache
def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = create_app().openapi()["paths"]
    return paths


def _no_cookies() -> CookieJar:
    """A jar that takes nothing: which browser brings a callback is for the tests to say."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


@asynccontextmanager
async def running_house(
    settings: Settings, kommo: Sandbox, listening: socket.socket, clock: Clock | None = None
) -> AsyncIterator[House]:
    """A gateway on a socket that is open already; its first syncs are only written down."""
    synced: list[ConnectionRecord] = []

    async def noted(connection: ConnectionRecord) -> None:
        synced.append(connection)

    async with open_services(settings, clock=clock, first_sync=noted) as services:
        _, every = await make_api_key(services.database, "product", None)
        _, key = await make_api_key(services.database, "acme only", ["acme"])
        async with (
            served(create_app(settings, services=services), listening) as url,
            httpx.AsyncClient(base_url=url, timeout=30, cookies=_no_cookies()) as product,
        ):
            product.event_hooks["response"].append(_documented(url))
            yield House(
                url,
                settings,
                services,
                kommo,
                product,
                key.get_secret_value(),
                every.get_secret_value(),
                synced,
            )


@asynccontextmanager
async def served(app: Any, listening: socket.socket) -> AsyncIterator[str]:
    """Serve an application by uvicorn, in this event loop."""
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def open_socket() -> socket.socket:
    """A listening socket on a free port of loopback."""
    return socket.create_server(("127.0.0.1", 0))
