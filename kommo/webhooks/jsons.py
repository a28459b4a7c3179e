"""JSON bodies, as the product forwards them and as Kommo's chat hooks are: read within the same limits as forms."""

import json
import re
from math import isfinite
from typing import Any

from kommo.webhooks.limits import Limits, UnreadableBodyError

_HALF = re.compile("[\ud800-\udfff]")


def loaded(body: bytes, limits: Limits) -> dict[str, Any]:
    """Read a JSON body; halves of characters become U+FFFD, as in forms.

    Args:
        body: The body, of a length that was checked.
        limits: What it may be.

    Raises:
        UnreadableBodyError: It is no JSON object, or has too many values or levels.
    """
    try:
        data = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        # Outside the handler: the decoder's error holds the whole document and must not travel along.
        raise UnreadableBodyError("it is not a whole JSON object")
    return _Cleaner(limits).mapping(data, 1)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


class _Cleaner:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = limits.fields

    def mapping(self, data: dict[str, Any], depth: int) -> dict[str, Any]:
        self._pay(len(data), depth)
        return {_whole(key): self._value(value, depth) for key, value in data.items()}

    def _value(self, value: Any, depth: int) -> Any:  # noqa: ANN401  JSON is anything
        if isinstance(value, str):
            return _whole(value)
        if isinstance(value, dict):
            return self.mapping(value, depth + 1)
        if isinstance(value, list):
            self._pay(len(value), depth + 1)
            return [self._value(item, depth + 1) for item in value]
        if isinstance(value, float) and not isfinite(value):
            raise UnreadableBodyError("it has a number that is too large for any computer")
        return value

    def _pay(self, fields: int, depth: int) -> None:
        self._left -= fields
        if self._left < 0:
            raise UnreadableBodyError(f"it has more than {self._limits.fields} fields")
        if depth > self._limits.depth:
            raise UnreadableBodyError(f"its names have more than {self._limits.depth} levels")


def _whole(text: str) -> str:
    return text if text.isascii() else _HALF.sub("\N{REPLACEMENT CHARACTER}", text)
