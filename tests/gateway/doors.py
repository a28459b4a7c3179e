"""What the tests of the product's doors share: a gateway with keys, on a database that the test fills itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from blocks.settings import Settings
from gateway.app import create_app
from gateway.services import Services, open_services
from kommo.clock import Clock
from store.connections import put_connection
from store.database import Database
from tasks.api_keys import make_api_key
from tests.gateway.support import open_socket, served


@dataclass
class Doors:
    """A running gateway with a key for the org acme and one for every org."""

    url: str
    services: Services
    http: httpx.AsyncClient
    key: str
    every: str

    @property
    def database(self) -> Database:
        return self.services.database

    def signed(self, org: str | None = "acme", key: str | None = None) -> dict[str, str]:
        """The headers of the product's calls."""
        named = {} if org is None else {"X-Kommo-Org": org}
        return {"Authorization": f"Bearer {key or self.key}"} | named

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask as the product does, with the key of acme."""
        headers = self.signed() | options.pop("headers", {})
        return await self.http.get(path, headers=headers, **options)

    async def post(self, path: str, json: Any, **options: Any) -> httpx.Response:
        headers = self.signed() | options.pop("headers", {})
        return await self.http.post(path, json=json, headers=headers, **options)

    async def connect(self, org: str = "acme", state: str = "connected") -> None:
        """Note a connection of an org."""
        await put_connection(
            self.database,
            org=org,
            block_name=f"org-{org}",
            host=f"{org}.kommo.com",
            token_kind="long_lived",
            account_id=31234567,
            state=state,
            now=self.services.clock.now(),
        )


@asynccontextmanager
async def running_doors(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Doors]:
    """A gateway on loopback."""
    async with open_services(settings, clock=clock) as services:
        _, every = await make_api_key(services.database, "product", None)
        _, key = await make_api_key(services.database, "acme only", ["acme"])
        with open_socket() as listening:
            async with (
                served(create_app(settings, services=services), listening) as url,
                httpx.AsyncClient(base_url=url, timeout=30) as http,
            ):
                yield Doors(url, services, http, key.get_secret_value(), every.get_secret_value())
