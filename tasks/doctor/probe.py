"""Asking an address of our own whether it answers: standard library, a thread, an end in time; nothing is sent along."""

import asyncio
import http.client
import ipaddress
import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_MOST = 4096


@dataclass(frozen=True, slots=True)
class Probed:
    """What came back: the status and the JSON, or why nothing did."""

    status: int | None = None
    body: Any = None
    error: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


async def probe(url: str, *, timeout: float = 4.0) -> Probed:
    """GET an address once; no redirect is followed.

    Args:
        url: http or https.
        timeout: seconds for each step.
    """
    return await asyncio.to_thread(_probe, url, timeout)


def _probe(url: str, timeout: float) -> Probed:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
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
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(one[4][0]) for one in found})


def is_private(address: str) -> bool:
    """Whether nobody outside can reach it."""
    try:
        return not ipaddress.ip_address(address.partition("%")[0]).is_global
    except ValueError:
        return False
