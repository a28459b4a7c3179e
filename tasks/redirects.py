"""Where a person may be sent after connecting: addresses of the product only, compared as a browser would read them."""

from collections.abc import Iterable
from urllib.parse import SplitResult, unquote, urlsplit

_LONGEST = 2048
_PORTS = {"http": 80, "https": 443}


def is_allowed_redirect(address: str, allowed: Iterable[str]) -> bool:
    """Whether an address is one of the allowed ones, or lies under one of them.

    Under means: the same scheme, host and port, and the allowed path followed by a slash. Whatever a browser would read
    differently from us (backslashes, blanks, dots that climb, user names) is refused.

    Args:
        address: What the caller asks for.
        allowed: Addresses such as https://app.example.com or https://app.example.com/crm.
    """
    asked = _parsed(address)
    if asked is None:
        return False
    return any(
        known is not None and _origin(known) == _origin(asked) and _lies_under(asked.path, known.path)
        for known in map(_parsed, allowed)
    )


def origin_of(address: str) -> str | None:
    """Scheme, host and port of an address as a browser writes them; None where it is not an http address."""
    parts = _parsed(address)
    if parts is None:
        return None
    scheme, host, port = _origin(parts)
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if port == _PORTS[scheme] else f"{scheme}://{shown}:{port}"


def _parsed(address: str) -> SplitResult | None:
    if len(address) > _LONGEST or not address.isascii() or not address.isprintable():
        return None
    if any(char in address for char in "\\ \"'<>`{}|^"):
        return None
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or "@" in parts.netloc:
        return None
    climbs = any(segment in {".", ".."} for segment in unquote(parts.path).split("/"))
    return None if climbs or "//" in parts.path else parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _lies_under(path: str, allowed: str) -> bool:
    allowed = allowed.rstrip("/")
    return path == allowed or path.startswith(f"{allowed}/")
