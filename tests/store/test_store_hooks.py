"""Hook keys, subscriptions and completeness."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from store.completeness import Completeness, latest_completeness, list_completeness, save_completeness
from store.database import Database
from store.errors import WriteRefusedError
from store.subscriptions import Subscription, get_subscription, list_subscriptions, save_subscription
from store.webhook_keys import create_key, find_key, list_keys, revoke_keys
from tests.store.builders import START
from tests.store.hooks import moment


async def test_a_hook_key_is_found_by_its_hash_until_it_is_revoked(db: Database) -> None:
    made = await create_key(db, "acme", 7, "hash-1", now=START)
    await create_key(db, "beta", None, "hash-2", now=START)
    await create_key(db, "acme", 7, "hash-3", now=moment(1))
    assert await find_key(db, "hash-1") == made
    assert (made.org, made.account_id, made.created_at) == ("acme", 7, START)
    assert await find_key(db, "hash-9") is None
    with pytest.raises(WriteRefusedError):
        await create_key(db, "beta", 7, "hash-1", now=START)
    async with db.begin() as connection:
        assert await revoke_keys(connection, "acme", except_hash="hash-3", now=moment(2)) == 1
    assert await find_key(db, "hash-1") is None
    assert await find_key(db, "hash-2") is not None
    assert await find_key(db, "hash-3") is not None
    assert [(key.key_hash, key.revoked_at) for key in await list_keys(db, "acme")] == [
        ("hash-1", moment(2)),
        ("hash-3", None),
    ]
    async with db.begin() as connection:
        assert await revoke_keys(connection, "acme", now=moment(3)) == 1
        assert await revoke_keys(connection, "acme", now=moment(4)) == 0


async def _save(db: Database, subscriptions: Sequence[Subscription]) -> None:
    async with db.begin() as connection:
        for one in subscriptions:
            await save_subscription(connection, one)


async def test_a_subscription_is_kept_as_last_seen(db: Database) -> None:
    assert await get_subscription(db, "acme") is None
    seen = Subscription(
        "acme", "hash", "app.example.com", ("add_lead", "update_lead"), "disabled", "why", START, START
    )
    await _save(db, [seen, replace(seen, org="beta", state="off", key_hash=None)])
    assert await get_subscription(db, "acme") == seen
    again = replace(seen, state="on", reason=None, checked_at=moment(5), disabled_seen_at=None)
    await _save(db, [again])
    assert await get_subscription(db, "acme") == replace(again, disabled_seen_at=START)
    assert [one.org for one in await list_subscriptions(db)] == ["acme", "beta"]
    assert [one.org for one in await list_subscriptions(db, states=["on"])] == ["acme"]
    assert [one.org for one in await list_subscriptions(db, after="acme")] == ["beta"]
    with pytest.raises(ValueError, match="odd"):
        await _save(db, [replace(seen, state="odd")])


async def test_w5_completeness_is_kept_as_it_was_measured(db: Database) -> None:
    first = Completeness("acme", START, moment(60), 10, 7, 3, {"leads": [10, 7, 3]}, moment(61))
    second = replace(first, arrived=10, repaired=0, measured_at=moment(99))
    async with db.begin() as connection:
        for one in (first, second, replace(first, org="beta", changes=0, arrived=0)):
            await save_completeness(connection, one)
    assert await list_completeness(db, "acme") == [second, first]
    assert await list_completeness(db, "acme", limit=1) == [second]
    newest = await latest_completeness(db)
    assert newest["acme"] == second
    assert (first.share, newest["acme"].share, newest["beta"].share) == (0.7, 1.0, 1.0)
