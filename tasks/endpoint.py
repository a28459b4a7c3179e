"""The product's address for events, checked."""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from tasks.errors import EventsSetupError

_LOOPBACK = re.compile(r"(?:(?:[a-z0-9-]+\.)*localhost|127\.0\.0\.1|::1)")
_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events go. Only its host is ever shown: path and query may hold a key.

    Attributes:
        url: the whole address.
        host: with the port, if one is named.
        key: a hash of the address, by which the store knows it.
    """

    url: SecretStr
    host: str
    key: str


def parse_endpoint(url: SecretStr, *, allow_loopback: bool = False) -> Endpoint:
    """Check the address that the installation was given.

    Args:
        url: https, to any host.
        allow_loopback: Accept plain http to this machine, as in demos and tests.

    Raises:
        EventsSetupError: It is empty, or not such an address. The message says why, without repeating it.
    """
    text = url.get_secret_value().strip()
    if not text:
        raise EventsSetupError(
            "KOMMO_EVENTS_URL is not set, so that nobody is told anything. Set it to the product's address for "
            "events; what has happened until then waits in the outbox."
        )
    parts = _split(text)
    host = (parts.hostname or "") if parts else ""
    if parts is None or not host:
        raise _refused("it is not an address such as https://app.example.com/api/webhooks/kommo-events")
    if parts.username is not None or parts.password is not None:
        raise _refused("it holds a user name or password")
    if parts.scheme != "https":
        is_ours = _LOOPBACK.fullmatch(host) is not None
        if parts.scheme != "http" or not is_ours:
            raise _refused("it must begin with https://")
        if not allow_loopback:
            raise _refused("it is an address of this machine, which is allowed in demos and tests only")
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return Endpoint(SecretStr(text), parts.netloc, key)


def _split(text: str) -> SplitResult | None:
    if len(text) > _LONGEST or not text.isascii() or not text.isprintable() or re.search(r"[\s\\#]", text):
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    return None if port == 0 else parts


def _refused(why: str) -> EventsSetupError:
    return EventsSetupError(f"KOMMO_EVENTS_URL cannot be used: {why}. Nothing was sent.")
