"""The product's keys: made once, shown once, known afterwards by their hash only."""

import hashlib
import secrets
from collections.abc import Sequence

from pydantic import SecretStr

from blocks.names import block_name
from kommo.clock import Clock, SystemClock
from store.api_keys import ApiKey, create_key, find_key, note_use
from store.database import Database

PREFIX = "kdp_"
"""By this a key is known for what it is, by people and by scanners of leaked secrets."""
_LONGEST = 128


async def make_api_key(
    database: Database, name: str, orgs: Sequence[str] | None, *, clock: Clock | None = None
) -> tuple[ApiKey, SecretStr]:
    """Make a key of 256 random bits.

    Args:
        database: The store.
        name: What people call it.
        orgs: The orgs that it may act for; None for all of them.
        clock: Source of time.

    Returns:
        What is known of the key from now on, and the key itself, which is kept nowhere.

    Raises:
        ValueError: An org is not written as orgs are, or the list is empty.
    """
    if orgs is not None:
        if not orgs:
            raise ValueError("A key that may act for no org is of no use.")
        for org in orgs:
            block_name(org)
    secret = SecretStr(PREFIX + secrets.token_urlsafe(32))
    key = await create_key(
        database,
        name,
        None if orgs is None else sorted(set(orgs)),
        secret_hash=_hash(secret),
        key_id=f"key-{secrets.token_hex(4)}",
        now=(clock or SystemClock()).now(),
    )
    return key, secret


async def known_api_key(
    database: Database, secret: SecretStr, *, clock: Clock | None = None
) -> ApiKey | None:
    """The key that this is, None if it is none of ours or was revoked.

    The same work is done for each text, also for one that cannot be a key or one that was revoked, and a key is looked
    up by its hash: how long that takes tells nothing about the keys that there are.
    """
    text = secret.get_secret_value()
    is_one = text.startswith(PREFIX) and len(text) <= _LONGEST
    key = await find_key(database, _hash(SecretStr(text[:_LONGEST])))
    if key is None or not is_one:
        return None
    await note_use(database, key, now=(clock or SystemClock()).now())
    return key


def _hash(secret: SecretStr) -> str:
    return hashlib.sha256(secret.get_secret_value().encode()).hexdigest()
