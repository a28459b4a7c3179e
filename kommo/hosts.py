"""Which hosts a token may ever be sent to (R4): one account's own host, on an allow-list.

Facts: kommo-api.md §1.3 (the ``referer`` of the OAuth callback is a full host, may carry a scheme, and is
under an attacker's control) and §2.1 (``www`` never serves data).
"""

import re
from dataclasses import dataclass

from kommo.errors import HostNotAllowed

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ACCOUNT = re.compile(rf"(?P<sub>{_LABEL})\.(?:kommo\.com|amocrm\.com|amocrm\.ru)")
_BARE = re.compile(_LABEL)
_LOOPBACK = re.compile(
    rf"(?:(?:{_LABEL}\.){{0,4}}localhost|127\.0\.0\.1|\[::1\])(?::(?P<port>[0-9]{{1,5}}))?"
)
_SCHEME = re.compile(r"https?://")
_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class Host:
    """The host of one account, checked; a ``Host`` outside the allow-list cannot be made.

    Attributes:
        name: Such as ``acme.kommo.com``, or ``acme.localhost:8025`` for a stand-in on this machine.
        loopback: It is on this machine, and plain HTTP is spoken with it.
    """

    name: str
    loopback: bool = False

    def __post_init__(self) -> None:
        reason = _why_not_loopback(self.name) if self.loopback else _why_not_account(self.name)
        if reason:
            raise HostNotAllowed(reason)

    @property
    def base_url(self) -> str:
        """Scheme and host without a slash at the end."""
        return f"{'http' if self.loopback else 'https'}://{self.name}"

    def __str__(self) -> str:
        return self.name


def parse_host(text: str, *, allow_loopback: bool = False) -> Host:
    """Read the host of a Kommo account from what a person or a callback gave.

    Upper case, blanks around it, a scheme, a path and a bare subdomain (``acme`` means ``acme.kommo.com``)
    are fine.

    Args:
        text: For example ``acme.kommo.com``, ``https://Acme.kommo.com/leads/`` or ``acme``.
        allow_loopback: Accept ``localhost``, ``*.localhost``, ``127.0.0.1`` and ``[::1]``, with a port, too.

    Raises:
        HostNotAllowed: It is anything else. The message says why, without repeating the text.
    """
    if len(text) > _LONGEST:
        raise HostNotAllowed("the text is too long for an address")
    cleaned = text.strip()
    if not cleaned:
        raise HostNotAllowed("the address is empty")
    if not cleaned.isascii() or not cleaned.isprintable():
        raise HostNotAllowed("it holds characters that no such address has")
    cleaned = _SCHEME.sub("", cleaned.lower(), count=1)
    name = re.split(r"[/?#]", cleaned, maxsplit=1)[0]
    if "@" in name:
        raise HostNotAllowed("it holds a user name or password")
    if _LOOPBACK.fullmatch(name):
        if not allow_loopback:
            raise HostNotAllowed(
                "it is an address of this machine, which is allowed with KOMMO_SANDBOX=1 only, for demos and tests"
            )
        return Host(name, loopback=True)
    if _BARE.fullmatch(name):
        name = f"{name}.kommo.com"
    return Host(name)


def _why_not_account(name: str) -> str | None:
    found = _ACCOUNT.fullmatch(name)
    if not found:
        return (
            "a port is not allowed"
            if re.fullmatch(r"[^:]+:[0-9]*", name)
            else "it is outside the allowed domains"
        )
    if found["sub"] == "www":
        return "www is the public site and serves no account"
    if found["sub"].startswith("xn--"):
        return "encoded international names are not used by accounts"
    return None


def _why_not_loopback(name: str) -> str | None:
    found = _LOOPBACK.fullmatch(name)
    if not found:
        return "it is not an address of this machine"
    if found["port"] is not None and not 1 <= int(found["port"]) <= 65535:
        return "the port is out of range"
    return None
