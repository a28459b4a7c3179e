"""What the tests of the webhooks' doors share: a gateway that knows a key, and requests as raw as Kommo's."""

import asyncio
import hashlib
import hmac
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from sqlalchemy import func, select

from blocks.settings import Settings
from gateway.app import create_app
from gateway.intake import Capacity
from gateway.services import Services, open_services
from store.connections import put_connection
from store.database import Database
from store.inbox import DELIVERIES, EVENTS
from store.webhook_keys import create_key, hash_of_key
from tests.gateway.support import open_socket, served

ACCOUNT = 31234567
SECRET = "canary-webhook-secret"
DOOR = "/api/webhooks/kommo"
FORM = "application/x-www-form-urlencoded"
SAMPLES = Path(__file__).parents[1] / "samples"


def form(*ids: int, account: int | None = ACCOUNT, at: int = 1_726_572_758, action: str = "update") -> bytes:
    """A body as Kommo sends it: leads that were changed at a time."""
    fields: list[tuple[str, object]] = [] if account is None else [("account[id]", account)]
    for number, lead in enumerate(ids):
        for name, value in (("id", lead), ("name", f"Deal {lead}"), ("updated_at", at), ("status_id", 142)):
            fields.append((f"leads[{action}][{number}][{name}]", value))
    return urlencode(fields).encode()


def signature(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@dataclass
class Hooks:
    """A running gateway with a hook key of the org acme."""

    url: str
    key: str
    services: Services
    http: httpx.AsyncClient

    @property
    def database(self) -> Database:
        return self.services.database

    async def send(self, body: bytes, key: str | None = None, **headers: str) -> httpx.Response:
        """Deliver a body as Kommo does."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(
            f"{DOOR}/{key or self.key}",
            content=body,
            headers={
                "content-type": FORM,
                "user-agent": "amoCRM-Webhooks/3.0",
                "x-amocrm-requestid": uuid.uuid4().hex,
            }
            | named,
        )

    async def forward(self, body: bytes, sign: str | None = None, **headers: str) -> httpx.Response:
        """Deliver a body as the product does."""
        return await self.http.post(
            DOOR,
            content=body,
            headers={"content-type": "application/json", "x-signature": sign or signature(body)} | headers,
        )

    async def deliveries(self) -> list[Any]:
        async with self.database.read() as connection:
            query = select(DELIVERIES).order_by(DELIVERIES.c.received_at, DELIVERIES.c.org)
            return list(await connection.execute(query))

    async def states(self) -> dict[str, int]:
        """How many events there are in each state."""
        async with self.database.read() as connection:
            query = select(EVENTS.c.state, func.count()).group_by(EVENTS.c.state)
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def raw(self, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of one's own, on which these bytes were sent."""
        address = httpx.URL(self.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        return reader, writer


@asynccontextmanager
async def running_hooks(settings: Settings, capacity: Capacity | None = None) -> AsyncIterator[Hooks]:
    """A gateway on loopback. Nothing stands in for Prefect: these doors do not need it."""
    key = secrets.token_urlsafe(32)
    async with open_services(settings, capacity=capacity) as services:
        now = services.clock.now()
        await create_key(services.database, "acme", ACCOUNT, hash_of_key(key), now=now)
        with open_socket() as listening:
            async with (
                served(create_app(settings, services=services), listening) as url,
                httpx.AsyncClient(base_url=url, timeout=30) as http,
            ):
                yield Hooks(url, key, services, http)


async def connect(hooks: Hooks, org: str, account_id: int = ACCOUNT, state: str = "connected") -> None:
    """Note a connection of an org to an account."""
    await put_connection(
        hooks.database,
        org=org,
        block_name=org,
        host="acme.kommo.com",
        token_kind="long_lived",
        account_id=account_id,
        state=state,
        now=hooks.services.clock.now(),
    )
