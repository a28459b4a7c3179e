"""Consents that were begun, the product's keys, the outbox and the audit."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from store.api_keys import create_key, find_key, list_keys, note_use, revoke_key
from store.audit import add_audit, list_audit
from store.database import Database
from store.errors import WriteRefusedError
from store.oauth_states import StateProblem, TakenState, peek_state, prune_states, put_state, take_state
from store.outbox import OutboxEvent, add_events, list_outbox
from tests.store.builders import minutes, run_many


async def _begin_consent(db: Database, state_hash: str = "h1", at: float = 0, **facts: str) -> None:
    given = {"org": "acme", "redirect_uri": "https://app.example/cb"} | facts
    await put_state(db, state_hash=state_hash, **given, now=minutes(at), expires_at=minutes(at + 15))


async def test_a_state_brings_back_what_it_was_bound_to_and_is_good_for_one_use(db: Database) -> None:
    await _begin_consent(
        db, base_domain="acme.kommo.com", mode="post_message", browser_hash="b", return_to="/x"
    )
    seen = await peek_state(db, "h1")
    taken = await take_state(db, "h1", minutes(14.9))
    assert isinstance(taken, TakenState)
    assert seen == replace(taken, used_at=None), "looking does not use it up"
    assert (taken.org, taken.provider, taken.redirect_uri, taken.base_domain) == (
        "acme",
        "kommo",
        "https://app.example/cb",
        "acme.kommo.com",
    )
    assert (taken.mode, taken.browser_hash, taken.return_to) == ("post_message", "b", "/x")
    assert (taken.created_at, taken.expires_at, taken.used_at) == (minutes(0), minutes(15), minutes(14.9))
    assert await take_state(db, "h1", minutes(14.9)) is StateProblem.USED
    assert await take_state(db, "h1", minutes(99)) is StateProblem.USED


async def test_a_state_that_is_too_old_or_unknown_is_named_and_left_as_it_is(db: Database) -> None:
    await _begin_consent(db)
    assert await take_state(db, "h1", minutes(15)) is StateProblem.EXPIRED
    assert await take_state(db, "h2", minutes(1)) is StateProblem.UNKNOWN
    assert await peek_state(db, "h2") is None
    assert isinstance(await take_state(db, "h1", minutes(14)), TakenState)


async def test_the_same_state_cannot_be_begun_twice(db: Database) -> None:
    await _begin_consent(db)
    with pytest.raises(WriteRefusedError):
        await _begin_consent(db, org="other")
    seen = await peek_state(db, "h1")
    assert seen is not None
    assert seen.org == "acme"


async def test_old_states_are_pruned_and_the_others_stay(db: Database) -> None:
    for number in range(4):
        await _begin_consent(db, f"h{number}", at=number)
    assert await prune_states(db, minutes(17)) == 2
    assert [await peek_state(db, f"h{number}") is None for number in range(4)] == [True, True, False, False]


@pytest.mark.usefixtures("quick")
async def test_of_twenty_in_two_processes_who_bring_one_state_exactly_one_gets_it(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    hashes = [f"h{number}" for number in range(5)]
    for state_hash in hashes:
        await _begin_consent(db, state_hash)
    won = await run_many(2, "take_states", *migrated_place, "10", *hashes)
    assert sorted(won) == hashes


def test_t5_a_states_repr_does_not_show_its_hashes() -> None:
    state = TakenState(
        *("hash-of-state", "acme", "kommo", "https://app.example/cb", None, "popup", "hash-of-browser", None),
        *(minutes(0), minutes(15), None),
    )
    assert "hash-of" not in repr(state)


async def test_a_key_is_found_by_its_hash_until_it_is_revoked(db: Database) -> None:
    made = await create_key(db, "product", ["acme", "beta"], secret_hash="s1", key_id="k1", now=minutes(0))
    found = await find_key(db, "s1")
    assert found == made
    assert [made.allows(org) for org in ("acme", "beta", "gamma", "")] == [True, True, False, False]
    assert await find_key(db, "s2") is None
    assert await revoke_key(db, "k1", now=minutes(1))
    assert not await revoke_key(db, "k1", now=minutes(2))
    assert not await revoke_key(db, "k2", now=minutes(2))
    assert await find_key(db, "s1") is None
    (left,) = await list_keys(db)
    assert left == replace(made, revoked_at=minutes(1))
    assert not left.allows("acme")


async def test_a_key_without_a_list_may_act_for_every_org_and_one_with_an_empty_list_for_none(
    db: Database,
) -> None:
    every = await create_key(db, "b", None, secret_hash="s1", key_id="k1", now=minutes(0))
    none = await create_key(db, "a", [], secret_hash="s2", key_id="k2", now=minutes(0))
    assert await list_keys(db) == [none, every]
    assert (every.orgs, none.orgs) == (None, ())
    assert (every.allows("acme"), none.allows("acme")) == (True, False)


@pytest.mark.parametrize(("key_id", "secret_hash"), [("k1", "other"), ("other", "s1")])
async def test_neither_a_keys_id_nor_its_secret_is_given_twice(
    db: Database, key_id: str, secret_hash: str
) -> None:
    await create_key(db, "product", None, secret_hash="s1", key_id="k1", now=minutes(0))
    with pytest.raises(WriteRefusedError) as caught:
        await create_key(db, "product", None, secret_hash=secret_hash, key_id=key_id, now=minutes(0))
    assert "s1" not in str(caught.value)


async def test_a_keys_use_is_noted_to_the_minute(db: Database) -> None:
    key = await create_key(db, "product", None, secret_hash="s1", key_id="k1", now=minutes(0))
    noted = []
    for at in (1, 1.5, 1.9, 2.5):
        await note_use(db, await find_key(db, "s1") or key, now=minutes(at))
        noted.append((await list_keys(db))[0].last_used_at)
    assert noted == [minutes(1), minutes(1), minutes(1), minutes(2.5)]
    await note_use(db, key, now=minutes(2.6))  # another process that does not know of it
    assert (await list_keys(db))[0].last_used_at == minutes(2.5)


async def _tell(db: Database, events: Sequence[OutboxEvent], at: float = 0) -> None:
    async with db.begin() as connection:
        await add_events(connection, events, minutes(at))


def _event(org: str = "acme", number: int = 0) -> OutboxEvent:
    return OutboxEvent("integration_connected", org, f"connection/{number}", {"n": number, "text": "é \x00"})


async def test_events_come_out_in_their_order_and_as_they_were(db: Database) -> None:
    events = [_event(number=number) for number in range(5)]
    await _tell(db, events[:3])
    await _tell(db, [_event("beta")])
    await _tell(db, events[3:], at=1)
    await _tell(db, [])
    told = await list_outbox(db, org="acme")
    assert [(one.event_id, one.payload, one.subject) for one in told] == [
        (event.event_id, event.payload, event.subject) for event in events
    ]
    assert {(one.state, one.attempts, one.delivered_at) for one in told} == {("pending", 0, None)}
    assert told[-1].created_at == minutes(1)
    assert len(await list_outbox(db)) == 6
    assert await list_outbox(db, state="delivered") == []
    following = await list_outbox(db, state="pending", after_id=told[1].id, limit=2)
    assert [one.org for one in following] == ["acme", "beta"]


async def test_an_event_that_is_written_again_is_there_once(db: Database) -> None:
    event = _event()
    await _tell(db, [event, _event(number=1)])
    await _tell(db, [event, _event(number=2)])
    assert [one.payload["n"] for one in await list_outbox(db)] == [0, 1, 2]


async def test_events_share_the_fate_of_the_transaction_that_they_tell_of(db: Database) -> None:
    async def fail() -> None:
        async with db.begin() as connection:
            await add_events(connection, [_event()], minutes(0))
            await add_audit(connection, "acme", "connected", {}, minutes(0))
            raise RuntimeError("the change failed")

    with pytest.raises(RuntimeError, match="the change failed"):
        await fail()
    assert await list_outbox(db) == []
    assert await list_audit(db, "acme") == []


async def test_the_audit_lists_an_orgs_entries_newest_first(db: Database) -> None:
    async with db.begin() as connection:
        for number in range(3):
            await add_audit(connection, "acme", "moved", {"to": f"h{number}"}, minutes(number))
        await add_audit(connection, "beta", "connected", {}, minutes(9))
    assert [(entry.detail["to"], entry.at) for entry in await list_audit(db, "acme", limit=2)] == [
        ("h2", minutes(2)),
        ("h1", minutes(1)),
    ]


async def test_two_who_write_the_same_event_at_once_write_it_once(db: Database) -> None:
    event = _event()
    await asyncio.gather(*(_tell(db, [event]) for _ in range(8)))
    assert len(await list_outbox(db)) == 1
