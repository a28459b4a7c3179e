"""A receiver of webhooks that answers as it is told and keeps every request, and what tests of webhooks often do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from tests.sandbox.support import Api

Json = dict[str, Any]
EVERYTHING = [
    f"{verb}_{entity}"
    for verb in ("add", "update", "delete", "responsible")
    for entity in ("lead", "contact", "company", "task")
] + [
    *(f"{verb}_{entity}" for verb in ("restore", "note") for entity in ("lead", "contact", "company")),
    *("status_lead", "add_talk", "update_talk", "add_message", "add_outgoing_message"),
    *("add_unsorted", "update_unsorted", "delete_unsorted"),
]


@dataclass
class Hit:
    """One request: its first line, headers in their order, raw body."""

    target: str
    headers: dict[str, str]
    body: bytes

    def decoded(self) -> Json:
        return php(self.body.decode("ascii"))


def php(body: str) -> Json:
    """What PHP makes of a form body; every level a dict, indexes as text."""
    result: Json = {}
    for pair in body.split("&"):
        name, _, value = pair.partition("=")
        steps = unquote_plus(name).replace("]", "").split("[")
        place = result
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = unquote_plus(value)
    return result


@dataclass
class Receiver:
    """Where webhooks arrive.

    Args:
        url: Its origin.
        status: What it answers.
        before: Awaited before it answers.
        headers: Lines added to its answers.
        close: Close each connection without saying so beforehand, once it has been answered.
    """

    url: str
    status: int = 200
    before: Callable[[], Awaitable[object]] | None = None
    headers: str = ""
    close: bool = False
    hits: list[Hit] = field(default_factory=list)
    connections: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def got(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(10):
            while len(self.hits) < count:
                self._came.clear()
                await self._came.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                try:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                except asyncio.IncompleteReadError:
                    return
                headers = {
                    name: value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
                }
                body = await reader.readexactly(int(headers["content-length"]))
                self.hits.append(Hit(head[0].split()[1], headers, body))
                self._came.set()
                if self.before is not None:
                    await self.before()
                writer.write(
                    f"HTTP/1.1 {self.status} X\r\n{self.headers}Content-Length: 2\r\n\r\nok".encode()
                )
                if self.close:
                    return
        finally:
            writer.close()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver("")
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(receiver.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def subscribe(api: Api, receiver: Receiver, *names: str, path: str = "/hook", **more: Any) -> Json:
    body = {"destination": receiver.url + path, "settings": list(names) or EVERYTHING}
    answer = await api.post("webhooks", body, **more)
    assert answer.status_code in {200, 201}, answer.text
    found: Json = answer.json()
    return found


async def change(api: Api, name: str, /, account: str = "acme", **arguments: Any) -> Json:
    result: Json = await api.control("POST", "change", {"account": account, "change": name, **arguments})
    return result


async def settled(api: Api) -> Json:
    found: Json = await api.control("POST", "webhooks/settle", {"seconds": 10})
    assert found["settled"]
    counts: Json = found["counts"]
    return counts


def first(api: Api, entity: str, account: str = "acme") -> int:
    return int(next(iter(api.sandbox.account(account).entities[entity]))["id"])
