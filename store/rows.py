"""Many rows in one statement, as a table that the statement may select from and join with.

A statement per row is paid for each row, and a list of VALUES is another statement for each number of rows, which the
database has to plan anew. So PostgreSQL gets an array per column, and SQLite one JSON document.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, FromClause, Text, bindparam, cast, column, func, select, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from store.types import CleanText, PlainJSON, UTCDateTime, as_utc, clean_text, dump_json


def given_rows(
    connection: AsyncConnection,
    types: Mapping[str, type[TypeEngine[Any]]],
    rows: Sequence[Sequence[Any]],
    name: str = "given",
) -> FromClause:
    """The rows as a table.

    Args:
        connection: whose dialect it is for.
        types: the columns' names and types.
        rows: a value for each column, in that order.
        name: the table's name in the statement.
    """
    if connection.dialect.name == "postgresql":
        return _arrays(types, rows, name)
    return _document(types, rows, name)


def _arrays(
    types: Mapping[str, type[TypeEngine[Any]]], rows: Sequence[Sequence[Any]], name: str
) -> FromClause:
    values: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    arrays, columns = [], []
    for (label, kind), given in zip(types.items(), values, strict=True):
        # Arrays of JSON would be encoded item by item inside the driver's own quoting; text is cast at its place.
        sent = Text if kind is PlainJSON else kind
        items = [None if item is None else dump_json(item) for item in given] if kind is PlainJSON else given
        arrays.append(bindparam(f"{name}_{label}", list(items), type_=ARRAY(sent)))
        columns.append(column(label, sent))
    table = func.unnest(*arrays).table_valued(*columns, name=f"{name}_arrays").render_derived()
    return select(
        *(
            cast(table.c[label], JSON).label(label) if kind is PlainJSON else table.c[label]
            for label, kind in types.items()
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


def _document(
    types: Mapping[str, type[TypeEngine[Any]]], rows: Sequence[Sequence[Any]], name: str
) -> FromClause:
    prepare = [_FOR_SQLITE.get(kind) for kind in types.values()]
    document = dump_json(
        [
            [
                item if item is None or how is None else how(item)
                for how, item in zip(prepare, row, strict=True)
            ]
            for row in rows
        ]
    )
    each = func.json_each(bindparam(f"{name}_rows", document, type_=Text())).table_valued(
        "value", name=f"{name}_document"
    )
    return select(
        *(
            type_coerce(func.json_extract(each.c.value, f"$[{number}]"), kind()).label(label)
            for number, (label, kind) in enumerate(types.items())
        )
    ).subquery(name)
