"""Checks of what a client writes; findings are collected per element and answered as one 400 (fact sheet 2.3)."""

from collections.abc import Container, Iterator, Sequence
from datetime import datetime

from sandbox import errors
from sandbox.errors import Flaw
from sandbox.state import Account, Collection, Record

_WORDS: dict[type, str] = {str: "string", int: "int", bool: "bool", list: "array", dict: "object"}
_CHOICE = {"select", "radiobutton", "multiselect", "multitext", "smart_address", "category"}
_DATES = {"date", "date_time", "birthday"}
_MOST_VALUES = {"smart_address": 6}


class Findings:
    """What is wrong with the elements of one request."""

    def __init__(self) -> None:
        self._flaws: dict[str, list[Flaw]] = {}
        self._current = "0"

    def each(self, elements: Sequence[Record]) -> Iterator[Record]:
        """Walk through the elements; findings are filed under the one at hand."""
        for index, element in enumerate(elements):
            self._current = str(element.get("request_id", index))
            yield element

    def add(self, flaw: Flaw) -> None:
        """File a finding."""
        self._flaws.setdefault(self._current, []).append(flaw)

    def unsupported(self, path: str) -> None:
        """File a NotSupportedChoice."""
        self.add(errors.unsupported(path))

    def typed(self, element: Record, key: str, expected: type, prefix: str = "") -> bool:
        """Check the type of a key that may be absent or null; whether it can be used."""
        value = element.get(key)
        if value is None:
            return False
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            self.add(errors.wrong_type(f"{prefix}{key}", _WORDS[expected]))
            return False
        return True

    def required(self, element: Record, key: str, expected: type, prefix: str = "") -> bool:
        """Check a key that must be there; whether it can be used."""
        if element.get(key) is None:
            self.add(errors.missing(f"{prefix}{key}"))
            return False
        return self.typed(element, key, expected, prefix)

    def known(self, element: Record, held: Collection) -> Record | None:
        """Find the record that an element of a PATCH names by its `id`; None, and a flaw noted, if it names none."""
        if not self.required(element, "id", int):
            return None
        record = held.get(element["id"])
        if record is None:
            self.unsupported("id")
        return record

    def objects(self, element: Record, key: str, prefix: str = "") -> list[Record]:
        """Check a key that holds a list of objects, or is absent or null; the objects that can be used."""
        if not self.typed(element, key, list, prefix):
            return []
        for place, inner in enumerate(element[key]):
            if not isinstance(inner, dict):
                self.add(errors.wrong_type(f"{prefix}{key}.{place}", "object"))
        return [inner for inner in element[key] if isinstance(inner, dict)]

    def embedded(self, element: Record, *names: str) -> None:
        """Check that `_embedded` is an object and each of the names in it a list of objects."""
        if self.typed(element, "_embedded", dict):
            for name in names:
                self.objects(element["_embedded"], name, "_embedded.")

    def settle(self) -> None:
        """Refuse the request if anything was found.

        Raises:
            Problem: 400 with all findings.
        """
        if self._flaws:
            raise errors.validation(self._flaws)

    def user(self, account: Account, element: Record, key: str) -> None:
        """A user id must be one of the account; 0 (robot) only for created_by and updated_by."""
        if self.typed(element, key, int):
            robot = element[key] == 0 and key != "responsible_user_id"
            if not robot and element[key] not in account.users:
                self.unsupported(key)

    def custom_fields(self, account: Account, entity: str, element: Record) -> None:
        """Check `custom_fields_values`: known fields, lists of values, known enums [D, C issues G#21, G#115]."""
        if not self.typed(element, "custom_fields_values", list):
            return
        for place, entry in enumerate(element["custom_fields_values"]):
            path = f"custom_fields_values.{place}."
            if not isinstance(entry, dict):
                self.add(errors.wrong_type(path.rstrip("."), "object"))
                continue
            definition = find_field(account, entity, entry)
            if definition is None:
                self.unsupported(path + ("field_code" if "field_code" in entry else "field_id"))
                continue
            if self.typed(entry, "values", list, path):
                self._values(definition, entry["values"], f"{path}values.")

    def _values(self, definition: Record, values: list[object], path: str) -> None:
        kind = definition["type"]
        if len(values) > _MOST_VALUES.get(kind, 10_000):
            self.unsupported(path.rstrip("."))
        for place, value in enumerate(values):
            here = f"{path}{place}."
            if not isinstance(value, dict):
                self.add(errors.wrong_type(here.rstrip("."), "object"))
            elif kind in _CHOICE:
                self._choice(definition, value, here)
            elif kind == "checkbox" and not isinstance(value.get("value"), bool | int | str):
                self.add(errors.wrong_type(f"{here}value", "bool"))
            elif kind in {"numeric", "monetary", "price"} and not _is_number(value.get("value")):
                self.add(errors.wrong_type(f"{here}value", "numeric"))
            elif kind in _DATES and value.get("value") is not None and moment(value["value"]) is None:
                self.add(errors.wrong_type(f"{here}value", "int"))
            elif kind != "chained_list" and "value" not in value:
                self.add(errors.missing(f"{here}value"))

    def _choice(self, definition: Record, value: Record, path: str) -> None:
        if find_enum(definition, value) is None:
            by_text = definition["type"] not in {"multitext", "smart_address"}
            key = next((key for key in ("enum_id", "enum_code") if value.get(key) is not None), None)
            if key is not None or by_text:
                self.unsupported(path + (key or "value"))


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, bool)


def moment(value: object) -> int | None:
    """Unix seconds of a date that was written as a number or as RFC 3339 text; None if it is neither."""
    try:
        if isinstance(value, str) and not value.isdecimal():
            return int(datetime.fromisoformat(value).timestamp())
        return int(str(value)) if isinstance(value, str | int) else None
    except (ValueError, OverflowError):
        return None


def one_of(value: object, choices: Container[object]) -> bool:
    """Whether a value of any JSON type is among the choices (lists and objects never are)."""
    return isinstance(value, str | int | float) and value in choices


def find_field(account: Account, entity: str, entry: Record) -> Record | None:
    """The definition that an entry names by `field_id` or `field_code`."""
    field_id = entry.get("field_id")
    if isinstance(field_id, int):
        return account.fields[entity].get(field_id)
    code = entry.get("field_code")
    return account.field_by_code(entity, code) if isinstance(code, str) else None


def find_enum(definition: Record, value: Record) -> Record | None:
    """The enum that a value names by id, code or exact text [D: the text must match exactly]."""
    choices: list[Record] = definition["enums"] or []
    if value.get("enum_id") is not None:
        return next((enum for enum in choices if enum["id"] == value["enum_id"]), None)
    if value.get("enum_code") is not None:
        wanted = value["enum_code"]
        return next((enum for enum in choices if wanted in (enum.get("code"), enum["value"])), None)
    if definition["type"] in {"multitext", "smart_address"}:
        return None
    return next((enum for enum in choices if enum["value"] == value.get("value")), None)
