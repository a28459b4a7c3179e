"""The database: opening it, its transactions, and the state of its tables.

One `Database` belongs to one event loop: open it inside the flow or the request's application, never at
module level.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TypeGuard

import asyncpg
from sqlalchemy import Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from store import migrate
from store.address import Address, parse_address
from store.engine import DURABLE, READ_ONLY, make_engine, prepare_file
from store.errors import (
    DatabaseBusyError,
    DatabaseForbiddenError,
    DatabaseUnavailableError,
    SchemaBehindError,
    SchemaUnknownError,
    WriteRefusedError,
)
from store.migrate import SchemaState

__all__ = ["Database", "SchemaState", "insert_on"]

_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidSchemaNameError,
)
_OUTAGES = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ConnectionDoesNotExistError,
)
# Rows that PostgreSQL or its driver cannot take; SQLAlchemy has no name of its own for some of these.
_ROW_REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
# What a driver may raise before SQLAlchemy wraps its errors. Inside a transaction's block the same types may
# come from the caller's own code, which is none of our business.
_CONNECTING = (OSError, DBAPIError, PoolTimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Database:
    """An open database. Use `Database.open`.

    Attributes:
        engine: the async engine, for those who know what they do.
        address: where it is; without secrets in its repr.
    """

    def __init__(self, address: Address, engine: AsyncEngine, *, durable: bool = False) -> None:
        self.address = address
        self.engine = engine
        # SQLite lets whoever waits for its write lock sleep and look again, up to 0.1 s each time; this process's own
        # writers need not, they can stand in a line.
        self._line: asyncio.Lock | None = asyncio.Lock() if address.file else None
        self._durable = durable  # on PostgreSQL: its connections need not be told

    def __repr__(self) -> str:
        return f"Database({self.address.shown!r}, schema={self.address.schema!r})"

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, schema: str = "kommo") -> "AsyncIterator[Database]":
        """Open the database at `url`; connections are made when they are needed.

        Args:
            url: `sqlite:///…` (file and directory are made) or `postgresql://…`.
            schema: PostgreSQL's schema for all tables.

        Raises:
            DatabaseAddressError: the URL cannot be used.
            DatabaseForbiddenError: SQLite's file cannot be made.
        """
        address = parse_address(url, schema)
        if address.file:
            await asyncio.to_thread(prepare_file, address.file)
        engine = make_engine(address)
        try:
            yield cls(address, engine)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def for_another_loop(self) -> "AsyncIterator[Database]":
        """The same database, for the event loop of another thread, which does nothing but write durably."""
        engine = make_engine(self.address, durable=True)
        try:
            yield Database(self.address, engine, durable=not self.address.pooled)
        finally:
            await engine.dispose()

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @asynccontextmanager
    async def begin(self, *, durable: bool = False) -> AsyncIterator[AsyncConnection]:
        """A writing transaction: committed at the end of the block, rolled back by an exception.

        On SQLite it holds the database's only write lock from its beginning. On PostgreSQL it is READ
        COMMITTED: what is selected after a row lock is what the previous holder committed.

        Args:
            durable: once committed it is on the disk, whatever the database does for speed elsewhere.

        Raises:
            DatabaseUnavailableError: the database does not answer.
            DatabaseForbiddenError: it refuses us.
        """
        async with self._line or nullcontext(), self._connected() as connection:
            with self._own_errors(DBAPIError):
                if durable:
                    await connection.execution_options(**{DURABLE: True})
                async with connection.begin():
                    if durable and self.dialect == "postgresql" and not self._durable:
                        await connection.execute(text("SET LOCAL synchronous_commit TO on"))
                    yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A reading transaction: all of its statements see one and the same moment.

        Raises:
            DatabaseUnavailableError: the database does not answer.
            DatabaseForbiddenError: it refuses us.
        """
        async with self._connected() as connection:
            with self._own_errors(DBAPIError):
                if self.dialect == "postgresql":
                    await connection.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                else:
                    await connection.execution_options(**{READ_ONLY: True})
                async with connection.begin():
                    yield connection

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT with the dialect's `on_conflict_do_…`, which both databases write alike."""
        return insert_of(self.dialect, table)

    async def state(self) -> SchemaState:
        """How the tables stand against this version's migrations."""
        async with self.read() as connection:
            return await migrate.read_state(connection, self.address.schema)

    async def upgrade(self, revision: str = "head") -> None:
        """Migrate up to `revision`. Any number of processes may do it at once; one does it."""
        with self._own_errors(*_CONNECTING):
            await migrate.run(self.address, "upgrade", revision)

    async def downgrade(self, revision: str) -> None:
        """Migrate down to `revision` ("base" removes all tables and what is in them)."""
        with self._own_errors(*_CONNECTING):
            await migrate.run(self.address, "downgrade", revision)

    async def ensure(self) -> None:
        """Make sure that the tables are those of this version.

        An empty database gets its tables; an embedded SQLite file is brought up to date. A database that
        somebody configured is never migrated behind that person's back.

        Raises:
            SchemaBehindError: a configured database needs `kommo db upgrade`.
            SchemaUnknownError: a newer version of this project has been here.
        """
        state = await self.state()
        if state.name == "unknown":
            raise SchemaUnknownError(
                f"The tables in {self.address.shown} were made by a newer version of this project "
                f"(revision {state.revision}). Update this installation; do not downgrade the database."
            )
        if state.name == "behind" and self.address.file is None:
            raise SchemaBehindError(
                f"The tables in {self.address.shown} are of an older version (revision {state.revision}). "
                "Stop what runs, back the database up and run `kommo db upgrade`."
            )
        if state.name != "current":
            await self.upgrade()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        with self._own_errors(*_CONNECTING):
            connection = await self.engine.connect()
        try:
            yield connection
        finally:
            await connection.close()

    @contextmanager
    def _own_errors(self, *kinds: type[Exception]) -> Iterator[None]:
        """Turn what the drivers say about reachability and rights into our sentences; bugs stay bugs."""
        try:
            yield
        except kinds as error:
            if _is_refusal(error):
                # Not chained: PostgreSQL's message shows the refused row, and with it a customer's data.
                raise _refused(error) from None
            own = self._translate(error)
            if own is None:
                raise
            raise own from error

    def _translate(self, error: BaseException) -> Exception | None:
        causes = _causes(error)
        if isinstance(error, PoolTimeoutError):
            return DatabaseBusyError(
                "This process has used all its connections to the database for half a minute. Nothing was written; "
                "try again, with fewer things at a time or on a machine that is less busy."
            )
        if any(isinstance(cause, sqlite3.OperationalError) for cause in causes):
            return self._translate_sqlite(causes)
        if any(isinstance(cause, _REFUSALS) for cause in causes):
            return DatabaseForbiddenError(
                f"The database {self.address.shown} refuses this user (password, database or rights). "
                "Whoever runs it must put the URL right or grant the rights on the schema "
                f'"{self.address.schema}".'
            )
        broken = isinstance(error, DBAPIError) and error.connection_invalidated
        if (
            broken
            or isinstance(error, asyncpg.InterfaceError)
            or any(isinstance(cause, _OUTAGES) for cause in causes)
        ):
            return DatabaseUnavailableError(
                f"The database {self.address.shown} does not answer. Nothing was half-written; "
                "check that it runs and can be reached, then try again."
            )
        return None

    def _translate_sqlite(self, causes: list[BaseException]) -> Exception | None:
        codes = {getattr(cause, "sqlite_errorcode", 0) & 0xFF for cause in causes}
        if codes & {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return DatabaseBusyError(
                f"Another process keeps the database {self.address.shown} locked. "
                "Nothing was written; try again."
            )
        if codes & {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
            return DatabaseForbiddenError(
                f"The database file {self.address.shown} cannot be opened for writing. "
                "Give this user the right to the file and its directory."
            )
        if codes & {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            return DatabaseUnavailableError(
                f"The disk under {self.address.shown} is full or faulty. "
                "Nothing was half-written; make room first."
            )
        return None


def insert_on(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Like `Database.insert`, for what is called inside another one's transaction."""
    return insert_of(connection.dialect.name, table)


def insert_of(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Like `Database.insert`, by the dialect's name."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def _is_refusal(error: BaseException) -> TypeGuard[DBAPIError]:
    return isinstance(error, IntegrityError | DataError) or (
        isinstance(error, DBAPIError) and any(isinstance(cause, _ROW_REFUSALS) for cause in _causes(error))
    )


def _refused(error: DBAPIError) -> WriteRefusedError:
    kind = type(error.orig).__name__
    cause: object = getattr(error.orig, "__cause__", None)
    names = (getattr(cause, name, None) for name in ("table_name", "column_name", "constraint_name"))
    where = ", ".join(str(name) for name in names if name)
    return WriteRefusedError(
        f"The database refused a row ({kind}{f': {where}' if where else ''}). That is a fault of this program, "
        "which should have checked it before; nothing was written. Please report it with this sentence."
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.orig if isinstance(error, OperationalError) and error.orig else error.__cause__
    return found
