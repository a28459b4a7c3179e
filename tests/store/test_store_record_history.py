"""S2: where it is kept, the history of a record has everything that it was, whoever found it, and nothing twice."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from store.database import Database
from store.errors import UnknownConnectionError
from store.mirror import NewRecord, get_record, mark_gone, save_records
from store.record_history import forget_record, keep_history, kept_history, stop_history, versions_of
from store.retention import RULES, Ages, remove_old
from store.tables import RecordRow, table_of
from tests.store.builders import START
from tests.store.hooks import moment, record
from tests.store.test_store_journal import connect


async def _save(db: Database, *records: NewRecord, now: float = 0.0, kind: str = "leads") -> None:
    async with db.begin() as connection:
        await save_records(connection, "acme", kind, records, "webhook", now=moment(now))


async def _gone(db: Database, *ids: int, now: float = 0.0) -> None:
    async with db.begin() as connection:
        await mark_gone(connection, "acme", "leads", ids, "deleted", now=moment(now))


async def _told(db: Database, number: int = 1) -> list[tuple[str, int | None, float | None]]:
    return [
        (
            one.state,
            one.status_id,
            None if one.known_until is None else (one.known_until - START).total_seconds(),
        )
        for one in await versions_of(db, "acme", "leads", number)
    ]


async def test_s2_history_begins_with_the_switch_and_has_every_change_once(db: Database) -> None:
    await connect(db, "acme")
    await _save(db, record(1, 0, 0, status_id=10), record(2))
    await _save(db, record(1, 1, 1, status_id=11), now=1)
    assert await _told(db) == [("present", 11, None)], "nobody asked for more"
    await keep_history(db, "acme", ["leads"], now=moment(2))
    await keep_history(db, "acme", ["leads"], now=moment(9))
    await _save(db, record(1, 3, 3, status_id=12), now=3)
    await _save(db, record(1, 3, 4, status_id=12), now=4)  # the same again
    await _save(db, record(1, 2, 5, status_id=9), now=5)  # an old answer
    await _gone(db, 1, now=6)
    await _gone(db, 1, now=7)
    await _save(db, record(1, 3, 8, status_id=12), now=8)
    assert await _told(db) == [
        ("present", 12, None),
        ("deleted", 12, 8),
        ("present", 12, 6),
        ("present", 11, 3),
    ]
    assert await _told(db, 2) == [("present", 1, None)]
    assert await kept_history(db, "acme") == {"leads": (moment(2), 3)}
    older = (await versions_of(db, "acme", "leads", 1))[-1]
    assert (older.raw, older.name, older.source) == (
        {"id": 1, "name": "Deal", "status_id": 11},
        "Deal",
        "webhook",
    )


async def test_of_other_kinds_and_orgs_nothing_is_kept_and_the_switch_can_be_turned_off(db: Database) -> None:
    await connect(db, "acme")
    await keep_history(db, "acme", ["leads"], now=START)
    for kind in ("leads", "contacts"):
        for second in range(3):
            await _save(db, record(1, second, second, status_id=second), now=second, kind=kind)
    assert len(await versions_of(db, "acme", "leads", 1)) == 3
    assert len(await versions_of(db, "acme", "contacts", 1)) == 1
    assert await versions_of(db, "beta", "leads", 1) == []
    assert await stop_history(db, "acme", ["leads"]) == 0
    await _save(db, record(1, 5, 5, status_id=5), now=5)
    assert await _told(db) == [("present", 5, None), ("present", 1, 2), ("present", 0, 1)]
    assert await kept_history(db, "acme") == {}
    assert await stop_history(db, "acme", ["leads"], forget=True) == 2
    assert await _told(db) == [("present", 5, None)]
    with pytest.raises(UnknownConnectionError):
        await keep_history(db, "nobody", ["leads"], now=START)


async def test_sql_has_the_timeline_without_a_gap(db: Database) -> None:
    await connect(db, "acme")
    await keep_history(db, "acme", ["leads"], now=START)
    for second in range(4):
        await _save(db, record(1, second, second, status_id=second), record(2, 0, second), now=second)
    query = "SELECT status_id, known_from, known_until FROM record_timeline WHERE record_id = {} ORDER BY status_id"
    async with db.read() as connection:
        if db.dialect == "postgresql":
            await connection.execute(text(f'SET LOCAL search_path TO "{db.address.schema or "public"}"'))
        rows = (await connection.execute(text(query.format(1)))).all()
        others = (await connection.execute(text(query.format(2)))).all()
    assert [row.status_id for row in rows] == [0, 1, 2, 3]
    assert (rows[0].known_from, rows[-1].known_until) == (None, None)
    assert all(before.known_until == after.known_from is not None for before, after in pairwise(rows))
    assert [(row.known_from, row.known_until) for row in others] == [(None, None)]


async def test_what_grew_old_goes_by_its_own_age(db: Database) -> None:
    await connect(db, "acme")
    await keep_history(db, "acme", ["leads"], now=START)
    for second in range(3):
        await _save(db, record(1, second, second, status_id=second), now=second)
    rule = next(rule for rule in RULES if rule.name == "record versions")
    for age, left in ((timedelta(days=9), 3), (timedelta(days=11), 1)):
        await remove_old(db, rule, Ages({"record_versions": 10}), now=START + age)
        assert len(await _told(db)) == left


async def test_of_a_deleted_record_its_content_can_be_forgotten_and_no_webhook_brings_it_back(
    db: Database,
) -> None:
    await connect(db, "acme")
    await keep_history(db, "acme", ["leads"], now=START)
    await _save(db, record(1, 0, 0, name="Ann"), now=0)
    await _save(db, record(1, 1, 1, name="Anna"), now=1)
    assert not await forget_record(db, "acme", "leads", 1), "it is still there"
    assert len(await _told(db)) == 2
    await _gone(db, 1, now=2)
    assert await forget_record(db, "acme", "leads", 1)
    stored = await get_record(db, "acme", "leads", 1)
    assert stored is not None
    assert (stored.state, stored.raw, stored.name, stored.digest, stored.pipeline_id) == (
        "deleted",
        {},
        None,
        "",
        None,
    )
    assert await _told(db) == [("deleted", None, None)]
    await _save(db, record(1, 1, 1, name="Anna"), now=3)  # a webhook that was late
    assert await _told(db) == [("deleted", None, None)]
    assert not await forget_record(db, "acme", "leads", 2)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["save", "save", "gone"]), st.integers(1, 2), st.integers(0, 3), st.integers(-2, 0)
    ),
    max_size=12,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=_STEPS)
async def test_s2_whatever_is_written_in_whatever_order_the_history_is_what_the_mirror_showed(
    db: Database, steps: list[tuple[str, int, int, int]]
) -> None:
    await connect(db, "acme")
    await stop_history(db, "acme", ["leads"], forget=True)
    async with db.begin() as connection:
        await connection.execute(delete(table_of(RecordRow)))
    await keep_history(db, "acme", ["leads"], now=START)
    shown: dict[int, list[tuple[str, int | None, str]]] = {1: [], 2: []}
    for second, (step, number, status, late) in enumerate(steps):
        if step == "save":
            await _save(db, record(number, second + late, second, status_id=status), now=second)
        else:
            await _gone(db, number, now=second)
        stored = await get_record(db, "acme", "leads", number)
        seen = None if stored is None else (stored.state, stored.status_id, stored.digest)
        if seen is not None and (not shown[number] or shown[number][-1] != seen):
            shown[number].append(seen)
    for number, states in shown.items():
        told = [
            (one.state, one.status_id) for one in reversed(await versions_of(db, "acme", "leads", number))
        ]
        assert told == [state[:2] for state in states]
