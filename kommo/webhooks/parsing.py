"""From the bytes of a webhook to what it says."""

import secrets
from collections.abc import Callable
from typing import Any

from kommo.webhooks.events import Delivery, events_of, number
from kommo.webhooks.forms import nested
from kommo.webhooks.jsons import loaded
from kommo.webhooks.limits import BodyTooLargeError, Limits, UnreadableBodyError

_DEFAULT = Limits()
_FORM = "application/x-www-form-urlencoded"


def is_understood(content_type: str | None) -> bool:
    """Whether bodies of this type can be read at all.

    Args:
        content_type: The header of that name, if there was one.
    """
    return _kind(content_type) in {"", _FORM, "application/json"}


def parse(
    body: bytes,
    content_type: str | None,
    *,
    limits: Limits = _DEFAULT,
    request_id: str | None = None,
    chance: Callable[[], str] = lambda: secrets.token_hex(16),
) -> Delivery:
    """Read the body of a webhook.

    Two deliveries of one change have the same bytes, and so the same unique keys. An event without a time (a deletion)
    can truly happen a second time with the same content: there the id of the request is in the key as well, or chance.

    Args:
        body: The bytes.
        content_type: The header of that name; without one, the first character tells a form from JSON.
        limits: How large it may be.
        request_id: Kommo's `x-amocrm-requestid`, if there was one.
        chance: A new random text at each call.

    Raises:
        BodyTooLargeError: It has too many bytes.
        UnreadableBodyError: It is not what Kommo sends.
    """
    if len(body) > limits.bytes:
        raise BodyTooLargeError.of(len(body), limits)
    data = _data(body, content_type, limits)
    if not data:
        raise UnreadableBodyError("it is empty")
    block = data.get("account")
    account: dict[str, Any] = block if isinstance(block, dict) else {}
    account_id = number(account.get("id"))
    if account_id is None and "id" in account:
        # Never guess for whom: the id decides which org the events belong to.
        raise UnreadableBodyError("its account has an id that is not one whole number")
    links = account.get("_links")
    link = links.get("self") if isinstance(links, dict) else None
    if isinstance(link, dict):
        link = link.get("href")
    events, rest = events_of(data, lambda: request_id or chance())
    return Delivery(
        account_id=account_id,
        subdomain=_text(account.get("subdomain")),
        self_link=_text(link),
        events=events,
        rest=rest,
    )


def _data(body: bytes, content_type: str | None, limits: Limits) -> dict[str, Any]:
    kind = _kind(content_type)
    if kind == "application/json" or (not kind and body.lstrip()[:1] == b"{"):
        return loaded(body, limits)
    if kind and kind != _FORM:
        raise UnreadableBodyError("its content type is neither a form nor JSON")
    return nested(body, limits)


def _kind(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
