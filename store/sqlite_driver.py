"""How SQLite is spoken to: aiosqlite, a thread for each connection, with one way there and back for each statement.

aiosqlite goes to its thread and back for each step: making a cursor, executing, fetching, closing. SQLAlchemy takes all
four steps for every statement, and most statements cost less than one such way (about 60 microseconds on an idle
machine, more on a busy one). So here one way does all of it, unless there are more rows than it brings back.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import aiosqlite

# A stream is read in portions of about this size anyway; nearly all other answers are shorter.
_ROWS_AT_ONCE = 256


def connect(database: str, **arguments: Any) -> aiosqlite.Connection:
    """A connection for SQLAlchemy's `async_creator_fn`; the arguments are those of `sqlite3.connect`."""
    connection = _Thread(
        partial(sqlite3.connect, database, factory=_Connection, **arguments), iter_chunk_size=64
    )
    # As SQLAlchemy does: what is not closed must not keep the process alive.
    connection._thread.daemon = True
    return connection


class _Connection(sqlite3.Connection):
    """Closing it ends its transaction.

    SQLite keeps a closed connection, and with it the one write lock, for as long as somebody holds one of its
    statements: after a cancellation that is the traceback, until the garbage collector finds it.
    """

    def close(self) -> None:
        """Roll back what was not committed, then close."""
        with contextlib.suppress(sqlite3.Error):
            self.rollback()
        super().close()


class _Thread(aiosqlite.Connection):
    """Its cursors go to the thread once for each statement, and the thread is asked to stop once.

    aiosqlite asks at the end of `close`, SQLAlchemy asks when `close` was cancelled because the file was locked for too
    long. Whoever asks second asks a thread that is gone, and waits for its answer for ever, and with it the process.
    """

    _asked = False
    _answer: "asyncio.Future[Any] | None" = None

    def stop(self) -> "asyncio.Future[Any] | None":
        """Ask the thread to stop, or give the answer that is under way already."""
        if not self._asked:
            self._asked = True
            self._answer = super().stop()
        return None if self._answer is None or self._answer.cancelled() else self._answer

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - the function's
        """What the function gives, run in the thread."""
        return await self._execute(function, *arguments)  # type: ignore[no-untyped-call]  # aiosqlite's

    def cursor(self) -> "_Cursor":  # type: ignore[override]  # SQLAlchemy enters it, as it does aiosqlite's promise
        """A cursor; nothing is asked of the thread for it."""
        return _Cursor(self)


class _Answer(NamedTuple):
    """What a statement came to.

    Attributes:
        description: the columns, None if it has no rows to give.
        rowcount: as the driver says it.
        lastrowid: as the driver says it.
        rows: the first ones.
        more: where further ones are to be had; None if there are none.
    """

    description: Any
    rowcount: int
    lastrowid: int | None
    rows: list[Any]
    more: sqlite3.Cursor | None


def _executed(
    connection: sqlite3.Connection, how: Callable[..., Any], sql: str, parameters: Iterable[Any]
) -> _Answer:
    """In the thread: execute, and fetch as many rows as come in one portion."""
    cursor = connection.cursor()
    how(cursor, sql, parameters)
    rows = cursor.fetchmany(_ROWS_AT_ONCE) if cursor.description else []
    more = cursor if len(rows) == _ROWS_AT_ONCE else None
    # Only now: what a statement with RETURNING has changed is counted when its rows have been fetched.
    return _Answer(cursor.description, cursor.rowcount, cursor.lastrowid, rows, more)


_NOTHING = _Answer(None, -1, None, [], None)


class _Cursor:
    """What SQLAlchemy asks of an asynchronous cursor."""

    arraysize = 1

    def __init__(self, thread: _Thread) -> None:
        self._thread = thread
        self._answer = _NOTHING
        self._given = 0

    async def __aenter__(self) -> Self:
        return self

    @property
    def description(self) -> Any:  # noqa: ANN401 - the driver's
        return self._answer.description

    @property
    def rowcount(self) -> int:
        more = self._answer.more
        return self._answer.rowcount if more is None else more.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._answer.lastrowid

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> Self:
        """Execute a statement, and bring its first rows."""
        return await self._execute(sqlite3.Cursor.execute, sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Any]) -> Self:
        """Execute a statement once for each set of parameters."""
        return await self._execute(sqlite3.Cursor.executemany, sql, parameters)

    async def _execute(self, how: Callable[..., Any], sql: str, parameters: Iterable[Any]) -> Self:
        await self.close()
        self._answer = await self._thread.run(_executed, self._thread._conn, how, sql, parameters)
        return self

    async def fetchone(self) -> Any:  # noqa: ANN401 - a row
        """The next row, None after the last."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """So many rows, fewer at the end."""
        size = self.arraysize if size is None else size
        rows = self._brought(size)
        if len(rows) < size and self._answer.more is not None:
            rows += await self._thread.run(self._answer.more.fetchmany, size - len(rows))
        return rows

    async def fetchall(self) -> Sequence[Any]:
        """All rows that have not been given yet."""
        rows = self._brought(len(self._answer.rows))
        if self._answer.more is not None:
            rows += await self._thread.run(self._answer.more.fetchall)
        return rows

    def _brought(self, size: int) -> list[Any]:
        """Of the rows that came with the answer, so many that have not been given yet."""
        rows = self._answer.rows[self._given : self._given + size]
        self._given += len(rows)
        return rows

    async def __aiter__(self) -> AsyncIterator[Any]:
        while rows := await self.fetchmany(_ROWS_AT_ONCE):
            for row in rows:
                yield row

    async def close(self) -> None:
        """Let go of what has not been fetched; what the statement came to can be asked for all the same."""
        more = self._answer.more
        self._answer = self._answer._replace(rowcount=self.rowcount, rows=[], more=None)
        self._given = 0
        if more is not None:
            await self._thread.run(more.close)
