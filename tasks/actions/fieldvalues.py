"""The value forms of custom fields: what a person or the product gives becomes what Kommo takes, or is refused.

Pure: no database, no network. Facts: kommo-api.md §3.4 (types, value forms; writing replaces all values; an empty list
clears; a choice by value must match exactly).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from datetime import date as calendar_date
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from tasks.actions.choices import named
from tasks.errors import InvalidActionError

Values = list[dict[str, Any]]

_TEXTS = ("text", "textarea", "url", "streetaddress", "tracking_data", "org_legal_name")
_NUMBERS = ("numeric", "monetary", "price")
_DATES = ("date", "date_time", "birthday")
_ONE_OF = ("select", "radiobutton", "category")
_IN_LISTS = ("items", "linked_entity", "payer", "supplier")
ADDRESS_PARTS = ("address_line_1", "address_line_2", "city", "state", "zip", "country")
_LEGAL_KEYS = {
    "name": str,
    "entity_type": int,
    "vat_id": str,
    "tax_registration_reason_code": (str, int),
    "address": str,
    "kpp": str,
    "external_uid": str,
}
_FILE_KEYS = {"file_uuid": str, "version_uuid": str, "file_name": str, "file_size": int}
_LONGEST_NUMBER = 40
_EARLIEST, _LATEST = (
    -5_000_000_000,
    7_258_118_400,
)  # 1811 to 2200, in unix seconds; milliseconds lie far beyond
_YES, _NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a field."""

    id: int
    value: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A custom field's definition, as far as its values depend on it.

    Attributes:
        id: Kommo's id.
        name: What people call it.
        type: Kommo's word for its type.
        choices: The options of a field that has some.
        is_computed: Kommo works its value out, so nobody can write it.
        timezone: The account's time zone, in which a date without a time begins.
    """

    id: int
    name: str
    type: str
    choices: Sequence[Choice] = ()
    is_computed: bool = False
    timezone: str | None = None

    @property
    def title(self) -> str:
        """How it is called in a sentence."""
        return f"the field '{self.name}' ({self.id}, {self.type})"


def values_for(spec: FieldSpec, value: object) -> Values:
    """What goes into `values` of the field, for the value that was given.

    Args:
        spec: The field.
        value: JSON, as the caller gave it; None clears the field.

    Raises:
        InvalidActionError: it is not one of the field's; says what would be.
    """
    if spec.is_computed:
        raise _refused(spec, "is computed by Kommo; nobody can write it")
    if spec.type in _IN_LISTS:
        raise _refused(spec, "belongs to lists, not to deals; it cannot be written here")
    if value is None:
        return []
    made = _FORMS.get(spec.type, _unknown)(spec, value)
    return made if isinstance(made, list) else [made]


def _refused(spec: FieldSpec, why: str) -> InvalidActionError:
    title = spec.title
    return InvalidActionError(f"{title[0].upper()}{title[1:]} {why}.", "value")


def _text(spec: FieldSpec, value: object) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _refused(spec, "takes a text")
    text = str(value)
    if not text.strip():
        raise _refused(spec, "takes a text that is not empty; null clears the field")
    if "\x00" in text:
        raise _refused(spec, "takes a text without NUL characters")
    return {"value": text}


def _number(spec: FieldSpec, value: object) -> dict[str, Any]:
    number = as_number(value)
    if number is None:
        raise _refused(spec, 'takes a number, such as 1.5 or "1.5" (a point, no thousands separators)')
    return {"value": format(number, "f")}  # a string both ways [D §3.4]


def as_number(value: object) -> Decimal | None:
    """A number as it was written; None for what is none, and for what has no end."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    if len(text) > _LONGEST_NUMBER or not re.fullmatch(
        r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", text, re.ASCII
    ):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < Decimal(10) ** _LONGEST_NUMBER else None


def _checkbox(spec: FieldSpec, value: object) -> dict[str, Any]:
    word = str(value).lower() if isinstance(value, bool | str | int) else ""
    if word not in _YES | _NO:
        raise _refused(spec, "takes true or false")
    return {"value": word in _YES}


def _moment(spec: FieldSpec, value: object) -> dict[str, Any]:
    seconds = as_seconds(spec, value)
    if seconds is None or not _EARLIEST <= seconds <= _LATEST:
        also = "2026-12-31T18:00:00+01:00" if spec.type == "date_time" else "2026-12-31"
        raise _refused(spec, f"takes unix seconds (not milliseconds) or a text such as {also}")
    return {"value": seconds}


