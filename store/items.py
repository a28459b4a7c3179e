"""From what a caller read to what a table takes: checking, cleaning, digests. No SQL here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Boolean
from sqlalchemy.types import TypeEngine

from store.digest import digest_of
from store.errors import InvalidReadError
from store.kinds import Kind, find_kind
from store.types import clean_text

# Both databases index the key together with org and kind; PostgreSQL's index rows hold some 2 700 bytes.
_LONGEST_KEY = 400
_LARGEST = 2**63


@dataclass(frozen=True, slots=True)
class Item:
    """One item as it was read.

    Attributes:
        key: its natural key within org and kind; `Kind.key(columns)` makes it.
        columns: the typed columns by the table's names (`pipeline_id`, not `id`); those left out are NULL.
        raw: Kommo's own object, without the children that are items of their own (a pipeline without its
            statuses, a field without its enums): otherwise a renamed stage would be a change of its pipeline,
            too.
    """

    key: str
    columns: dict[str, Any]
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item that is ready to be compared and written."""

    digest: str
    columns: dict[str, Any]
    raw: dict[str, Any]


def prepare(rows: Mapping[str, Sequence[Item]]) -> dict[str, dict[str, Prepared]]:
    """Check a read and compute its digests: kind → key → item.

    Raises:
        UnknownKindError: a kind does not exist.
        InvalidReadError: two kinds are the same, a key occurs twice, a column does not exist or has the wrong
            type.
    """
    prepared: dict[str, dict[str, Prepared]] = {}
    for name, items in rows.items():
        kind = find_kind(name)
        if kind.name in prepared:
            raise InvalidReadError(f"The read has {kind.name} twice (once by the product's word for it).")
        prepared[kind.name] = _prepare_kind(kind, items)
    return prepared


def _prepare_kind(kind: Kind, items: Sequence[Item]) -> dict[str, Prepared]:
    types = _types(kind)
    template = dict.fromkeys(types) | dict(kind.constants)
    prepared: dict[str, Prepared] = {}
    for item in items:
        key = clean_text(item.key)
        if not 0 < len(key) <= _LONGEST_KEY:
            raise InvalidReadError(
                f"A key among the {kind.name} is empty or longer than {_LONGEST_KEY} characters. "
                "The code that read them must make keys with Kind.key()."
            )
        if key in prepared:
            raise InvalidReadError(
                f"The read has the key {key!r} twice among the {kind.name}. The code that read them must remove "
                "repeats, or read again: a listing that shifted between pages is not a complete read."
            )
        columns = {**template, **item.columns}
        for name, value in columns.items():
            if name not in types or not _fits(value, *types[name]):
                raise InvalidReadError(
                    f'The column "{name}" of {key!r} among the {kind.name} does not exist or has '
                    f"a value of the wrong type ({type(value).__name__}). The code that read it must convert it."
                )
            if isinstance(value, str):
                columns[name] = clean_text(value)
        try:
            digest = digest_of(columns, item.raw)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidReadError(
                f"The raw object of {key!r} among the {kind.name} is not JSON ({type(error).__name__})."
            ) from None
        prepared[key] = Prepared(digest, columns, item.raw)
    return prepared


def _types(kind: Kind) -> dict[str, tuple[type, bool]]:
    """The kind's columns with their Python types, and whether they may be NULL."""
    columns = kind.table.c
    return {name: (_python_type(columns[name].type), bool(columns[name].nullable)) for name in kind.columns}


def _python_type(column_type: TypeEngine[Any]) -> type:
    if isinstance(column_type, Boolean):
        return bool
    return int if isinstance(column_type, BigInteger) else str


def _fits(value: object, expected: type, nullable: bool) -> bool:
    if value is None:
        return nullable
    if expected is int:
        return type(value) is int and -_LARGEST <= value < _LARGEST
    return isinstance(value, expected)
