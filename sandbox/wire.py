"""HTTP/1.1 on loopback, by hand and small, because a stand-in must also be able to misbehave.

A framework hides the socket; here a connection can be reset with RST, an answer can stop short of its
Content-Length, and the arrival time is taken at the moment the request is complete. Requests of one connection
are answered in order; a handler that returns a `Response` is answered without a task switch.
"""

import asyncio
import json
import socket
import struct
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

HAL = "application/hal+json"
PROBLEM = "application/problem+json"
JSON = "application/json"
HTML = "text/html; charset=utf-8"

_MAX_HEAD = 64 * 1024
_MAX_BODY = 64 * 1024 * 1024
_EPOCH = time.time() - time.perf_counter()


def epoch_now() -> float:
    """Seconds since 1970 that never run backwards (the wall clock at import plus elapsed time)."""
    return _EPOCH + time.perf_counter()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(value: object) -> bytes:
    """JSON as Kommo writes it: compact, with non-ASCII characters as they are."""
    return _encode(value).encode("utf-8", "surrogatepass")


@dataclass(slots=True)
class Request:
    """One complete request.

    Args:
        method: As sent, upper case.
        path: Percent-decoded path without the query.
        raw_query: The query string as sent.
        headers: Names in lower case; of repeated headers the last one.
        body: Raw bytes.
        client: Address of the peer.
        arrived: Epoch seconds at which the last byte had been read.
    """

    method: str
    path: str
    raw_query: str
    headers: dict[str, str]
    body: bytes
    client: str
    arrived: float
    _query: list[tuple[str, str]] | None = None

    @property
    def query(self) -> list[tuple[str, str]]:
        """Query parameters in order, decoded."""
        if self._query is None:
            self._query = parse_qsl(self.raw_query, keep_blank_values=True)
        return self._query

    def first(self, name: str, default: str = "") -> str:
        """The last value of a plain query parameter, as PHP takes it."""
        return next((value for key, value in reversed(self.query) if key == name), default)


@dataclass(slots=True)
class Response:
    """One answer, and how it is to be damaged on the way out.

    Args:
        status: HTTP status.
        body: Raw bytes; not sent with 204.
        content_type: None sends no Content-Type.
        headers: Further headers.
        delay: Seconds to hold the answer back.
        reset: Close the connection with RST instead of answering.
        cut: Send only this many bytes of the body, under the full Content-Length, then close.
    """

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    reset: bool = False
    cut: int | None = None


def hal(value: object, status: int = 200) -> Response:
    """A successful answer [D K/http-codes: Content-Type application/hal+json]."""
    return Response(status, dumps(value), HAL)


def no_content() -> Response:
    """204, which is how Kommo says "nothing found" (trap 1 of the fact sheet) [D, C]."""
    return Response(204)


Answer = Response | Coroutine[Any, Any, Response]
Handler = Callable[[Request], Answer]


class Connection(asyncio.Protocol):
    """One client connection: parses requests, answers them in order, obeys the damage asked for."""

    def __init__(self, handler: Handler, open_connections: set["Connection"]) -> None:
        self._handler = handler
        self._open = open_connections
        self._buffer = bytearray()
        self._busy = False
        self._continued = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - tells mypy what asyncio promises
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if peer else ""
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        del exc
        self._open.discard(self)
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        while not self._busy and not self._transport.is_closing():
            try:
                request = self._next_request()
            except ValueError:
                self._send(None, Response(400, b"Bad Request", "text/plain"))
                self._transport.close()
                return
            if request is None:
                return
            self._busy = True
            answer = self._handler(request)
            if isinstance(answer, Response):
                self._deliver(request, answer)
            else:
                self._task = asyncio.get_running_loop().create_task(self._await(request, answer))

    async def _await(self, request: Request, answer: Coroutine[Any, Any, Response]) -> None:
        response = await answer
        self._task = None
        self._deliver(request, response)
        self._advance()

    def _deliver(self, request: Request, response: Response) -> None:
        if response.delay > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(response.delay, self._deliver_late, request, response)
            return
        self._send(request, response)
        self._busy = False

    def _deliver_late(self, request: Request, response: Response) -> None:
        self._timer = None
        self._send(request, response)
        self._busy = False
        self._advance()

    def _next_request(self) -> Request | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise ValueError("head too long")
            return None
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError("bad header")
            headers[name.strip().lower()] = value.strip()
        start = end + 4
        if "chunked" in headers.get("transfer-encoding", "").lower():
            found = _dechunk(self._buffer, start)
            if found is None:
                return None
            body, stop = found
        else:
            stop = start + int(headers.get("content-length") or 0)
            if not start <= stop <= start + _MAX_BODY:
                raise ValueError("body too long")
            if len(self._buffer) < stop:
                if headers.get("expect", "").lower() == "100-continue" and not self._continued:
                    self._continued = True
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return None
            body = bytes(self._buffer[start:stop])
        self._continued = False
        del self._buffer[:stop]
        path, _, raw_query = target.partition("?")
        return Request(method.upper(), unquote(path), raw_query, headers, body, self._client, epoch_now())

    def _send(self, request: Request | None, response: Response) -> None:
        if self._transport.is_closing():
            return
        if response.reset:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            return
        close = request is None or request.headers.get("connection", "").lower() == "close"
        close = close or response.cut is not None
        head = _head(response, close=close)
        if response.status == 204 or (request is not None and request.method == "HEAD"):
            self._transport.write(head)
        else:
            self._transport.write(
                head + (response.body if response.cut is None else response.body[: response.cut])
            )
        if close:
            self._transport.close()


def _head(response: Response, *, close: bool) -> bytes:
    try:
        reason = HTTPStatus(response.status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [
        f"HTTP/1.1 {response.status} {reason}",
        "Server: nginx",
        f"Date: {formatdate(usegmt=True)}",
        f"X-Request-Id: {uuid.uuid4()}",
    ]
    if response.content_type and response.status != 204:
        lines.append(f"Content-Type: {response.content_type}")
    lines.extend(f"{name}: {value}" for name, value in response.headers.items())
    if response.status != 204:
        lines.append(f"Content-Length: {len(response.body)}")
    lines.append("Connection: close" if close else "Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _dechunk(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """The body of a chunked request and where it ends, or None while it is incomplete."""
    body = bytearray()
    while True:
        line_end = buffer.find(b"\r\n", start)
        if line_end < 0:
            return None
        size = int(bytes(buffer[start:line_end]).split(b";")[0], 16)
        chunk_end = line_end + 2 + size + 2
        if len(body) + size > _MAX_BODY:
            raise ValueError("body too long")
        if len(buffer) < chunk_end:
            return None
        if size == 0:
            return bytes(body), chunk_end
        body += buffer[line_end + 2 : line_end + 2 + size]
        start = chunk_end