def as_seconds(spec: FieldSpec, value: object) -> int | None:
    """Unix seconds of what was given: a whole number, RFC 3339 text, or a plain date (midnight of the account)."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    # As text it needs the length of a moment: "1990" is a year, and no moment of the first hour of 1970.
    if isinstance(value, int) or re.fullmatch(r"-?\d{9,12}", text, re.ASCII):
        return int(value)
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
            if spec.type == "date_time":
                return None  # which time of that day?
            moment = datetime.combine(calendar_date.fromisoformat(text), time.min, _zone(spec))
        else:
            moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else int(moment.timestamp())


def _zone(spec: FieldSpec) -> tzinfo:
    try:
        return ZoneInfo(spec.timezone) if spec.timezone else UTC
    except (KeyError, ValueError, OSError):  # a zone that this machine does not know
        return UTC


def _choice(spec: FieldSpec, value: object) -> dict[str, Any]:
    found = _chosen(spec, value)
    if len(found) == 1:
        return {"enum_id": found[0].id}
    known = named([(str(choice.id), choice.value) for choice in spec.choices])
    if found:
        raise _refused(spec, f"has several choices of that name; give one's id: {known}")
    raise _refused(spec, f"has no such choice. It takes the exact value or the id of one of: {known}")


def _chosen(spec: FieldSpec, value: object) -> list[Choice]:
    """The choices that are meant: by text first, because that is what people see; then by code, then by id."""
    if isinstance(value, Mapping):
        if len(value) != 1:
            return []
        key, wanted = next(iter(value.items()))
        pick = {"value": "value", "enum_id": "id", "enum_code": "code"}.get(key)
        return [one for one in spec.choices if pick and wanted is not None and getattr(one, pick) == wanted]
    if isinstance(value, bool) or not isinstance(value, str | int):
        return []
    for fits in (
        lambda one: one.value == str(value),
        lambda one: one.code is not None and one.code == value,
        lambda one: str(one.id) == str(value),
    ):
        if found := [one for one in spec.choices if fits(one)]:
            return found
    return []


def _choices(spec: FieldSpec, value: object) -> Values:
    given = value if isinstance(value, list) else [value]
    if not given:
        raise _refused(spec, "takes at least one choice; null clears the field")
    made: Values = []
    for one in given:
        chosen = _choice(spec, one)
        if chosen not in made:
            made.append(chosen)
    return made


def _multitext(spec: FieldSpec, value: object) -> Values:
    made: Values = []
    for one in value if isinstance(value, list) else [value]:
        given = one if isinstance(one, Mapping) else {"value": one}
        text, kind = given.get("value"), {key: given[key] for key in given if key != "value"}
        if not isinstance(text, str) or not text.strip() or not kind.keys() <= {"enum_code", "enum_id"}:
            raise _refused(spec, 'takes a text, or {"value": …, "enum_code": …}, or a list of such')
        if kind:
            key, wanted = next(iter(kind.items()))
            known = {c.id if key == "enum_id" else c.code or c.value for c in spec.choices}
            if len(kind) > 1 or wanted not in known:
                raise _refused(
                    spec,
                    f"knows these kinds: {named([(str(c.id), c.code or c.value) for c in spec.choices])}",
                )
        made.append({"value": text, **kind})
    if not made:
        raise _refused(spec, "takes at least one text; null clears the field")
    return made


def _address(spec: FieldSpec, value: object) -> Values:
    parts = value
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        parts = {one.get("enum_code"): one.get("value") for one in value}
        if len(parts) != len(value):
            parts = None
    if not isinstance(parts, Mapping) or not parts or not parts.keys() <= set(ADDRESS_PARTS):
        raise _refused(spec, f"takes an object with any of: {', '.join(ADDRESS_PARTS)}")
    if not all(isinstance(text, str) and text.strip() for text in parts.values()):
        raise _refused(spec, "takes texts that are not empty; leave out what there is not")
    country = parts.get("country", "AA")
    if not re.fullmatch(r"[A-Z]{2}", str(country), re.ASCII):
        raise _refused(spec, "takes a country of two capital letters, such as NL")
    return [{"value": parts[part], "enum_code": part} for part in ADDRESS_PARTS if part in parts]


def _object(
    keys: Mapping[str, Any], needed: str, example: str
) -> Callable[[FieldSpec, object], dict[str, Any]]:
    def form(spec: FieldSpec, value: object) -> dict[str, Any]:
        fits = (
            isinstance(value, Mapping)
            and value.keys() <= keys.keys()
            and isinstance(value.get(needed), str)
            and bool(str(value[needed]).strip())
            and all(
                given is None or (isinstance(given, keys[key]) and not isinstance(given, bool))
                for key, given in value.items()
            )
        )
        if not fits:
            raise _refused(spec, f"takes an object such as {example}; known keys: {', '.join(keys)}")
        assert isinstance(value, Mapping)  # noqa: S101 - just seen
        return {"value": dict(value)}

    return form


def _chained(spec: FieldSpec, value: object) -> Values:
    made: Values = []
    for one in value if isinstance(value, list) else [value]:
        ids = (
            [one.get(key) for key in ("catalog_id", "catalog_element_id")] if isinstance(one, Mapping) else []
        )
        right = isinstance(one, Mapping) and len(one) == 2
        if not right or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in ids):
            raise _refused(spec, 'takes {"catalog_id": …, "catalog_element_id": …}, or a list of such')
        # No key `value` here, unlike everywhere else [D §3.4].
        made.append({"catalog_id": ids[0], "catalog_element_id": ids[1]})
    if not made:
        raise _refused(spec, "takes at least one element; null clears the field")
    return made


def _unknown(spec: FieldSpec, value: object) -> dict[str, Any]:
    """A type that Kommo has added since: what looks like a value is left to Kommo to judge."""
    if not isinstance(value, str | int | float | bool):
        raise _refused(
            spec, "is of a type that this version does not know; it takes a text, a number or true/false"
        )
    return {"value": value}


_FORMS: Mapping[str, Callable[[FieldSpec, object], Values | dict[str, Any]]] = {
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(_DATES, _moment),
    **dict.fromkeys(_ONE_OF, _choice),
    "checkbox": _checkbox,
    "multiselect": _choices,
    "multitext": _multitext,
    "smart_address": _address,
    "legal_entity": _object(_LEGAL_KEYS, "name", '{"name": "Acme B.V.", "vat_id": "NL001234567B01"}'),
    "file": _object(_FILE_KEYS, "file_uuid", '{"file_uuid": "…", "version_uuid": "…", "file_name": "a.pdf"}'),
    "chained_list": _chained,
}
