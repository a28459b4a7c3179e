"""What the tests of `kommo` share: clocks that do not wait, and a raw HTTP server that can misbehave in every way."""

import asyncio
import contextlib
import heapq
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from kommo.budget import InProcessBudget, Lane, RateBudget
from kommo.client import KommoClient, StaticToken, TokenSource
from kommo.clock import Clock
from kommo.hosts import Host, parse_host
from kommo.transport import Transport

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


class InstantClock:
    """Sleeping moves the clock and takes no time. For one task at a time."""

    def __init__(self, seed: int = 1) -> None:
        self.time = 1000.0
        self.slept: list[float] = []
        self._dice = random.Random(seed)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += max(0.0, seconds)
        await asyncio.sleep(0)

    def random(self) -> float:
        return self._dice.random()


class SimulatedClock:
    """Time for many tasks at once: it jumps to whoever wakes first. `late` says by how much a sleeper oversleeps."""

    def __init__(self, late: Callable[[], float] = lambda: 0.0, seed: int = 1) -> None:
        self.time = 1000.0
        self._late = late
        self._dice = random.Random(seed)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        return self.time

    def random(self) -> float:
        return self._dice.random()

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.get_running_loop().create_future()
        when = self.time + max(0.0, seconds) + self._late()
        heapq.heappush(self._sleepers, (when, next(self._number), awake))
        await awake

    async def run(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        tasks = [asyncio.ensure_future(one) for one in work]
        while not all(task.done() for task in tasks):
            for _ in range(4):
                await asyncio.sleep(0)
            if self._sleepers:
                when, _, awake = heapq.heappop(self._sleepers)
                self.time = max(self.time, when)
                awake.set_result(None)
        return [task.result() for task in tasks]


@dataclass
class Asked:
    """A request as the server saw it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Answering = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def reply(
    status: int = 200,
    body: object = None,
    headers: Sequence[tuple[str, str]] = (),
    *,
    declared: int | None = None,
) -> bytes:
    """The bytes of an answer; `declared` lies about the length."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    length = len(raw) if declared is None else declared
    head = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers)]
    if status != 204:
        head.append(f"Content-Length: {length}")
    return "\r\n".join([*head, "", ""]).encode() + raw


async def silence(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await writer.wait_closed()


@dataclass
class RawServer:
    """A server that answers with what the test puts into `answers`, one after the other; the last one repeats.

    An answer is bytes to send, or a coroutine function that writes what it likes; `None` resets the connection.
    """

    answers: list[bytes | Answering | None] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @property
    def host(self) -> Host:
        return parse_host(f"acme.localhost:{self.port}", allow_loopback=True)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                for line in head:
                    if line.startswith("Authorization: "):
                        headers["authorization"] = line.partition(": ")[2]
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = Asked(method, target, headers, body)
                self.asked.append(asked)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    writer.transport.abort()
                    return
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(asked, writer)
                await writer.drain()
                if writer.is_closing():
                    return


@contextlib.asynccontextmanager
async def raw_server(*answers: bytes | Answering | None) -> AsyncIterator[RawServer]:
    server = RawServer(list(answers))
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections[task] = writer
        await server.connected(reader, writer)
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for writer in connections.values():
            writer.transport.abort()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def client_of(
    server: RawServer,
    *,
    token: TokenSource | None = None,
    clock: Clock | None = None,
    budget: RateBudget | None = None,
    attempts: int = 8,
    transport: Transport | None = None,
    lane: Lane = Lane.SYNC,
) -> AsyncIterator[KommoClient]:
    """A client of that server with a clock that does not wait."""
    clock = clock or InstantClock()
    async with KommoClient(
        server.host,
        token or StaticToken(SecretStr("t0ken")),
        budget=budget or InProcessBudget(None, clock),
        account_key="account:1",
        clock=clock,
        attempts=attempts,
        transport=transport,
        lane=lane,
    ) as client:
        yield client
