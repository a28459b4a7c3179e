"""The async engine for each kind of database, and what must hold for every connection of it."""

import contextlib
import os
import sqlite3
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection

from store.address import Address
from store.errors import DatabaseAddressError, DatabaseBusyError, DatabaseForbiddenError
from store.sqlite_driver import connect
from store.types import dump_json

# A save of a very large account holds SQLite's one write lock for seconds; nobody waits this long in
# practice.
BUSY_SECONDS = 30.0
# A process that hangs in the middle of a transaction must not hold its row locks for ever.
_IDLE_IN_TRANSACTION_MS = 60_000
# The execution options by which a transaction says that it only reads, and that it must outlive a power failure.
READ_ONLY = "store_read_only"
DURABLE = "store_durable"
_USED_AT = "store_used_at"
_REST_SECONDS = 1.0


def make_engine(address: Address, *, pool: bool = True, durable: bool = False) -> AsyncEngine:
    """An engine for `address`. SQLite's file must exist (`prepare_file`).

    Args:
        address: the place.
        pool: False for an engine that is used once, from another event loop.
        durable: every transaction of it is on the disk when it is committed, without being told so, and a connection
            is asked whether it lives only if it has not been used for a while: for one who writes all the time, half
            of what goes to and fro is saved. Not behind a pooler, where nothing stays with a connection.
    """
    options: dict[str, Any] = {
        "json_serializer": dump_json,
        "hide_parameters": True,  # an exception must not carry customers' data into a log
        "poolclass": None if pool else NullPool,
    }
    arguments: dict[str, Any]
    if address.file:
        arguments = {
            "timeout": BUSY_SECONDS,
            "async_creator_fn": connect,
        }
        engine = create_async_engine(address.url, connect_args=arguments, **options)
        _listen_sqlite(engine)
        return engine
    arguments = {"timeout": 10}
    if address.pooled:
        # Behind a pooler in transaction mode the next statement may run on another server connection.
        arguments |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__kommo_{uuid.uuid4().hex}__",
        }
    else:
        arguments["server_settings"] = {
            "application_name": "kommo-data-plane",
            "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_MS),
        }
        if durable:
            arguments["server_settings"]["synchronous_commit"] = "on"
    rarely = durable and not address.pooled
    engine = create_async_engine(
        address.url,
        connect_args=arguments,
        pool_pre_ping=pool and not rarely,
        # Not search_path: behind a pooler a session's setting may be another client's.
        execution_options={"schema_translate_map": {None: address.schema}},
        **options,
    )
    if rarely:
        _ping_after_a_rest(engine)
    return engine


def _ping_after_a_rest(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "checkin")
    def _checkin(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def _checkout(
        connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        if time.monotonic() - record.info.get(_USED_AT, time.monotonic()) < _REST_SECONDS:
            return
        dialect = engine.sync_engine.dialect
        try:
            dialect.do_ping(connection)
        except dialect.dbapi.Error as error:  # type: ignore[union-attr]  # a dialect in use has its driver
            raise DisconnectionError from error  # another connection is taken


def _listen_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def _connect(dbapi_connection: DBAPIConnection, _record: object) -> None:
        # The driver must not begin transactions by its own rules: it would not do so for a SELECT, and two
        # SELECTs of one read would then see two different moments.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        # In WAL mode a power failure may cost the newest transactions, but never the database's integrity.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        durable = options.get(DURABLE, False)
        if durable != connection.info.get(
            DURABLE, False
        ):  # remembered with the connection, which is used again
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.info[DURABLE] = durable
        # A writer takes the lock at once: a reader that turns into a writer later may fail at that point.
        connection.exec_driver_sql("BEGIN" if options.get(READ_ONLY, False) else "BEGIN IMMEDIATE")


_MAKING = threading.Lock()


def prepare_file(file: Path) -> None:
    """Make SQLite's file if it is missing (0600, in a directory of 0700), and switch it to WAL.

    Raises:
        DatabaseForbiddenError: the file system does not let us.
        DatabaseAddressError: the file is something else than an SQLite database.
        DatabaseBusyError: other processes held the file for too long.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_file(file)
        _switch_to_wal(file)
    except (OSError, sqlite3.OperationalError) as error:
        raise DatabaseForbiddenError(
            f"The database file {file} cannot be made or written ({error.__class__.__name__}). "
            "Give this user the right to its directory, or name another file."
        ) from error
    except sqlite3.DatabaseError as error:
        raise DatabaseAddressError(
            f"The file {file} is not an SQLite database. Name another file, or move that one away."
        ) from error


def _make_file(file: Path) -> None:
    """Make an empty file of mode 0600, which SQLite gives to -wal and -shm as well; leave an existing one alone.

    An existing file must not even be opened: closing any descriptor of it takes away the POSIX locks that SQLite holds
    for *other* connections of this process, and two writers at once then ruin the database (SQLite's "how to corrupt",
    2.2). The lock keeps a second thread from connecting before the descriptor of a new file is closed.
    """
    with _MAKING, contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _switch_to_wal(file: Path) -> None:
    """Put the file into WAL mode, which it keeps. SQLite does not wait for its lock here, so we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                mode = "locked"
            if mode == "wal":
                return
            if time.monotonic() > deadline:
                raise DatabaseBusyError(
                    f"Other processes keep the database file {file} locked. Try again later."
                )
            time.sleep(0.02)
    finally:
        connection.close()
