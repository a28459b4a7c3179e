"""The load: a process of its own that speaks just enough HTTP/1.1, so that it takes little from what it measures.

`python -m tests.benchmarks.intake.load` with a plan as JSON on its standard input; gives what came of it as JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_TICK = 0.001


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        url: Where to.
        template: The body, in which `@@` stands for the number of the delivery.
        first: Number of the first delivery.
        connections: So many of them, kept open.
        rate: Deliveries a second, each at its time; 0 sends on each connection as fast as it is answered.
        seconds: For how long.
        drop: A delivery for which no connection is free is left out; otherwise it is sent late, and its time counts
            from when it was due.
    """

    url: str
    template: str
    first: int
    connections: int
    rate: float
    seconds: float
    drop: bool = False


@dataclass
class Result:
    """What came of it."""

    statuses: Counter[int] = field(default_factory=Counter)
    acknowledged: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    refusal_times: list[float] = field(default_factory=list)
    broken: int = 0
    left_out: int = 0


class Connection(asyncio.Protocol):
    """One connection, with one request at a time on it."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = b""
        self._number = 0
        self._due = 0.0
        self._busy = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, number: int, due: float) -> None:
        assert self._transport is not None
        self._number, self._due, self._busy = number, due, True
        self._transport.write(self._load.request(number))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        _, named, length = head.lower().partition(b"content-length:")
        if not rest.endswith(b"0\r\n\r\n") if not named else len(rest) < int(length.split(b"\r\n", 1)[0]):
            return
        self._buffer = b""
        self._busy = False
        self._load.answered(self, int(head[9:12]), self._number, time.monotonic() - self._due)

    def connection_lost(self, _error: Exception | None) -> None:
        self._load.lost(self._busy)


class Load:
    """Sends what the plan says.

    Args:
        plan: What to send.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.result = Result()
        parts = urlsplit(plan.url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            "content-type: application/x-www-form-urlencoded\r\nuser-agent: amoCRM-Webhooks/3.0\r\n"
            "accept-encoding: gzip\r\nx-amocrm-requestid: "
        ).encode()
        self._body = [part.encode() for part in plan.template.split("@@")]
        self._next = plan.first
        self._idle: deque[Connection] = deque()
        self._begin = self._end = 0.0
        self._open = 0

    def request(self, number: int) -> bytes:
        body = (b"%d" % number).join(self._body)
        return b"%s%d\r\ncontent-length: %d\r\n\r\n%s" % (self._head, number, len(body), body)

    def answered(self, connection: Connection, status: int, number: int, took: float) -> None:
        result = self.result
        result.statuses[status] += 1
        if status == 200:
            result.acknowledged.append(number)
            result.times.append(took)
        else:
            result.refusal_times.append(took)
        if self.plan.rate:
            self._idle.append(connection)
        elif time.monotonic() < self._end:
            connection.ask(self._number(), time.monotonic())
        else:
            self._idle.append(connection)

    def lost(self, busy: bool) -> None:
        self._open -= 1
        self.result.broken += busy

    async def run(self) -> Result:
        loop = asyncio.get_running_loop()
        for _ in range(self.plan.connections):
            _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port)
            self._idle.append(connection)
        self._open = self.plan.connections
        self._begin = time.monotonic()
        self._end = self._begin + self.plan.seconds
        if self.plan.rate:
            await self._keep_time()
        else:
            for _ in range(len(self._idle)):
                self._idle.popleft().ask(self._number(), time.monotonic())
            await asyncio.sleep(self.plan.seconds)
        deadline = time.monotonic() + 15
        while len(self._idle) < self._open and time.monotonic() < deadline:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
        self.result.broken += max(0, self._open - len(self._idle))
        return self.result

    async def _keep_time(self) -> None:
        total, sent = round(self.plan.rate * self.plan.seconds), 0
        while sent < total:
            due = self._begin + sent / self.plan.rate
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(max(due - now, _TICK))
                continue
            if self._idle:
                self._idle.popleft().ask(self._number(), now if self.plan.drop else due)
                sent += 1
            elif self.plan.drop:
                self.result.left_out += 1
                sent += 1
                if self.result.left_out % 50 == 0:
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(_TICK)

    def _number(self) -> int:
        number, self._next = self._next, self._next + 1
        return number


async def main() -> None:
    plan = Plan(**json.loads(sys.stdin.read()))
    result = await Load(plan).run()
    told: dict[str, Any] = {**result.__dict__, "statuses": dict(result.statuses)}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())
