"""Read what Kommo answered: a success into data, anything else into the error that describes it.

Facts: kommo-api.md §2.2 (every 2xx is a success, an empty body is "no data"), §2.3 (bodies of errors), §1.6.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

import orjson

from kommo.errors import ErrorKind, KommoError, Problem

_BY_STATUS: Mapping[int, ErrorKind] = MappingProxyType(
    {
        400: ErrorKind.VALIDATION,
        401: ErrorKind.UNAUTHORIZED,
        402: ErrorKind.PAYMENT_REQUIRED,
        403: ErrorKind.FORBIDDEN,
        404: ErrorKind.NOT_FOUND,
        405: ErrorKind.METHOD_NOT_ALLOWED,
        408: ErrorKind.TIMEOUT,
        422: ErrorKind.LIMIT,
        429: ErrorKind.RATE_LIMITED,
        502: ErrorKind.GATEWAY,
        504: ErrorKind.GATEWAY,
    }
)
DEFAULT_QUIET = 1.0
"""Seconds of quiet after a 429 that names none."""
SHORTEST_QUIET = 0.25
"""Seconds of quiet after any 429."""
LONGEST_QUIET = 3600.0
"""Seconds after which we ask again, whatever a 429 says."""
QUOTA_USED_UP = "the account's quota of messages sent by the API is used up"
NOT_IN_PLAN = "the account's plan does not have this function"
SCOPE_MISSING = "the token lacks the scope for it"
TALK_CLOSED = "the conversation is closed"
_TOLD: Mapping[tuple[int, str], str] = MappingProxyType(
    {
        (402, "Over chat API limit"): QUOTA_USED_UP,
        (402, "Endpoint not available for current account tariff"): NOT_IN_PLAN,
        (403, "Invalid scope"): SCOPE_MISSING,
        (422, "Talk is closed"): TALK_CLOSED,
    }
)
"""What a few of Kommo's sentences say, in our words [D K/send-message-to-conversation]."""
_UNSAFE = re.compile(r"[^\w.\-\[\]]")


@dataclass(frozen=True, slots=True)
class Answer:
    """A success.

    Attributes:
        status: HTTP status, 200 to 299.
        data: The JSON, or ``None`` when there was no body (204, usual for an empty list) [D §2.2].
        request_id: Kommo's ``X-Request-Id``.
    """

    status: int
    data: dict[str, Any] | list[Any] | None = field(repr=False)
    request_id: str | None = None


def error_from_answer(
    status: int, body: bytes, *, method: str, path: str, host: str, request_id: str | None = None
) -> KommoError:
    """Turn an answer that is not a success into the error that describes it.

    A 403 without a JSON object is the block of an address, one with it is a missing right [D K/limitations].

    Args:
        status: HTTP status, 300 or more.
        body: The body, which may be anything.
        method: HTTP method of the request.
        path: Path of the request without query.
        host: Name of the account's host.
        request_id: Kommo's ``X-Request-Id``.
    """
    told = _json_object(body)
    hint = told.get("hint") if told else None
    kind = _BY_STATUS.get(status) or _kind_of_range(status)
    if status == 403 and told is None:
        kind = ErrorKind.IP_BLOCKED
    elif status in {400, 401} and isinstance(hint, str):
        kind = ErrorKind.OAUTH_REFUSED
    return KommoError(
        kind,
        method=method,
        path=path,
        host=host,
        status=status,
        request_id=request_id,
        problems=list(_problems(told or {})),
        hint=hint[:200] if isinstance(hint, str) else None,
        retry_after=_seconds((told or {}).get("retry_after")),
        detail=_TOLD.get((status, str((told or {}).get("detail")))),
    )


def _kind_of_range(status: int) -> ErrorKind:
    if 300 <= status < 400:
        return ErrorKind.REDIRECTED
    return ErrorKind.SERVER_ERROR if status >= 500 else ErrorKind.UNEXPECTED_STATUS


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _seconds(value: object) -> float | None:
    try:
        seconds = float(value)  # type: ignore[arg-type]  # whatever Kommo sent; the next line judges it
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _problems(told: Mapping[str, Any]) -> Iterator[Problem]:
    """Read ``validation-errors`` (``errors`` with sources), each level a list or object [D; C PF; §3.12]."""
    for group in _as_list(told.get("validation-errors") or told.get("errors")):
        if not isinstance(group, dict):
            continue
        inner = group.get("errors")
        complaints = [inner] if isinstance(inner, dict) and "code" in inner else _as_list(inner)
        for complaint in complaints or ([group] if "code" in group else []):
            if isinstance(complaint, dict):
                yield Problem(
                    code=_word(complaint.get("code")),
                    path=_word(complaint.get("path")),
                    detail=str(complaint.get("detail") or "")[:500],
                    element=_word(group.get("request_id")),
                )


def _as_list(value: object) -> list[Any]:
    if isinstance(value, dict):
        return [value] if "code" in value or "errors" in value else list(value.values())
    return value if isinstance(value, list) else []


def _word(value: object) -> str:
    """Reduce what came over the network to something that may stand in a message."""
    return "" if value is None else _UNSAFE.sub("_", str(value))[:120]


def data_from_body(body: bytes) -> dict[str, Any] | list[Any] | None:
    """Read the body of a success; an empty one is ``None`` ("no data", usual with 204) [D §2.2].

    Raises:
        ValueError: It is not a whole JSON object or list; the message says so without repeating it.
    """
    if not body.strip():
        return None
    try:
        data = _decoded(body)
    except (ValueError, RecursionError):
        data = False
    if not isinstance(data, dict | list):
        # Outside the handler: the decoder's error holds the whole document and must not travel along.
        raise ValueError("the body is not a whole JSON object or list")  # noqa: TRY004  one error for all
    return data


def _decoded(body: bytes) -> Any:  # noqa: ANN401  any JSON
    try:
        # Six times as fast. Whole numbers of more than 64 bits become floats: Kommo's PHP has none.
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # It is stricter: half a surrogate pair, which a cut-off emoji leaves behind, is an error to it.
        return json.loads(body, parse_constant=_refuse)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def asked_to_wait(error: KommoError, headers: Mapping[str, str], now: datetime) -> float:
    """How long a 429 asks us to be quiet, in seconds.

    ``retry_after`` of the body is what Kommo documents [D K/http-codes]; the ``Retry-After`` header (seconds
    or a date) is read as well, because gateways send it; without either (the 429 may be HTML [C PHP]) it is
    one second, the window of the limit. Never less than ``SHORTEST_QUIET`` and never more than
    ``LONGEST_QUIET``.

    Args:
        error: The error made from the answer.
        headers: Headers of the answer, names in lower case.
        now: The present moment, aware.
    """
    asked = error.retry_after
    if asked is None:
        text = headers.get("retry-after", "")
        asked = _seconds(text)
        if asked is None and text:
            try:
                asked = (parsedate_to_datetime(text) - now).total_seconds()
            except (ValueError, TypeError, OverflowError):
                asked = None
    return DEFAULT_QUIET if asked is None else min(max(asked, SHORTEST_QUIET), LONGEST_QUIET)
