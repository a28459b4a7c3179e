"""Alembic, driven from code: without an ini file, from any directory, in any number of processes at once.

Alembic keeps its context in module-wide variables, so a migration runs in a thread of its own, with an event
loop and an engine of its own, one at a time per process. Between processes the lock is PostgreSQL's advisory
lock or SQLite's write lock, held by the same transaction that changes the tables: a migration happens wholly
or not at all.
"""

import asyncio
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from store.address import Address
from store.engine import make_engine

if TYPE_CHECKING:
    from alembic.config import Config

_SCRIPTS = Path(__file__).parent / "migrations"
VERSION_TABLE = "alembic_version"
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class SchemaState:
    """How a database's tables stand.

    Attributes:
        name: `empty` (no tables of ours), `current`, `behind` (can be upgraded) or `unknown` (a revision that
            this version does not have: a newer one made it).
        revision: the database's revision, None when empty.
    """

    name: Literal["empty", "current", "behind", "unknown"]
    revision: str | None


def newest_revision() -> str:
    """The revision that this version's tables have, by the names of the files.

    Nearly always a database has it; then there is nothing to ask Alembic, whose import takes longer than the asking.
    """
    return max(path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*_*.py"))


def _config() -> "Config":
    from alembic.config import Config  # noqa: PLC0415 - see newest_revision

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


async def read_state(connection: AsyncConnection, schema: str | None) -> SchemaState:
    """The state of the tables that `connection` sees."""
    return await connection.run_sync(_read_state, schema)


def _read_state(connection: Connection, schema: str | None) -> SchemaState:
    revision: str | None = None
    if inspect(connection).has_table(VERSION_TABLE, schema=schema):
        place = f'"{schema}".{VERSION_TABLE}' if schema else VERSION_TABLE
        revision = connection.execute(text(f"SELECT version_num FROM {place}")).scalar()  # noqa: S608 - checked name
    if revision is None:
        return SchemaState("empty", None)
    if revision == newest_revision():
        return SchemaState("current", revision)
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see newest_revision

    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return SchemaState("behind" if revision in known else "unknown", revision)


async def run(address: Address, direction: Literal["upgrade", "downgrade"], revision: str) -> None:
    """Migrate the database at `address` to `revision`, in one transaction."""
    await asyncio.to_thread(_run_in_thread, address, direction, revision)


def _run_in_thread(address: Address, direction: Literal["upgrade", "downgrade"], revision: str) -> None:
    with _one_at_a_time:
        asyncio.run(_migrate(address, direction, revision))


async def _migrate(address: Address, direction: Literal["upgrade", "downgrade"], revision: str) -> None:
    engine = make_engine(address, pool=False)
    try:
        async with engine.begin() as connection:
            if address.schema is not None:
                await _lock_and_make_schema(connection, address.schema)
            await connection.run_sync(_command, direction, revision, address.schema)
    finally:
        await engine.dispose()


async def _lock_and_make_schema(connection: AsyncConnection, schema: str) -> None:
    lock = zlib.crc32(f"kommo-data-plane/{schema}".encode())
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
    found = await connection.execute(
        text("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = :schema"), {"schema": schema}
    )
    # Asked first: a user who may not make schemas may still work in one that was made for it.
    if found.first() is None:
        await connection.execute(text(f'CREATE SCHEMA "{schema}"'))


def _command(
    connection: Connection, direction: Literal["upgrade", "downgrade"], revision: str, schema: str | None
) -> None:
    from alembic import command  # noqa: PLC0415 - see newest_revision

    config = _config()
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    (command.upgrade if direction == "upgrade" else command.downgrade)(config, revision)
