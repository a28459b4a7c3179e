"""What makes two readings of an item the same: a digest of its content, whatever the order of its keys."""

import hashlib
import json
from collections.abc import Mapping

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def without_links(value: object) -> object:
    """`value` without any `_links`, at any depth.

    Links repeat the host and the page of the request that read the item: an account that moves to another
    subdomain, or an item that slides to another page, has not changed.
    """
    if isinstance(value, dict):
        # Leaves are passed by without a call: this runs over every object of every sync.
        return {
            key: without_links(inner) if isinstance(inner, (dict, list)) else inner
            for key, inner in value.items()
            if key != "_links"
        }
    if isinstance(value, list):
        return [without_links(inner) for inner in value]
    return value


def digest_of(columns: Mapping[str, object], raw: object) -> str:
    """SHA-256 (hex) over the canonical JSON of an item's typed columns and raw JSON.

    Raises:
        TypeError: a value is not of JSON's types.
        ValueError: a number is NaN or infinite.
    """
    canonical = _canonical([columns, without_links(raw)])
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
