"""What the intake is measured against: uvicorn, one INSERT and its commit for each request, and nothing else.

`python -m tests.benchmarks.intake.bare URL SCHEMA`; says its address on standard output.
"""

import asyncio
import json
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiosqlite
import asyncpg
import uvicorn

_Insert = Callable[[bytes], Awaitable[None]]
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"17")]


async def _postgres(url: str, schema: str) -> _Insert:
    address = url.replace("+asyncpg", "")
    pool = await asyncpg.create_pool(address, min_size=10, max_size=10)
    await pool.execute(f'CREATE TABLE IF NOT EXISTS "{schema}".bare (id bigserial PRIMARY KEY, body bytea)')
    statement = f'INSERT INTO "{schema}".bare (body) VALUES ($1)'  # noqa: S608 - a name of our own

    async def insert(body: bytes) -> None:
        await pool.execute(statement, body)

    return insert


async def _sqlite(url: str) -> _Insert:
    connection = await aiosqlite.connect(url.rpartition("://")[2].removeprefix("/"), isolation_level=None)
    # As durable as the intake's own commit.
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    await connection.execute("CREATE TABLE IF NOT EXISTS bare (id INTEGER PRIMARY KEY, body BLOB)")

    async def insert(body: bytes) -> None:
        await connection.execute("INSERT INTO bare (body) VALUES (?)", (sqlite3.Binary(body),))

    return insert


class App:
    """The endpoint."""

    def __init__(self, insert: _Insert) -> None:
        self._insert = insert

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await self._insert(body)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b'{"received":true}'})


async def main(url: str, schema: str) -> None:
    insert = await (_sqlite(url) if url.startswith("sqlite") else _postgres(url, schema))
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        config = uvicorn.Config(
            App(insert), log_config=None, access_log=False, lifespan="off", server_header=False
        )
        print(json.dumps({"url": f"http://127.0.0.1:{listening.getsockname()[1]}"}), flush=True)
        await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
