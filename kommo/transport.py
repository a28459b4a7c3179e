"""The one place that speaks HTTP, and the only importer of httpx: swap the HTTP stack here and nowhere else.

Facts: kommo-api.md §2.1 (hosts, User-Agent, timeouts of the official client: connect 5 s, total 20 s [C
PHP]).

What it promises: the token goes to the given host only (R4: no redirect is followed, no cookie is kept,
``*.localhost`` is this machine whatever a resolver says); an answer has an end in time and size; an error
carries neither headers nor body.
"""

import asyncio
import functools
import json as json_format
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from kommo.errors import ErrorKind, KommoError
from kommo.hosts import Host

CONNECT_TIMEOUT = 5.0
"""Seconds for the connection to be made [C PHP]."""
TOTAL_TIMEOUT = 20.0
"""Seconds from the first byte sent to the last byte received [C PHP]."""
LARGEST_BODY = 32 * 1024 * 1024
"""Bytes of an answer, unpacked; a page of 250 leads is about half of one million."""
USER_AGENT = "kommo-data-plane/0.1 (open-source data plane for Kommo; httpx)"

_IDLE = 30.0  # seconds that an unused connection is kept; shorter than what gateways usually allow (60 s)
_NOT_IN_AN_ID = re.compile(r"[^\w.:\-]")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]*")

