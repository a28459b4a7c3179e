"""PHP's `http_build_query`, written anew for the tests, and a walk over everything that a value holds."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

Path = tuple[str, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each scalar of nested maps and lists with the names that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, str(number)))
    else:
        yield path, value


def name_of(path: Path) -> str:
    """`a[b][c]`."""
    return path[0] + "".join(f"[{part}]" for part in path[1:])


def encode(value: dict[str, Any]) -> bytes:
    """A form body as Kommo writes it: brackets percent-encoded, spaces as plus signs."""
    pairs = (f"{quote_plus(name_of(path))}={quote_plus(str(leaf))}" for path, leaf in leaves(value))
    return "&".join(pairs).encode()
