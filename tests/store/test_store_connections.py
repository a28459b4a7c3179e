"""Connections: states and since when, pages, and that exactly one process is told of a change."""

import asyncio

import pytest

from store.connections import (
    ConnectionState,
    get_connection,
    list_connections,
    put_connection,
    set_state,
)
from store.database import Database
from store.errors import UnknownConnectionError
from store.runs import note_sync
from tests.store.builders import minutes


async def _put(db: Database, org: str = "acme", at: float = 0, **facts: object) -> None:
    given = {"host": "acme.kommo.com", "block_name": org, "token_kind": "oauth", "now": minutes(at)} | facts
    await put_connection(db, org=org, **given)  # type: ignore[arg-type]  # any of its fields


async def test_a_connection_comes_back_as_it_was_put(db: Database) -> None:
    await _put(db, account_id=2**40, scopes=["crm", "notifications"], expires_at=minutes(60))
    found = await get_connection(db, "acme")
    assert (found.provider, found.host, found.account_id, found.scopes) == (
        "kommo",
        "acme.kommo.com",
        2**40,
        ["crm", "notifications"],
    )
    assert (found.state, found.expires_at, found.created_at) == ("connected", minutes(60), minutes(0))


async def test_state_since_moves_only_when_the_state_changes(db: Database) -> None:
    await _put(db)
    assert not await set_state(db, "acme", "connected", "all well", now=minutes(1))
    assert await set_state(db, "acme", ConnectionState.DEGRADED, "users: 403", now=minutes(2))
    assert not await set_state(db, "acme", "degraded", "talks: 402", now=minutes(3))
    found = await get_connection(db, "acme")
    assert (found.state, found.reason, found.state_since, found.updated_at) == (
        "degraded",
        "talks: 402",
        minutes(2),
        minutes(3),
    )


async def test_connecting_again_keeps_age_and_sync_marks(db: Database) -> None:
    await _put(db)
    await note_sync(db, "acme", "run-1", now=minutes(1))
    await set_state(db, "acme", "reauthorization_required", "revoked", now=minutes(2))
    await _put(db, at=3, host="moved.kommo.com")
    found = await get_connection(db, "acme")
    assert (found.host, found.state, found.reason, found.state_since) == (
        "moved.kommo.com",
        "connected",
        None,
        minutes(3),
    )
    assert (found.created_at, found.last_sync_run_id, found.last_synced_at) == (
        minutes(0),
        "run-1",
        minutes(1),
    )
    await _put(db, at=4)
    assert (await get_connection(db, "acme")).state_since == minutes(3)
    await _put(db, at=5, token_kind="pair", token_fingerprint="of a new consent")
    assert (await get_connection(db, "acme")).state_since == minutes(5)


async def test_of_many_who_report_a_change_one_is_told_that_it_was_the_first(db: Database) -> None:
    await _put(db)
    told = await asyncio.gather(*(set_state(db, "acme", "failed", str(n), now=minutes(n)) for n in range(8)))
    assert sorted(told) == [False] * 7 + [True]


async def test_pages_hold_every_org_once_in_order(db: Database) -> None:
    orgs = [f"org-{number:02}" for number in range(7)]
    for org in reversed(orgs):
        await _put(db, org)
    await set_state(db, "org-03", "failed", now=minutes(1))
    seen, after = [], None
    for _ in range(3):
        page = await list_connections(db, after=after, limit=3)
        seen += [found.org for found in page.items]
        after = page.next_after
    assert (seen, after) == (orgs, None)
    assert [found.org for found in (await list_connections(db, state="failed")).items] == ["org-03"]


async def test_an_org_without_a_connection_is_named(db: Database) -> None:
    for call in (
        get_connection(db, "nobody"),
        set_state(db, "nobody", "failed", now=minutes(0)),
        note_sync(db, "nobody", "run", now=minutes(0)),
    ):
        with pytest.raises(UnknownConnectionError, match="'nobody' has no connection"):
            await call
    with pytest.raises(ValueError, match="sleeping"):
        await set_state(db, "nobody", "sleeping", now=minutes(0))