Json = dict[str, Any] | list[Any] | None
"""A body to send; its values may be ``SecretStr``."""
Gate = Callable[[], Awaitable[None]]
"""Awaited when the connection stands and the next thing would be the first byte of the request."""
_Trace = Callable[[str, dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it came.

    Attributes:
        status: HTTP status.
        headers: Headers with their names in lower case.
        body: The body, unpacked.
        request_id: ``X-Request-Id`` [C PHP].
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    request_id: str | None


class _Secrets(httpx.Auth):
    """Opens secrets at the last moment, so that no variable of ours ever holds one in the clear."""

    def __init__(self, bearer: SecretStr | None, headers: Mapping[str, SecretStr]) -> None:
        self._bearer = bearer
        self._headers = headers

    def auth_flow(self, request: httpx.Request) -> Any:  # noqa: ANN401  httpx's generator type
        if self._bearer is not None:
            request.headers["Authorization"] = f"Bearer {self._bearer.get_secret_value()}"
        for name, value in self._headers.items():
            request.headers[name] = value.get_secret_value()
        yield request


@dataclass(slots=True)
class _Progress:
    """How far one request has come; it decides whether the outcome of a write is known."""

    sent: bool = False
    answered: bool = False
    refused: Exception | None = None


class Transport:
    """Sends single requests over kept connections (HTTP/1.1); an async context manager, or ``aclose`` it.

    It may be shared by the clients of many accounts. Proxies of the environment are used, except for this
    machine.

    Args:
        connect_timeout: Seconds for the connection to be made.
        total_timeout: Seconds from the first byte sent to the last one received.
        largest_body: Bytes of an answer that are accepted.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        total_timeout: float = TOTAL_TIMEOUT,
        largest_body: int = LARGEST_BODY,
    ) -> None:
        self._total_timeout = total_timeout
        self._largest_body = largest_body
        # httpx reports each URL with its query at INFO; a query may hold a customer's phone number.
        noisy = logging.getLogger("httpx")
        if noisy.level == logging.NOTSET:
            noisy.setLevel(logging.WARNING)
        self._http = httpx.AsyncClient(
            # No limit for the pool: a connection is held while its request waits for a turn, which is no fault.
            verify=_tls(),
            timeout=httpx.Timeout(total_timeout, connect=connect_timeout, pool=None),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=_IDLE),
            headers={"User-Agent": USER_AGENT, "Accept": "application/hal+json, application/json"},
            # A jar that takes nothing: a cookie of one account must not reach another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            mounts={"all://127.0.0.1": None, "all://[::1]": None},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(
        self,
        method: str,
        host: Host,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        json: Json = None,
        bearer: SecretStr | None = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        gate: Gate | None = None,
    ) -> RawAnswer:
        """Send one request once and read its answer, whatever its status.

        Args:
            method: HTTP method.
            host: Where to send it.
            path: Absolute path on the host.
            query: Pairs of the query, in order, repeated names allowed.
            json: Body, or ``None`` for none; secrets in it are opened when it is built.
            bearer: Access token.
            headers: More headers; they may not name a host, an authorization or a cookie.
            gate: Awaited right before the first byte, when the connection stands. Waiting in it does not
                count for the timeout; what it raises goes through, and nothing was sent then.

        Raises:
            KommoError: ``unreachable``, ``timeout``, ``malformed`` (cut off), ``too_large``, or ``unauthorized``
                for a token that cannot be one.
                ``outcome_unknown`` is set if the method writes and the request may have reached Kommo.
            ValueError: The path or a header is not one that may be given.
        """
        plain, secrets = _headers(host, headers or {}, with_body=json is not None)
        if not all(map(_fits_a_header, [*secrets.values(), *([bearer] if bearer else [])])):
            raise KommoError(
                ErrorKind.UNAUTHORIZED,
                method=method,
                path=path,
                host=host.name,
                detail="it holds characters that no token has; nothing was sent",
            )
        request = self._http.build_request(
            method,
            _url(host, path),
            params=httpx.QueryParams(list(query)) if query else None,
            content=None if json is None else _encoded(json),
            headers=plain,
        )
        progress = _Progress()
        kind, detail = ErrorKind.UNREACHABLE, None
        try:
            async with asyncio.timeout(None) as limit:
                request.extensions["trace"] = self._traced(progress, limit, gate)
                try:
                    return await self._exchange(request, _Secrets(bearer, secrets), progress)
                finally:
                    # httpx's response is in a circle with its request, and by this with the caller's frames: every
                    # answer would stay in memory until the collector looks for circles.
                    del request.extensions["trace"]
        except (httpx.TimeoutException, TimeoutError):
            kind = ErrorKind.TIMEOUT
        except _TooLargeError:
            kind, detail = ErrorKind.TOO_LARGE, f"the limit is {self._largest_body} bytes"
        except (httpx.HTTPError, OSError):
            # Not a broken connection but a broken answer, once its head was there.
            if progress.answered:
                kind, detail = ErrorKind.MALFORMED, "it broke off before its end"
        # Outside the handlers: httpx's errors hold the request with its headers and must not travel along.
        if progress.refused is not None:
            raise progress.refused
        unknown = progress.sent and method.upper() not in {"GET", "HEAD"}
        raise KommoError(
            kind, method=method, path=path, host=host.name, detail=detail, outcome_unknown=unknown
        )

    def _traced(self, progress: _Progress, limit: asyncio.Timeout, gate: Gate | None) -> _Trace:
        """Follow the steps that httpx reports; the gate is passed in the one before the first byte."""

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
                try:
                    if gate:
                        await gate()
                except Exception as error:
                    progress.refused = error  # an OSError of the budget's database is not one of Kommo's
                    raise
                progress.sent = True
                limit.reschedule(asyncio.get_running_loop().time() + self._total_timeout)

        return trace

    async def _exchange(self, request: httpx.Request, secrets: _Secrets, progress: _Progress) -> RawAnswer:
        response = await self._http.send(request, auth=secrets, stream=True)
        progress.answered = True
        try:
            body = await self._body(response)
        finally:
            await response.aclose()
        request_id = response.headers.get("x-request-id")
        return RawAnswer(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=body,
            request_id=_NOT_IN_AN_ID.sub("_", request_id)[:80] if request_id else None,
        )

    async def _body(self, response: httpx.Response) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > self._largest_body:
                raise _TooLargeError
            chunks.append(chunk)
        return b"".join(chunks)


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all transports: loading the certificates takes as long as several requests."""
    return httpx.create_ssl_context()


def _url(host: Host, path: str) -> httpx.URL:
    if not path.startswith("/") or path.startswith("//") or "?" in path or "#" in path:
        raise ValueError("The path of a request must be absolute, without a host and without a query.")
    url = httpx.URL(host.base_url)
    if host.loopback and url.host.endswith("localhost"):
        # Resolved here: not every system knows *.localhost, and no resolver should be asked about it.
        url = url.copy_with(host="127.0.0.1")
    return url.copy_with(path=path)


def _headers(
    host: Host, given: Mapping[str, str | SecretStr], *, with_body: bool
) -> tuple[dict[str, str], dict[str, SecretStr]]:
    """The headers that anybody may see, and those that only Kommo may."""
    if {name.lower() for name in given} & {"host", "authorization", "cookie"}:
        raise ValueError("A host, an authorization or a cookie may not be given as a header.")
    plain = {"Content-Type": "application/json"} if with_body else {}
    plain |= {name: value for name, value in given.items() if not isinstance(value, SecretStr)}
    secrets = {name: value for name, value in given.items() if isinstance(value, SecretStr)}
    return plain | {"Host": host.name}, secrets


def _fits_a_header(secret: SecretStr) -> bool:
    """Checked here, because the errors of the layers below would repeat the value."""
    return _HEADER_VALUE.fullmatch(secret.get_secret_value()) is not None


def _encoded(json: Json) -> bytes:
    encode = functools.partial(json_format.dumps, separators=(",", ":"), allow_nan=False, default=_opened)
    try:
        return encode(json, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        pass  # half a surrogate pair, from somewhere on the web; the error would hold the whole body
    return encode(json).encode()


def _opened(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    raise TypeError(f"A {type(value).__name__} cannot be sent as JSON.")


class _TooLargeError(Exception):
    """The answer is larger than the limit."""
