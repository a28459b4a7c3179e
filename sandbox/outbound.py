"""The few requests that Kommo itself makes: widget install and disable hook. Plain HTTP to loopback only."""

import asyncio
from urllib.parse import urlsplit


async def get(url: str, seconds: float, agent: str = "amoCRM-oAuth-client/1.0") -> int | None:
    """GET a URL; the answer's status, or None when there was none in time.

    Args:
        url: http URL on loopback; anything else is not called.
        seconds: Time limit for all of it.
        agent: User-Agent header.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or not (host in {"127.0.0.1", "::1"} or host.endswith("localhost")):
        return None
    try:
        async with asyncio.timeout(seconds):
            address = "127.0.0.1" if host.endswith("localhost") else host
            reader, writer = await asyncio.open_connection(address, parts.port or 80)
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                head = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: {agent}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode("latin-1"))
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
        return int(line.split()[1])
    except (OSError, TimeoutError, IndexError, ValueError):
        return None
