"""PHP bracket queries and what the lists do with them (fact sheet 2.6).

Unknown filters are ignored without a word [C R#53532717639], so only what is in a list's table has an effect.
"""

import math
import re
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Literal

from sandbox.state import Record

FilterKind = Literal["ids", "range", "texts", "flag", "word"]
_PARTS = re.compile(r"\[([^\]]*)\]")


def nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """`filter[id][]=1&filter[id][]=2` as nested dicts; lists become dicts keyed "0", "1" and so on.

    Args:
        pairs: Decoded query parameters in order.
    """
    result: dict[str, Any] = {}
    for name, value in pairs:
        head, bracket, _ = name.partition("[")
        steps = [head, *(_PARTS.findall(name[len(head) :]) if bracket else [])]
        place = result
        for step in steps[:-1]:
            inner = place.get(step or str(len(place)))
            if not isinstance(inner, dict):
                inner = place[step or str(len(place))] = {}
            place = inner
        place[steps[-1] or str(len(place))] = value
    return result


def texts(value: object) -> list[str]:
    """The values of a filter, whether written as a scalar or with brackets."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    return [] if value is None else [str(value)]


def numbers(value: object) -> list[int]:
    """The whole numbers of a filter; what is not a number is passed over."""
    return [int(text) for text in texts(value) if re.fullmatch(r"-?\d{1,18}", text)]


def _in_range(key: str, wanted: object) -> Callable[[Record], bool]:
    if not isinstance(wanted, dict):
        exact = frozenset(numbers(wanted))
        return lambda record: record[key] in exact
    start = next(iter(numbers(wanted.get("from"))), -math.inf)
    end = next(iter(numbers(wanted.get("to"))), math.inf)
    return lambda record: isinstance(value := record[key], int) and start <= value <= end


def matcher(key: str, kind: FilterKind, wanted: object) -> Callable[[Record], bool]:
    """A test of one key.

    Args:
        key: Key of the record.
        kind: "ids" whole numbers, "range" number or from/to, "texts" exact texts, "flag" 0/1, "word" one of several.
        wanted: The value of the filter as `nested` gave it.
    """
    if kind == "range":
        return _in_range(key, wanted)
    if kind == "flag":
        on = texts(wanted)[:1] == ["1"]
        return lambda record: bool(record[key]) is on
    if kind == "ids":
        ids = set(numbers(wanted))
        return lambda record: record[key] in ids
    words = {
        text.casefold() if kind == "texts" else text for word in texts(wanted) for text in word.split(",")
    }
    if kind == "texts":
        words |= {text.casefold() for text in texts(wanted)}
        return lambda record: str(record[key]).casefold() in words
    return lambda record: str(record[key]) in words


def filtered(
    records: list[Record], wanted: object, table: Mapping[str, tuple[str, FilterKind]]
) -> list[Record]:
    """The records that pass every known filter.

    Args:
        records: All records.
        wanted: The nested `filter` of the query.
        table: Filter name → (key of the record, kind).
    """
    if not isinstance(wanted, dict):
        return records
    for name, (key, kind) in table.items():
        if name in wanted:
            passes = matcher(key, kind, wanted[name])
            records = [record for record in records if passes(record)]
    return records


def _id(record: Record) -> int:
    number: int = record.get("id", 0)
    return number


def ordered(records: list[Record], wanted: object, keys: tuple[str, ...]) -> list[Record]:
    """Sorted by the documented order keys; others are ignored.

    Args:
        records: Records in their natural order.
        wanted: The nested `order` of the query.
        keys: Documented keys.
    """
    if not isinstance(wanted, dict):
        return records
    for key, direction in reversed(list(wanted.items())):
        if key in keys:
            down = str(direction).lower() == "desc"
            # Two stable sorts, the first of what is in order already, cost half of one by tuples.
            records = sorted(records, key=_id, reverse=down)
            if key == "id":
                continue
            empty = [record for record in records if record[key] is None]
            filled = sorted(
                (record for record in records if record[key] is not None), key=itemgetter(key), reverse=down
            )
            records = filled + empty if down else empty + filled
    return records


def contains(record: Record, words: str) -> bool:
    """Whether `query=` finds the record: name, price, custom field texts; phones by their digits [D A/filters-api]."""
    hay = [str(record.get("name", "")), str(record.get("price", ""))]
    for entry in record.get("custom_fields_values") or []:
        hay.extend(str(value.get("value", "")) for value in entry["values"])
    hay.extend(str(tag) for tag in record.get("_tag_names", ()))
    lowered = words.casefold()
    if any(lowered in text.casefold() for text in hay):
        return True
    digits = re.sub(r"\D", "", words)
    return len(digits) >= 5 and any(digits in re.sub(r"\D", "", text) for text in hay)
