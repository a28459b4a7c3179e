"""The body of a webhook: nested values as PHP's `http_build_query` writes them (fact sheet 6.1, 6.2)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote_plus

from sandbox.config import WebhookSettings
from sandbox.state import Account, Record


@dataclass(frozen=True, slots=True)
class Both:
    """A text and further keys on one path, as some notes have it [C].

    Args:
        text: The text.
        inner: What lies below.
    """

    text: str
    inner: Record


@dataclass(frozen=True, slots=True)
class Item:
    """One entity in a body.

    Args:
        word: First key: leads, contacts, task, unsorted, message, talk, catalogs, customers.
        action: Second key: add, update, delete …
        content: What stands under the index.
    """

    word: str
    action: str
    content: Record


def body_of(account: Account, items: Iterable[Item], settings: WebhookSettings) -> bytes:
    """The bytes of a delivery.

    Args:
        account: Whose.
        items: The entities; each pair of word and action is counted from 0.
        settings: Where the account stands, how brackets and nulls are written.
    """
    nested: Record = {}
    for item in items:
        nested.setdefault(item.word, {}).setdefault(item.action, []).append(item.content)
    block = {"account": account_block(account, settings)}
    return encoded(block | nested if settings.account_block == "first" else nested | block, settings)


def account_block(account: Account, settings: WebhookSettings) -> Record:
    """Subdomain, id and link; in old hooks the subdomain only [C]."""
    if settings.account_block == "subdomain":
        return {"subdomain": account.subdomain}
    home = f"https://{account.subdomain}.{settings.self_domain}" if settings.self_domain else account.url
    return {"subdomain": account.subdomain, "id": account.id, "_links": {"self": home}}


def encoded(nested: Record, settings: WebhookSettings) -> bytes:
    """Form encoding of nested values."""
    brackets = ("[", "]") if settings.plain_brackets else ("%5B", "%5D")
    pairs: list[str] = []
    for key, value in nested.items():
        _write(pairs, _encode(str(key)), value, brackets, nulls=settings.empty_nulls)
    return "&".join(pairs).encode("ascii")


def _encode(text: str) -> str:
    """PHP's urlencode: everything but letters, digits, `-`, `_` and `.`; a space is `+`."""
    return text if text.isascii() and text.isalnum() else _quoted(text)


@lru_cache(maxsize=4_096)
def _quoted(text: str) -> str:
    return quote_plus(text, errors="replace").replace("~", "%7E")


def _write(pairs: list[str], path: str, value: object, brackets: tuple[str, str], *, nulls: bool) -> None:
    if isinstance(value, Both):
        pairs.append(f"{path}={_encode(value.text)}")
        value = value.inner
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, inner in value.items():
            below = f"{path}{brackets[0]}{_encode(str(key))}{brackets[1]}"
            _write(pairs, below, inner, brackets, nulls=nulls)
    elif value is None:
        if nulls:
            pairs.append(f"{path}=")
    elif isinstance(value, bool):
        pairs.append(f"{path}={int(value)}")
    else:
        pairs.append(f"{path}={_encode(str(value))}")
