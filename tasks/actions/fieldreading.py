"""Whether a field holds what was written: how an update whose answer was lost is settled.

Kommo gives values back in other forms than it takes (kommo-api.md §3.4, and older samples): numbers as text, choices
with value, id and code, dates as unix seconds. Only what would make no difference to a person is passed over.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.actions.fieldvalues import as_number

_NUMBERS = frozenset({"numeric", "monetary", "price"})
_DAYS = frozenset({"date", "birthday"})
_HALF_A_DAY = 43_200  # a date may come back as another hour of its day


def holds(kind: str, sent: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what was read is what was sent.

    Args:
        kind: The field's type.
        sent: The `values` that were sent.
        read: The `values` that were read.
    """
    if len(sent) != len(read):
        return False
    left = list(read)
    for one in sent:
        fitting = next((place for place, other in enumerate(left) if _same(kind, one, other)), None)
        if fitting is None:
            return False
        left.pop(fitting)
    return True


def field_values(record: Mapping[str, Any], field_id: int) -> list[Mapping[str, Any]]:
    """The values of one field of a record; empty if it has none."""
    for entry in record.get("custom_fields_values") or ():
        if isinstance(entry, Mapping) and entry.get("field_id") == field_id:
            return [value for value in entry.get("values") or () if isinstance(value, Mapping)]
    return []


def _same(kind: str, sent: Mapping[str, Any], read: Mapping[str, Any]) -> bool:
    if kind == "chained_list":
        return all(sent[key] == read.get(key) for key in ("catalog_id", "catalog_element_id"))
    code, number = sent.get("enum_code"), sent.get("enum_id")
    if code is not None and code not in {read.get("enum_code"), read.get("enum")}:
        return False
    if number is not None and number != read.get("enum_id"):
        return False
    return "value" not in sent or _same_value(kind, sent["value"], read.get("value"))


def _same_value(kind: str, given: object, found: object) -> bool:
    same = _text(given) == _text(found)
    if kind in _NUMBERS:
        same = as_number(given) is not None and as_number(given) == as_number(found)
    elif kind == "checkbox":
        same = bool(given) == (str(found).lower() in {"true", "1"})
    elif kind in _DAYS and isinstance(given, int) and isinstance(found, int):
        same = abs(given - found) < _HALF_A_DAY
    elif isinstance(given, Mapping):
        same = isinstance(found, Mapping) and all(
            wanted is None or str(found.get(key)) == str(wanted) for key, wanted in given.items()
        )
    return same


def _text(value: object) -> str:
    return str(value).replace("\r\n", "\n").strip()
