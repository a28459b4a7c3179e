"""Column types that mean the same on SQLite and PostgreSQL, and the cleaning of text.

- Times are aware and UTC on the way in and on the way out, with microseconds. SQLite keeps them as text of a
  fixed width, so that comparing and sorting work there as well.
- JSON is plain `json`, not `jsonb`: `jsonb` refuses an escaped NUL and forgets the order of keys. It is
  written as ASCII, so that even half of a surrogate pair survives the trip.
- Text columns cannot hold everything a JSON string can: PostgreSQL refuses NUL, UTF-8 has no lone surrogates.
  Both become U+FFFD, on both databases; the raw JSON beside the column keeps the original.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Double, Integer, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

_HALVES = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def clean_text(text: str) -> str:
    """`text` with NUL and lone surrogates replaced by U+FFFD: what a text column really keeps."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def escape_halves(written: str) -> str:
    """JSON that can be encoded: what its texts hold of lone surrogates as escapes, everything else as it is."""
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", written)


class WrittenJSON(str):
    """JSON that is a text already: it is stored as it is."""

    __slots__ = ()


def dump_json(value: object) -> str:
    """JSON as the store writes it: ASCII, keys in the order given, no NaN or Infinity (they are not JSON)."""
    return value if isinstance(value, WrittenJSON) else _encode(value)


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC.

    Raises:
        ValueError: `moment` is naive, so that nobody can know which moment it is.
    """
    if moment.tzinfo is None:
        raise ValueError("A time without a time zone was given to the store; give an aware one (UTC).")
    return moment.astimezone(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC time with microseconds."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """`timestamptz` on PostgreSQL, fixed-width text on SQLite."""
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; SQLite has no zones, so it gets the UTC wall clock."""
        if value is None:
            return None
        moment = as_utc(value)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.astimezone(UTC) if dialect.name == "postgresql" else value.replace(tzinfo=UTC)


class CleanText(TypeDecorator[str]):
    """Text of any length in which what cannot be stored is replaced (see `clean_text`)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Clean on the way in, also in conditions, so that what was saved is found again."""
        return None if value is None else clean_text(value)


class PlainJSON(TypeDecorator[Any]):
    """JSON kept as it was written; Python's None is SQL's NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True


class BigId(TypeDecorator[int]):
    """A 64-bit surrogate key. SQLite numbers rows by itself only for a column of type INTEGER."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """`bigint`, or SQLite's `INTEGER`, which has 64 bits as well."""
        return dialect.type_descriptor(Integer() if dialect.name == "sqlite" else BigInteger())


class EpochSeconds(TypeDecorator[float]):
    """Seconds since 1970 in double precision (a quarter of a microsecond today), for arithmetic."""

    impl = Double
    cache_ok = True
