"""Our own door to the product: one signed POST, and what came back.

Beside `kommo.transport` the only module that imports httpx (docs/decisions/2026-11-25-outbox-delivery.md says why):
that one speaks to Kommo's hosts and to no other, this one to the product's address and to no other.

What it promises: no redirect is followed, no cookie is kept, an attempt has an end in time, and of an answer nothing is
kept but its status and `Retry-After`.
"""

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self

import httpx

from tasks.endpoint import Endpoint
from tasks.errors import EventsSetupError

TIMEOUT = 10.0
"""Seconds for one attempt, from the connection to the end of the answer."""
_CONNECT = 5.0
_IDLE = 4.0  # seconds that an unused connection is kept: Node's servers end theirs after five
_MOST_READ = 64 * 1024  # of an answer; the connection of one that says more is not used again
_LONGEST_READ = 1.0  # likewise of one that takes longer to say it
_USER_AGENT = "kommo-data-plane/0.1 (events; httpx)"


class Outcome(StrEnum):
    """How far an attempt came."""

    ANSWERED = "answered"
    TIMEOUT = "timeout"
    BROKEN = "broken"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Posted:
    """What came of one attempt.

    Attributes:
        outcome: How far it came.
        status: HTTP status of the answer.
        retry_after: Seconds for which the product asks not to be called.
    """

    outcome: Outcome
    status: int | None = None
    retry_after: float | None = None


class Poster:
    """Sends to one address over kept connections, as many as are asked for at a time; an async context manager.

    Args:
        endpoint: Where to.
        timeout: Seconds for one attempt.
        now: The present time, for a `Retry-After` that is a date.

    Raises:
        EventsSetupError: The address has a host that cannot be.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float = TIMEOUT,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._now = now
        # httpx reports each address with its query at INFO, and the query may hold a key.
        noisy = logging.getLogger("httpx")
        if noisy.level == logging.NOTSET:
            noisy.setLevel(logging.WARNING)
        self._url = _url(endpoint)
        if self._url.host.endswith("localhost"):
            # Not every system knows *.localhost, and no resolver should be asked about it.
            self._url = self._url.copy_with(host="127.0.0.1")
        self._free: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []

    def __repr__(self) -> str:
        return f"Poster({self._endpoint.host!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(one.aclose() for one in self._all))

    async def post(self, headers: Mapping[str, str], body: bytes) -> Posted:
        """Send one event once; what went wrong is in the answer.

        Args:
            headers: Content type and signature.
            body: Byte for byte.
        """
        client = self._free.pop() if self._free else self._new_client()
        answered: Posted | None = None
        try:
            async with asyncio.timeout(self._timeout):
                request = client.build_request("POST", self._url, headers=dict(headers), content=body)
                response = await client.send(request, stream=True)
                # The status is all that counts, whatever becomes of the rest.
                asked = self._retry_after(response.headers.get("retry-after"))
                answered = Posted(Outcome.ANSWERED, response.status_code, asked)
                await _drain(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError):
            return Posted(Outcome.UNREACHABLE)
        except (httpx.TimeoutException, TimeoutError):
            return answered or Posted(Outcome.TIMEOUT)
        except (httpx.HTTPError, OSError):
            return answered or Posted(Outcome.BROKEN)
        finally:
            self._free.append(client)
        return answered

    def _new_client(self) -> httpx.AsyncClient:
        """A client with one connection: a pool looks at all of its connections for each request, twice."""
        client = httpx.AsyncClient(
            verify=_tls(),
            timeout=httpx.Timeout(self._timeout, connect=min(_CONNECT, self._timeout), pool=None),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE),
            headers={"User-Agent": _USER_AGENT, "Accept": "*/*", "Host": self._endpoint.host},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            mounts={"all://127.0.0.1": None, "all://[::1]": None},
        )
        self._all.append(client)
        return client

    def _retry_after(self, text: str | None) -> float | None:
        if not text:
            return None
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            return max(0.0, (parsedate_to_datetime(text) - self._now()).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return None


def _url(endpoint: Endpoint) -> httpx.URL:
    with contextlib.suppress(httpx.InvalidURL, ValueError):
        url = httpx.URL(endpoint.url.get_secret_value())
        if url.host:  # reading it may show that it cannot be, too
            return url
    # Outside the handler: the error of the layer below may repeat the address.
    raise EventsSetupError(
        "KOMMO_EVENTS_URL cannot be used: its host is no name that there can be. Nothing was sent."
    )


async def _drain(response: httpx.Response) -> None:
    """Read an answer to its end, so that its connection can be used again; give it up if that takes too much."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_READ):
                size = 0
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > _MOST_READ:
                        break
    finally:
        await response.aclose()


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all: loading the certificates takes as long as many requests."""
    return httpx.create_ssl_context()
