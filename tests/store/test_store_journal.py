"""T2, T3: every pair is written down first, and the pointer to the current one never goes back."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event

from store.connections import get_connection, mark_attempt_failed, put_connection, set_state
from store.database import Database
from store.outbox import OutboxEvent, list_outbox
from store.token_journal import (
    KEPT,
    Edge,
    JournalRow,
    Promotion,
    append_pair,
    chain,
    forget,
    get_pair,
    mark_dead,
    promote,
    reseal,
    sealed_rows,
)
from tests.store.builders import minutes


async def append(
    db: Database, used: str, fingerprint: str, at: float = 0, org: str = "acme", **more: Any
) -> JournalRow:
    given: dict[str, Any] = {
        "sealed": f"sealed-{fingerprint}",
        "host": "acme.kommo.com",
        "expires_at": minutes(at + 1440),
    }
    return await append_pair(
        db, org=org, used=used, fingerprint=fingerprint, now=minutes(at), **(given | more)
    )


async def step_on(db: Database, fingerprint: str, at: float = 0, org: str = "acme", **more: Any) -> Promotion:
    given: dict[str, Any] = {"expires_at": minutes(at + 1440), "host": "acme.kommo.com", "now": minutes(at)}
    return await promote(db, org, fingerprint, **(given | more))


async def connect(db: Database, fingerprint: str | None = "a", org: str = "acme", **more: Any) -> None:
    """A connection whose first pair is in the journal and in the block."""
    given: dict[str, Any] = {"token_kind": "pair" if fingerprint else "long_lived", "now": minutes(0)}
    given |= {"block_name": org, "host": "acme.kommo.com", "expires_at": minutes(1440)}
    if fingerprint:
        await append(db, "code:1", fingerprint, org=org, current=True)
    await put_connection(db, org=org, token_fingerprint=fingerprint, **(given | more))
    if fingerprint:
        await step_on(db, fingerprint, org=org)


async def pointer(db: Database, org: str = "acme") -> str | None:
    return (await get_connection(db, org)).token_fingerprint


async def test_t2_a_pair_comes_back_as_it_was_written_down(db: Database) -> None:
    written = await append(db, "code:1", "a", account_id=2**40)
    assert written == await get_pair(db, "acme", "a")
    assert (written.used, written.sealed, written.host, written.account_id, written.expires_at) == (
        "code:1",
        "sealed-a",
        "acme.kommo.com",
        2**40,
        minutes(1440),
    )
    assert (written.created_at, written.promoted_at, written.dead_at) == (minutes(0), None, None)
    assert await get_pair(db, "acme", "b") is None
    assert await get_pair(db, "beta", "a") is None
    assert "sealed-a" not in repr(written)


async def test_t2_writing_a_pair_down_twice_is_the_same_as_once(db: Database) -> None:
    """The answer to the first time was lost: the second finds the row of the first, however it is sealed now."""
    first = await append(db, "code:1", "a")
    assert await append(db, "code:1", "a", at=1, sealed="sealed otherwise") == first
    assert await sealed_rows(db) == [first]
    assert (await append(db, "code:1", "a", org="beta")).id != first.id, "another org's is another one"


async def test_t2_a_pair_that_was_written_down_would_outlive_a_power_failure(db: Database) -> None:
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    await append(db, "code:1", "a")
    durably = {"sqlite": "PRAGMA synchronous = FULL", "postgresql": "SET LOCAL synchronous_commit TO on"}
    assert durably[db.dialect] in asked


async def test_t2_many_who_write_down_the_same_or_different_pairs_at_once_lose_none(db: Database) -> None:
    await connect(db)
    written = await asyncio.gather(*(append(db, "a", f"b{number % 4}") for number in range(16)))
    assert {row.fingerprint for row in await sealed_rows(db)} == {"a", "b0", "b1", "b2", "b3"}
    assert len({row.id for row in written}) == 4


async def test_a_new_consent_points_the_connection_to_its_pair_at_once_but_only_the_first_time(
    db: Database,
) -> None:
    await connect(db)
    await append(db, "code:2", "r", at=1, current=True)
    assert await pointer(db) == "r"
    await append(db, "r", "s", at=2)
    assert await step_on(db, "s", at=2) is Promotion.PROMOTED
    await append(db, "code:2", "r", at=3, current=True)
    assert await pointer(db) == "s", "the first answer was lost, and the chain has gone on since"


async def test_a_new_consent_of_an_org_without_a_connection_is_kept_for_it(db: Database) -> None:
    await append(db, "code:1", "a", current=True)
    found = await chain(db, "acme")
    assert (found.start, found.edges[0].fingerprint) == (None, "a")
    await connect(db)
    assert (await chain(db, "acme")).path() == ["a"]


async def test_promoting_moves_the_pointer_and_what_goes_with_it(db: Database) -> None:
    await connect(db, scopes=["crm"])
    before = await get_connection(db, "acme")
    await append(db, "a", "b", at=5)
    told = await step_on(
        db, "b", at=6, host="moved.kommo.com", scopes=["crm", "files"], expires_at=minutes(99)
    )
    after = await get_connection(db, "acme")
    assert told is Promotion.PROMOTED
    assert (after.token_fingerprint, after.token_serial, after.refreshed_at, after.updated_at) == (
        "b",
        before.token_serial + 1,
        minutes(6),
        minutes(6),
    )
    assert (after.host, after.scopes, after.expires_at) == (
        "moved.kommo.com",
        ["crm", "files"],
        minutes(99),
    )
    row = await get_pair(db, "acme", "b")
    assert row is not None
    assert row.promoted_at == minutes(6)
    assert await step_on(db, "b", at=7, host="other.kommo.com") is Promotion.ALREADY
    assert await get_connection(db, "acme") == after
    assert await get_pair(db, "acme", "b") == row
    await append(db, "b", "c", at=8)
    await step_on(db, "c", at=8)
    assert (await get_connection(db, "acme")).scopes == ["crm", "files"], "not named, so they stay"


async def test_t3_the_pointer_never_goes_back(db: Database) -> None:
    await connect(db)
    for used, fingerprint in ("ab", "bc", "cd"):
        await append(db, used, fingerprint)
    assert await step_on(db, "c") is Promotion.PROMOTED
    before = await get_connection(db, "acme")
    for older in "ba":
        assert await step_on(db, older, at=1) is Promotion.SUPERSEDED
    assert await get_connection(db, "acme") == before
    marked = await get_pair(db, "acme", "b")
    assert marked is not None
    assert marked.promoted_at == minutes(1)
    assert await step_on(db, "d", at=2) is Promotion.PROMOTED


async def test_t3_of_two_pairs_got_with_the_same_token_the_younger_stays_whoever_comes_last(
    db: Database,
) -> None:
    for org, order in (("acme", "bc"), ("beta", "cb")):
        await connect(db, org=org)
        for fingerprint in "bc":
            await append(db, "a", fingerprint, org=org)
        told = [await step_on(db, fingerprint, org=org) for fingerprint in order]
        assert await pointer(db, org) == "c"
        assert (await chain(db, org)).spares() == ["b"]
        assert told[-1] is (Promotion.PROMOTED if order == "bc" else Promotion.SUPERSEDED)


async def test_t3_of_many_who_promote_at_once_the_pair_furthest_along_stays(db: Database) -> None:
    for org in ("acme", "beta", "gamma"):
        await connect(db, org=org)
        names = ["a", *(f"p{number}" for number in range(8))]
        for used, fingerprint in pairwise(names):
            await append(db, used, fingerprint, org=org)
        told = await asyncio.gather(*(step_on(db, name, org=org) for name in reversed(names)))
        assert await pointer(db, org) == names[-1]
        found = await get_connection(db, org)
        assert found.token_serial == 1 + told.count(Promotion.PROMOTED)


async def test_t3_when_the_current_pair_is_dead_a_living_spare_takes_its_place(db: Database) -> None:
    await connect(db)
    for fingerprint in "bc":
        await append(db, "a", fingerprint)
    await step_on(db, "c")
    assert await mark_dead(db, "acme", "c", minutes(1))
    assert not await mark_dead(db, "acme", "c", minutes(2))
    assert not await mark_dead(db, "acme", "z", minutes(2))
    found = await chain(db, "acme")
    assert (found.path(), found.spares()) == (["c"], ["b"])
    assert await step_on(db, "b", at=3) is Promotion.PROMOTED
    assert await step_on(db, "c", at=4) is Promotion.SUPERSEDED
    assert await pointer(db) == "b"


async def test_t3_a_late_refresh_of_an_old_consent_does_not_take_the_new_one_over(db: Database) -> None:
    await connect(db)
    await append(db, "code:2", "r", current=True)
    await append(db, "a", "b")  # younger than r, but of the old consent
    assert await step_on(db, "b") is Promotion.SUPERSEDED
    assert await pointer(db) == "r"
    assert (await chain(db, "acme")).spares() == [], "a pair of another consent is no spare"


async def test_a_late_refresh_does_not_take_a_long_lived_token_over(db: Database) -> None:
    await connect(db)
    await append(db, "a", "b")
    await connect(db, None)
    assert await step_on(db, "b") is Promotion.SUPERSEDED
    assert (await get_connection(db, "acme")).token_fingerprint is None


async def test_what_is_gone_cannot_be_promoted(db: Database) -> None:
    await append(db, "code:1", "a")
    assert await step_on(db, "a") is Promotion.GONE, "no connection"
    await connect(db)
    assert await step_on(db, "b") is Promotion.GONE, "not in the journal"
    assert await forget(db, "acme") == 1
    assert await step_on(db, "a") is Promotion.GONE
    assert (await chain(db, "acme")).edges == ()


@pytest.mark.parametrize(
    ("state", "attempts", "after"),
    [
        ("connected", 0, "connected"),
        ("refreshing", 0, "connected"),
        ("outcome_unknown", 1, "connected"),
        ("reauthorization_required", 1, "connected"),
        ("degraded", 1, "connected"),
        ("degraded", 0, "degraded"),
        ("disconnected", 0, "disconnected"),
        ("failed", 0, "failed"),
    ],
)
async def test_a_new_pair_ends_the_states_that_spoke_of_its_lack(
    db: Database, state: str, attempts: int, after: str
) -> None:
    await connect(db)
    if attempts:
        await mark_attempt_failed(db, "acme", next_refresh_at=minutes(9), reason="r", now=minutes(1))
    await set_state(db, "acme", state, "why", reason_code="code", now=minutes(1))
    await append(db, "a", "b")
    told_of = OutboxEvent("integration_connected", "acme", "connection", {})
    await step_on(db, "b", at=2, recovered=[told_of])
    found = await get_connection(db, "acme")
    assert (found.state, found.refresh_attempts, found.next_refresh_at) == (after, 0, None)
    settled = state not in {after, "connected"}
    assert (found.reason, found.reason_code) == ((None, None) if settled else ("why", "code"))
    assert (found.state_since == minutes(2)) is settled
    told = [one.event_id for one in await list_outbox(db)]
    assert told == ([told_of.event_id] if state == "reauthorization_required" else [])


async def test_keys_are_rotated_over_all_rows_and_a_row_that_changed_meanwhile_is_left(db: Database) -> None:
    for number in range(5):
        await append(db, "code:1", f"p{number}", org=f"org-{number % 2}")
    pages, after = [], 0
    while page := await sealed_rows(db, after, 2):
        pages.append([row.fingerprint for row in page])
        after = page[-1].id
    assert pages == [["p0", "p1"], ["p2", "p3"], ["p4"]]
    row = (await sealed_rows(db))[0]
    assert await reseal(db, row.id, row.sealed, "anew")
    assert not await reseal(db, row.id, row.sealed, "once more")
    assert not await reseal(db, 10**9, "x", "y")
    assert [row.sealed for row in await sealed_rows(db)][:2] == ["anew", "sealed-p1"]


async def test_the_journal_keeps_the_newest_pairs_the_current_one_and_those_never_promoted(
    db: Database,
) -> None:
    await connect(db)
    await append(db, "a", "waiting")
    for number in range(KEPT + 5):
        await append(db, "gone", f"p{number}")
        if number != 3:
            await mark_dead(db, "acme", f"p{number}", minutes(1))
    left = [row.fingerprint for row in await sealed_rows(db, limit=1000)]
    assert left == ["a", "waiting", "p3", *(f"p{number}" for number in range(5, KEPT + 5))]
    assert len((await chain(db, "acme")).edges) == KEPT


async def test_the_block_adds_the_edge_that_it_knows(db: Database) -> None:
    await connect(db)
    await append(db, "b", "c")
    found = await chain(db, "acme")
    assert found.path() == ["a"]
    assert found.path(Edge("a", "b", promoted=True)) == ["a", "b", "c"]
