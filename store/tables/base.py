"""What the tables have in common: one metadata with fixed names, the column helpers, the version mixin."""

from datetime import datetime
from typing import Any, ClassVar, TypeAlias, cast

from sqlalchemy import BigInteger, Index, MetaData, Table
from sqlalchemy import text as sql
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from store.types import BigId, CleanText, EpochSeconds, PlainJSON, UTCDateTime

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)
# What SQLModel's `Field` gives: it stands for a value of the column's type.
ColumnDefault: TypeAlias = Any
_registry = registry(metadata=metadata)


class StoreModel(SQLModel, registry=_registry):
    """Base of all tables. It has its own metadata, so that no other SQLModel user's tables get mixed in."""

    metadata: ClassVar[MetaData] = metadata


def table_of(model: type[StoreModel]) -> Table:
    """The SQLAlchemy table of a model: the store's queries are set-based and written in SQLAlchemy Core."""
    return cast("Table", model.__table__)  # type: ignore[attr-defined]  # set by SQLModel's metaclass


def text_column(*, null: bool = False, primary_key: bool = False) -> ColumnDefault:
    """A text column."""
    return Field(sa_type=CleanText, nullable=null, primary_key=primary_key)


def number_column(*, null: bool = True) -> ColumnDefault:
    """A 64-bit number (every id of Kommo's fits, and `sort` has no documented bound)."""
    return Field(sa_type=BigInteger, nullable=null)


def counter_column() -> ColumnDefault:
    """A 64-bit number that begins at 0, also for rows from before the column."""
    return Field(default=0, sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": sql("0")})


def id_column() -> ColumnDefault:
    """A number that the database gives out in rising order."""
    return Field(default=None, sa_type=BigId, primary_key=True)


def flag_column() -> ColumnDefault:
    """A truth value; NULL where Kommo did not say."""
    return Field(default=None, nullable=True)


def time_column(*, null: bool = False) -> ColumnDefault:
    """An aware UTC time."""
    return Field(sa_type=UTCDateTime, nullable=null)


def seconds_column() -> ColumnDefault:
    """Seconds since 1970, for arithmetic."""
    return Field(sa_type=EpochSeconds, nullable=False)


def json_column(*, null: bool = False) -> ColumnDefault:
    """A JSON document."""
    return Field(sa_type=PlainJSON, nullable=null)


class Version(StoreModel):
    """One value of one item over a time: it held from `valid_from` until just before `valid_to`.

    `valid_to` is NULL while it still holds. `key` is the item's natural key within (org, kind).
    `run_id` is the run that found the value, `closed_run_id` the one that found it gone; neither is a foreign
    key, so that old runs may be removed while the history stays.
    """

    id: int | None = id_column()
    org: str = text_column()
    kind: str = text_column()
    key: str = text_column()
    digest: str = text_column()
    valid_from: datetime = time_column()
    valid_to: datetime | None = time_column(null=True)
    run_id: str = text_column()
    closed_run_id: str | None = text_column(null=True)
    raw: Any = json_column()


VERSION_COLUMNS = frozenset(
    ("id", "org", "kind", "key", "digest", "valid_from", "valid_to", "run_id", "closed_run_id", "raw")
)


def version_indexes(table: str) -> tuple[Index, ...]:
    """Indexes of a version table: one current value per item; values that began, or ended, in a time."""
    current, ended = sql("valid_to IS NULL"), sql("valid_to IS NOT NULL")
    return (
        Index(
            f"uq_{table}_current",
            *("org", "kind", "key"),
            unique=True,
            postgresql_where=current,
            sqlite_where=current,
        ),
        Index(f"ix_{table}_began", "org", "kind", "valid_from"),
        Index(f"ix_{table}_ended", "org", "kind", "valid_to", postgresql_where=ended, sqlite_where=ended),
    )
