"""Many rows in one statement, as a table that the statement may select from and join with.

A statement per row is paid for each row, and a list of VALUES is another statement for each number of rows, which the
database has to plan anew. So PostgreSQL gets an array per column, and SQLite one JSON document.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    FromClause,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from store.types import CleanText, PlainJSON, UTCDateTime, as_utc, clean_text, dump_json

Types = Mapping[str, type[TypeEngine[Any]]]


def given_rows(
    connection: AsyncConnection, types: Types, rows: Sequence[Sequence[Any]], name: str = "given"
) -> FromClause:
    """The rows as a table.

    Args:
        connection: whose dialect it is for.
        types: the columns' names and types.
        rows: a value for each column, in that order.
        name: the table's name in the statement.
    """
    dialect = connection.dialect.name
    return rows_table(dialect, types, name, row_values(dialect, types, rows, name))


def rows_table(
    dialect: str, types: Types, name: str = "given", values: Mapping[str, Any] | None = None
) -> FromClause:
    """The table by itself, for a statement that is made once and executed with other `row_values` each time.

    Args:
        dialect: `sqlite` or `postgresql`.
        types: the columns' names and types.
        name: the table's name in the statement.
        values: the rows, where they are a part of the statement.
    """
    return _arrays(types, name, values) if dialect == "postgresql" else _document(types, name, values)


def row_values(
    dialect: str, types: Types, rows: Sequence[Sequence[Any]], name: str = "given"
) -> dict[str, Any]:
    """The parameters of a statement with a `rows_table`; arguments as there."""
    if dialect != "postgresql":
        return {f"{name}_rows": dump_json(sqlite_rows(types, rows))}
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    return {
        f"{name}_{label}": (
            # Arrays of JSON would be encoded item by item inside the driver's quoting; text is cast at its place.
            [None if item is None else dump_json(item) for item in given]
            if kind is PlainJSON
            else list(given)
        )
        for (label, kind), given in zip(types.items(), columns, strict=True)
    }


def sqlite_rows(types: Types, rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows as SQLite's driver takes them, for a statement that is executed once for each.

    There a statement for each row, prepared once, costs a fifth of taking a document of rows apart; but only a document
    can be joined with.
    """
    prepare = [_FOR_SQLITE.get(kind) for kind in types.values()]
    return [
        [item if item is None or how is None else how(item) for how, item in zip(prepare, row, strict=True)]
        for row in rows
    ]


def _parameter(key: str, values: Mapping[str, Any] | None, kind: TypeEngine[Any]) -> BindParameter[Any]:
    if values is None:
        return bindparam(key, type_=kind)
    return bindparam(key, values[key], type_=kind)


def _arrays(types: Types, name: str, values: Mapping[str, Any] | None) -> FromClause:
    arrays, columns = [], []
    for label, kind in types.items():
        sent = Text if kind is PlainJSON else kind
        arrays.append(_parameter(f"{name}_{label}", values, ARRAY(sent)))
        columns.append(column(label, sent))
    table = func.unnest(*arrays).table_valued(*columns, name=f"{name}_arrays").render_derived()
    return select(
        *(
            cast(table.c[label], JSON).label(label) if kind is PlainJSON else table.c[label]
            for label, kind in types.items()
        )
    ).subquery(name)


def _document(types: Types, name: str, values: Mapping[str, Any] | None) -> FromClause:
    document = _parameter(f"{name}_rows", values, Text())
    each = func.json_each(document).table_valued("value", name=f"{name}_document")
    return select(
        *(
            type_coerce(func.json_extract(each.c.value, f"$[{number}]"), kind()).label(label)
            for number, (label, kind) in enumerate(types.items())
        )
    ).subquery(name)


def _wall_clock(moment: datetime) -> str:
    return as_utc(moment).replace(tzinfo=None).isoformat(" ", "microseconds")


_FOR_SQLITE: Mapping[type[TypeEngine[Any]], Callable[[Any], Any]] = {
    CleanText: clean_text,
    PlainJSON: dump_json,
    # As SQLAlchemy writes a time there: text of a fixed width.
    UTCDateTime: _wall_clock,
}
