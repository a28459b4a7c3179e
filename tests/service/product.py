"""The product, as far as this harness needs it: takes events, checks their signature, remembers what it was told."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass
class Product:
    """What it was told.

    Attributes:
        secret: Signs the events.
        times: How often each event came, by its id.
        types: How many different ones of each type.
        forged: Requests with no good signature.
    """

    secret: str
    times: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    forged: int = 0

    async def take(self, request: Request) -> Response:
        """One event."""
        body = await request.body()
        event, moment = request.headers.get("webhook-id", ""), request.headers.get("webhook-timestamp", "0")
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        wanted = base64.b64encode(
            hmac.new(key, f"{event}.{moment}.".encode() + body, hashlib.sha256).digest()
        ).decode()
        good = f"v1,{wanted}" in request.headers.get("webhook-signature", "").split()
        if not good or abs(time.time() - int(moment)) > 300:
            self.forged += 1
            return Response(status_code=401)
        if not self.times[event]:
            self.types[json.loads(body)["type"]] += 1
        self.times[event] += 1
        return Response(status_code=204)


@asynccontextmanager
async def running_product(secret: str, port: int) -> AsyncIterator[Product]:
    """A product that listens on loopback while the block runs."""
    product = Product(secret)
    app = Starlette(routes=[Route("/events", product.take, methods=["POST"])])
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off", access_log=False)
    )
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.05)
        yield product
    finally:
        server.should_exit = True
        await serving
