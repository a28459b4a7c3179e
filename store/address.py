"""Where the database is: from the URL that a person wrote to the one that the async drivers want.

What people paste comes from their host's page and is meant for other drivers (`postgres://`,
`sslmode=require`, `pgbouncer=true`); it is understood here, once. A URL holds a password, so no message
quotes one.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from store.errors import DatabaseAddressError

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_POSTGRES = frozenset(("postgres", "postgresql", "postgresql+asyncpg"))
_SQLITE = frozenset(("sqlite", "sqlite+aiosqlite"))
# What asyncpg takes by itself. Anything else would become a TypeError somewhere inside the driver.
_PASSED_ON = frozenset(("ssl", "direct_tls", "target_session_attrs", "krbsrvname"))


@dataclass(frozen=True)
class Address:
    """A usable place for the tables.

    Attributes:
        url: for the async driver; has the password in it, hence not in the repr.
        schema: PostgreSQL's schema, None on SQLite.
        file: SQLite's file, None on PostgreSQL.
        pooled: a pooler such as pgbouncer stands between, so prepared statements do not outlive a
            transaction.
    """

    url: URL = field(repr=False)
    schema: str | None
    file: Path | None
    pooled: bool = False

    @property
    def shown(self) -> str:
        """The place for people, without password and options."""
        return str(self.file) if self.file else f"{self.url.host or 'localhost'}/{self.url.database or ''}"


def parse_address(url: str, schema: str = "kommo") -> Address:
    """Understand a database URL.

    Args:
        url: `sqlite:///path` (also `~`), or `postgresql://…`, `postgres://…`, with or without an async
            driver's name.
        schema: PostgreSQL's schema for all tables; of no use on SQLite.

    Raises:
        DatabaseAddressError: the URL is of no kind we know, or has an option that we do not.
    """
    try:
        parsed = make_url(url.strip())
    except (ArgumentError, ValueError):
        raise DatabaseAddressError(
            "The database URL cannot be read. Write it as sqlite:///path/to/file.db or "
            "postgresql://user:password@host:5432/database (escape special characters of the password)."
        ) from None
    if parsed.drivername in _SQLITE:
        return _sqlite(parsed)
    if parsed.drivername in _POSTGRES:
        return _postgres(parsed, schema)
    raise DatabaseAddressError(
        f'The database URL begins with "{parsed.drivername}", which this project does not speak. '
        "Use sqlite:///… or postgresql://…"
    )


def _sqlite(url: URL) -> Address:
    name = url.database or ""
    if not name or name == ":memory:" or name.startswith("file:") or url.query:
        raise DatabaseAddressError(
            "The SQLite URL must name a file and have no options (sqlite:///path/to/file.db): "
            "several processes share the database, which one in memory cannot do."
        )
    file = Path(name).expanduser().absolute()
    return Address(URL.create("sqlite+aiosqlite", database=str(file)), schema=None, file=file)


def _postgres(url: URL, schema: str) -> Address:
    if not _SCHEMA.fullmatch(schema):
        raise DatabaseAddressError(
            "The schema's name must be lower-case letters, digits and underscores (at most 63), "
            "and not start with a digit."
        )
    options = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    pooled = options.pop("pgbouncer", "false").lower() in {"true", "1", "yes"}
    if "sslmode" in options:
        options.setdefault("ssl", options.pop("sslmode"))
        options.pop("sslmode", None)
    for name in options:
        if name not in _PASSED_ON:
            raise DatabaseAddressError(
                f'The database URL has the option "{name}", which the PostgreSQL driver does not know. '
                "Take it out; sslmode (or ssl) and pgbouncer are understood."
            )
    return Address(url.set(drivername="postgresql+asyncpg", query=options), schema, None, pooled)
