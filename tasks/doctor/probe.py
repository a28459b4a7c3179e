"""Asking an address of our own whether it answers; nothing is sent along.

Names are looked up in threads that nobody waits for at the end: a resolver may take half a minute to say no.
"""

import asyncio
import http.client
import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

_MOST = 4096
_SECONDS = 4.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Probed:
    """What came back: the status and the JSON, or why nothing did."""

    status: int | None = None
    body: Any = None
    error: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


async def probe(url: str, *, seconds: float = _SECONDS) -> Probed:
    """GET an address once; no redirect is followed.

    Args:
        url: http or https.
        seconds: how long it may take.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _aside(lambda: _probe(url, seconds))
    except TimeoutError:
        return Probed(error="no answer in time")


async def _aside(work: Callable[[], _T]) -> _T:
    """Work that blocks, in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(set_it: Callable[[Any], None], value: object) -> None:
        if not done.done():
            set_it(value)

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            what: tuple[Callable[[Any], None], object] = (done.set_exception, error)
        else:
            what = (done.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, *what)

    threading.Thread(target=run, daemon=True).start()
    return await done


def _probe(url: str, seconds: float) -> Probed:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    try:
        connection.request("GET", parts.path or "/", headers={"User-Agent": "kommo-data-plane/0.1 (doctor)"})
        answer = connection.getresponse()
        text = answer.read(_MOST)
        headers = {name.lower(): value for name, value in answer.getheaders()}
        try:
            return Probed(answer.status, json.loads(text), headers=headers)
        except ValueError:
            return Probed(answer.status, headers=headers)
    except (OSError, http.client.HTTPException) as error:
        return Probed(error=type(error).__name__)
    finally:
        connection.close()


async def addresses_of(host: str) -> list[str]:
    """The addresses behind a name; empty if it has none."""
    try:
        async with asyncio.timeout(_SECONDS):
            found = await _aside(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError:  # TimeoutError is one
        return []
    return sorted({str(one[4][0]) for one in found})


def is_private(address: str, *, loopback_is_fine: bool = False) -> bool:
    """Whether nobody outside can reach it; this machine's own is fine where the sandbox stands in."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return not found.is_global and not (loopback_is_fine and found.is_loopback)
