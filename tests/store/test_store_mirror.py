"""W2, W5: the mirror keeps the newest of what was read, whoever read it and in whatever order it is written."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from store.database import Database
from store.mirror import Change, ChangeKind, NewRecord, get_record, mark_gone, record_states, save_records
from tests.store.builders import START
from tests.store.hooks import moment, record


async def _save(
    db: Database, *records: NewRecord, now: float = 0.0, source: str = "webhook"
) -> dict[int, Change]:
    async with db.begin() as connection:
        return await save_records(connection, "acme", "leads", records, source, now=moment(now))


async def _gone(db: Database, *ids: int, state: str = "deleted", now: float = 0.0) -> set[int]:
    async with db.begin() as connection:
        return set(await mark_gone(connection, "acme", "leads", ids, state, now=moment(now)))


async def test_w2_what_changed_is_told_with_before_and_after(db: Database) -> None:
    made = (await _save(db, record(1, status_id=10)))[1]
    assert (made.kind, made.before, made.after.status_id) == (ChangeKind.CREATED, None, 10)
    changed = (await _save(db, record(1, 5, 5, status_id=20, responsible_user_id=8), now=5))[1]
    assert changed.kind == ChangeKind.UPDATED
    assert changed.before is not None
    assert (changed.before.status_id, changed.before.responsible_user_id) == (10, 7)
    assert (changed.after.status_id, changed.after.responsible_user_id) == (20, 8)
    same = (await _save(db, record(1, 5, 6, status_id=20, responsible_user_id=8), now=6))[1]
    assert same.kind == ChangeKind.UNCHANGED
    stored = await get_record(db, "acme", "leads", 1)
    assert stored is not None
    assert (stored.state, stored.status_id, stored.updated_at, stored.read_at) == (
        "present",
        20,
        moment(5),
        moment(6),
    )
    assert stored.state_since == START
    assert stored.raw == {"id": 1, "name": "Deal", "status_id": 20}
    assert await get_record(db, "acme", "contacts", 1) is None
    assert await get_record(db, "beta", "leads", 1) is None


async def test_w2_every_order_of_writing_ends_with_the_newest(db: Database) -> None:
    versions = [
        record(0, 1, 1, status_id=1),
        record(0, 2, 2, status_id=2),
        record(0, 2, 3, status_id=3),  # the same second at Kommo, read later
        record(0, 1, 4, status_id=4),  # an old answer that was read last
    ]
    orders = list(itertools.permutations(versions))
    for step in range(len(versions)):
        await _save(db, *(replace(order[step], record_id=number) for number, order in enumerate(orders)))
    states = await record_states(db, "acme", "leads")
    assert len(states) == 24
    assert {facts.status_id for facts in states.values()} == {3}


async def test_w2_of_two_with_one_id_in_a_read_the_newer_one_counts(db: Database) -> None:
    changes = await _save(db, record(1, 2, status_id=2), record(1, 1, status_id=1), record(2))
    assert {number: change.after.status_id for number, change in changes.items()} == {1: 2, 2: 1}
    older = (await _save(db, record(1, 1, 9, status_id=1)))[1]
    assert older.kind == ChangeKind.OLDER
    assert older.after == older.before
    assert older.after.status_id == 2


async def test_w2_without_a_time_of_kommos_what_was_read_later_counts(db: Database) -> None:
    await _save(db, record(1, None, 5, status_id=5))
    assert (await _save(db, record(1, 3, 4, status_id=4)))[1].kind == ChangeKind.OLDER
    assert (await _save(db, record(1, 3, 6, status_id=6)))[1].kind == ChangeKind.UPDATED
    assert (await _save(db, record(1, None, 5, status_id=7)))[1].kind == ChangeKind.OLDER
    stored = await get_record(db, "acme", "leads", 1)
    assert stored is not None
    assert stored.status_id == 6


async def test_w2_a_deleted_record_is_a_tombstone_that_only_a_later_look_undoes(db: Database) -> None:
    await _save(db, record(1, 1, 1), record(2, 1, 1))
    assert await _gone(db, 1, 3, 3, now=10) == {1, 3}
    assert await _gone(db, 1, 3, now=11) == set(), "they are gone already"
    assert await _gone(db, 1, state="missing", now=12) == set(), "why it is gone is known"
    tomb = await get_record(db, "acme", "leads", 3)
    assert tomb is not None
    assert (tomb.state, tomb.state_since, tomb.raw, tomb.name) == ("deleted", moment(10), {}, None)
    assert (await _save(db, record(1, 9, 9)))[1].kind == ChangeKind.OLDER, "it was read before"
    back = (await _save(db, record(1, 1, 11), now=12))[1]
    assert (back.kind, back.after.state, back.after.state_since) == (
        ChangeKind.RESTORED,
        "present",
        moment(12),
    )
    stored = await get_record(db, "acme", "leads", 1)
    assert stored is not None
    assert (stored.state, stored.state_since) == ("present", moment(12))


async def test_w2_a_missing_record_may_turn_out_to_be_deleted_and_one_read_later_stays(db: Database) -> None:
    await _save(db, record(1, 1, 1), record(2, 1, 20))
    assert await _gone(db, 1, 2, state="missing", now=10) == {1}
    assert await _gone(db, 1, now=11) == {1}
    states = await record_states(db, "acme", "leads", [1, 2, 3])
    assert {number: facts.state for number, facts in states.items()} == {1: "deleted", 2: "present"}
    with pytest.raises(ValueError, match="odd"):
        await _gone(db, 1, state="odd")


async def test_w2_two_that_write_the_same_records_at_once_create_each_of_them_once(db: Database) -> None:
    numbers = range(1, 101)

    async def write(order: Sequence[int], seconds: float) -> dict[int, Change]:
        return await _save(db, *(record(number, seconds, seconds) for number in order), now=seconds)

    told = await asyncio.gather(
        write(numbers, 1), write(numbers[::-1], 2), write(numbers, 3), write(numbers[::-1], 2)
    )
    for number in numbers:
        kinds = [changes[number].kind for changes in told]
        assert kinds.count(ChangeKind.CREATED) == 1
    states = await record_states(db, "acme", "leads")
    assert {facts.updated_at for facts in states.values()} == {moment(3)}


async def test_nothing_given_is_nothing_done(db: Database) -> None:
    assert await _save(db) == {}
    assert await _gone(db) == set()
    assert await record_states(db, "acme", "leads", []) == {}
