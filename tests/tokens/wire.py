"""A wire that can be cut: a small TCP proxy between a process and a server, and what corresponds for SQLite's file."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class Wire:
    """Passes bytes on to a server until it is cut.

    Args:
        host: The server's host.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._there = host, port
        self._door: asyncio.Server | None = None
        self._silent = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self.port = 0

    async def mend(self) -> None:
        """Open the door, at the same port each time. What was passed in silence is lost, as after a real outage."""
        self._break_off()
        self._silent.clear()
        if self._door is None:
            self._door = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
            self.port = self._door.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Nobody is there any more: connections break off, new ones are refused."""
        if self._door is not None:
            self._door.close()
            self._door = None
        self._break_off()

    async def fall_silent(self) -> None:
        """Everything is taken and nothing comes back."""
        self._silent.set()

    async def close(self) -> None:
        await self.refuse()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def _break_off(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        if self._silent.is_set():
            return
        try:
            there = await asyncio.open_connection(*self._there)
            self._open.add(there[1])
            for one, other in ((reader, there[1]), (there[0], writer)):
                task = asyncio.create_task(self._pump(one, other))
                self._passing.add(task)
                task.add_done_callback(self._passing.discard)
        except OSError:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self._silent.is_set():
                    writer.write(data)
                    await writer.drain()
        self._open.discard(writer)
        writer.close()


@asynccontextmanager
async def wire_to(host: str, port: int) -> AsyncIterator[Wire]:
    """A wire for as long as the block lasts."""
    wire = Wire(host, port)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.close()


class FileLock:
    """What corresponds to a cut wire for SQLite: another connection holds the file's write lock.

    Args:
        file: The database.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: sqlite3.Connection | None = None

    async def refuse(self) -> None:
        self._held = sqlite3.connect(self._file, timeout=10, isolation_level=None)
        self._held.execute("BEGIN EXCLUSIVE")

    async def fall_silent(self) -> None:
        await self.refuse()

    async def mend(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
