"""Sends webhooks: HTTP/1.1 with kept connections, plain, to loopback only."""

import asyncio
from collections import defaultdict
from urllib.parse import urlsplit

_Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
NO_ANSWER = 0


class Client:
    """A small HTTP client that follows no redirect and looks at nothing but the status."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Pair]] = defaultdict(list)

    async def post(self, url: str, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, str]:
        """POST a body.

        Args:
            url: http URL on loopback; anything else is not called.
            headers: Headers beside Host and Content-Length.
            body: The body.
            seconds: Time limit for all of it.

        Returns:
            The status, or 0, and why there was none.
        """
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if parts.scheme != "http" or not (host in {"127.0.0.1", "::1"} or host.endswith("localhost")):
                return NO_ANSWER, "not on loopback"
            place = ("127.0.0.1" if host.endswith("localhost") else host, parts.port or 80)
            lines = [f"POST {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1"]
            lines += [f"host: {parts.netloc}", *(f"{name}: {value}" for name, value in headers.items())]
            raw = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
            async with asyncio.timeout(seconds):
                return await self._exchange(place, raw), ""
        except TimeoutError:
            return NO_ANSWER, f"no answer within {seconds:g} s"
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
            return NO_ANSWER, f"{type(error).__name__} instead of an answer"

    async def _exchange(self, place: tuple[str, int], raw: bytes) -> int:
        idle = self._idle[place]
        while idle:
            pair = idle.pop()
            if pair[0].at_eof():
                pair[1].close()
                continue
            try:
                return await self._ask(place, pair, raw)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                    raise
                # The other side had closed the kept connection: once more on a fresh one, as every client does.
        return await self._ask(place, await asyncio.open_connection(*place), raw)

    async def _ask(self, place: tuple[str, int], pair: _Pair, raw: bytes) -> int:
        reader, writer = pair
        kept = False
        try:
            writer.write(raw)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
            fields = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head)
            }
            length = "0" if status in {204, 304} else fields.get("content-length", "")
            if length.isdigit() and fields.get("connection", "").lower() != "close":
                await reader.readexactly(int(length))
                kept = True
        finally:
            if kept:
                self._idle[place].append(pair)
            else:
                writer.close()
        return status

    async def close(self) -> None:
        """Drop the kept connections."""
        for idle in self._idle.values():
            for _, writer in idle:
                writer.close()
        self._idle.clear()
        await asyncio.sleep(0)
