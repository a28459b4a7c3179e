"""A product that takes events: a small HTTP server that does as it is told and remembers what came."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

HANG, CUT = -1, -2
"""Answers that are none: silence, and a connection that ends."""


@dataclass(frozen=True)
class Received:
    """One request."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def number(self) -> int:
        """Which of its subject's events it is."""
        return int(self.event["data"]["n"])


@dataclass(frozen=True)
class Reply:
    """What is answered, and after how many seconds."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


Behaviour = Callable[[Received], Reply | Awaitable[Reply]]


@dataclass
class Receiver:
    """What came, and what is answered to it."""

    port: int
    behave: Behaviour = lambda _received: Reply()
    requests: list[Received] = field(default_factory=list)
    taken: list[Received] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events?key=canary-in-the-query"

    def first_times(self) -> dict[tuple[str, str], list[int]]:
        """(org, subject) → the numbers of its events in the order in which each was taken first."""
        seen: set[str] = set()
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for received in self.taken:
            event = received.event
            if event["id"] not in seen:
                seen.add(event["id"])
                found[event["source"], event["subject"]].append(received.number)
        return dict(found)

    async def comes(self, count: int) -> None:
        """Wait until so many were taken."""
        async with asyncio.timeout(60):
            while len(self.taken) < count:
                self.news.clear()
                await self.news.wait()

    def doubles(self) -> int:
        """How many requests a product that deduplicates by the id would have left alone."""
        counts = Counter(received.headers["webhook-id"] for received in self.taken)
        return sum(count - 1 for count in counts.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                received = await _read(reader)
                self.requests.append(received)
                reply = self.behave(received)
                if not isinstance(reply, Reply):
                    reply = await reply
                await asyncio.sleep(reply.seconds)
                if reply.status == HANG:
                    await asyncio.sleep(3600)
                if reply.status == CUT:
                    break
                if 200 <= reply.status < 300:
                    self.taken.append(received)
                    self.news.set()
                more = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
                writer.write(f"HTTP/1.1 {reply.status} X\r\ncontent-length: 0\r\n{more}\r\n".encode())
                await writer.drain()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return Received(headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def running_receiver(port: int = 0, behave: Behaviour | None = None) -> AsyncIterator[Receiver]:
    """A receiver on a port of this machine."""
    receiver = Receiver(port)
    if behave is not None:
        receiver.behave = behave
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await receiver.serve(reader, writer)
        except asyncio.CancelledError:
            writer.close()
        finally:
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
