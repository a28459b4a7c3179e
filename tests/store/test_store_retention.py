"""Retention: what has grown old goes; what is still to be worked, told, shown or followed never does."""

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import func, select, update

from store.audit import add_audit, list_audit
from store.completeness import REMEMBERED, Completeness, complete_until, save_completeness
from store.database import Database
from store.drift import diff
from store.errors import NoSnapshotError, UnknownRunError
from store.inbox import EVENTS, delivery_events
from store.outbox import OutboxEvent, add_events, list_outbox
from store.retention import RULES, Ages, Removal, remove_old
from store.retention_rules import AGELESS, RUNS_KEPT
from store.snapshots import begin_run, finish_run, list_runs, read_snapshot
from store.tables import ActionRow, OutboxRow, Snapshot, WebhookDeliveryRow, metadata, table_of
from store.token_journal import chain, mark_dead
from tests.store.builders import minutes, pipeline, save, status
from tests.store.hooks import arrive, delivery
from tests.store.test_store_journal import append, connect, step_on

_DAY = 24 * 60
_ACTION, _OUTBOX, _DELIVERY = table_of(ActionRow), table_of(OutboxRow), table_of(WebhookDeliveryRow)


async def remove(
    db: Database,
    day: float,
    *,
    dry_run: bool = False,
    batch: int = 3,
    orgs: Mapping[str, Mapping[str, int]] | None = None,
    **days: int,
) -> dict[str, int]:
    """All rules on a day after the start, with these ages and no others; gives what went, by rule."""
    went: dict[str, int] = {}
    for rule in RULES:
        done: Removal = await remove_old(
            db, rule, Ages(days, orgs or {}), now=minutes(day * _DAY), dry_run=dry_run, batch=batch
        )
        if done.rows:
            went[rule.name] = done.rows + done.with_them
    return went


async def count(db: Database, table: Any) -> int:
    async with db.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


def test_no_table_is_forgotten() -> None:
    """A new table either has a rule, or stands among those that have none, with the reason."""
    aged = {rule.table.name for rule in RULES} | {child.name for rule in RULES for child, _ in rule.children}
    assert aged | set(AGELESS) == set(metadata.tables)
    assert not aged & set(AGELESS)


def test_every_walk_has_an_index() -> None:
    """A table is walked by its primary key, or by columns with which one of its indexes begins."""
    for rule in RULES:
        indexes = [[column.name for column in index.columns] for index in rule.table.indexes]
        ways = [[column.name for column in rule.table.primary_key], *indexes]
        walked = [name for name in rule.order if [name] != [rule.key] or len(rule.order) == 1]
        leading = [name for name in walked if name != rule.key] or walked
        assert any(way[: len(leading)] == leading for way in ways), rule.name


async def test_events_go_when_they_are_done_and_old_and_no_others(db: Database) -> None:
    for day in range(6):
        await arrive(db, f"a{day}", f"b{day}", at=day * 86_400)
        await arrive(db, f"a{day}", at=day * 86_400 + 1)  # again: a duplicate
    async with db.begin() as connection:
        done = EVENTS.c.unique_key.like("a%") & (EVENTS.c.state == "pending")
        await connection.execute(update(EVENTS).where(done).values(state="done", settled_at=minutes(0)))
        dead = EVENTS.c.unique_key == "b0"
        await connection.execute(update(EVENTS).where(dead).values(state="dead", settled_at=minutes(0)))
    before = await count(db, EVENTS)
    counted = await remove(db, 10, dry_run=True, events=7, deliveries=7)
    assert await count(db, EVENTS) == before
    went = await remove(db, 10, events=7, deliveries=7)
    assert went == counted
    assert went["events"] == 6  # of the first three days the done one and its duplicate
    # A delivery one of whose events waits or was given up keeps its bytes; those of the duplicates go.
    assert went["deliveries"] == 3
    async with db.read() as connection:
        kept = set((await connection.execute(select(EVENTS.c.unique_key))).scalars())
    assert kept == {f"b{day}" for day in range(6)} | {f"a{day}" for day in range(3, 6)}
    assert await remove(db, 10, events=7, deliveries=7) == {}
    assert await remove(db, 10, dead_letters=7) == {"dead events": 1}


async def test_what_cannot_be_read_is_kept_until_dead_letters_go(db: Database) -> None:
    from store.inbox import save_deliveries

    await save_deliveries(
        db, [delivery(org="", reason="not a form"), delivery(at=9 * 86_400, reason="neither")]
    )
    assert await remove(db, 10, deliveries=7, events=7) == {}
    assert await remove(db, 10, dead_letters=7) == {"unreadable deliveries": 1}


async def test_an_org_may_have_ages_of_its_own(db: Database) -> None:
    for day in range(8):
        for org in ("acme", "beta", "gamma", "zeta"):
            saved = await arrive(db, f"{org}{day}", org=org, at=day * 86_400)
            assert saved.new == 1
    async with db.begin() as connection:
        await connection.execute(update(EVENTS).values(state="done", settled_at=minutes(0)))
    own = {"beta": {"events": 3, "deliveries": 3}, "gamma": {"events": 0, "deliveries": 0}}
    went = await remove(db, 10, orgs=own, events=8, deliveries=8)
    assert went == {"deliveries": 2 + 7 + 2, "events": 2 + 7 + 2}
    async with db.read() as connection:
        left = {
            row[0]: row[1]
            for row in await connection.execute(select(EVENTS.c.org, func.count()).group_by(EVENTS.c.org))
        }
    assert left == {"acme": 6, "beta": 1, "gamma": 8, "zeta": 6}


async def test_what_is_not_told_or_not_ended_stays(db: Database) -> None:
    async with db.begin() as connection:
        for number in range(4):
            event = OutboxEvent(type="kommo.test", org="acme", subject="lead/1", payload={"n": number})
            await add_events(connection, [event], minutes(number))
    numbers = [record.id for record in await list_outbox(db, org="acme")]
    async with db.begin() as connection:
        await connection.execute(
            update(_OUTBOX).where(_OUTBOX.c.id.in_(numbers[:2])).values(state="delivered")
        )
    assert len(numbers) == 4
    for number, state in enumerate(("intended", "sent", "unknown", "confirmed", "failed")):
        async with db.begin() as connection:
            await connection.execute(_ACTION.insert().values(**_action(number, state)))
    assert await remove(db, 40, told=30, actions=30) == {"told": 2, "actions": 2}
    async with db.read() as connection:
        states = set((await connection.execute(select(_ACTION.c.state))).scalars())
    assert states == {"intended", "sent", "unknown"}


def _action(number: int, state: str) -> dict[str, Any]:
    text = dict.fromkeys(("org", "kind", "digest", "owner"), "x")
    return {
        **text,
        "action_id": uuid.uuid4().hex,
        "idempotency_key": f"key-{number}",
        "request": {},
        "plan": {},
        "twin": f"twin-{number}",
        "state": state,
        "attempts": 1,
        "until": 0.0,
        "due_at": 0.0,
        "created_at": minutes(0),
        "updated_at": minutes(0),
    }


async def _history(db: Database, days: int) -> list[str]:
    """A pipeline that gets another name every day, and one stage that comes and goes."""
    runs = []
    for day in range(days):
        stages = [status(1, 10)] if day % 2 else []
        rows = {"pipelines": [pipeline(1, f"name {day}")], "statuses": stages}
        run, _ = await save(db, day * _DAY, rows)
        runs.append(run)
    return runs


def _picture(items: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(one["name"], len(one["statuses"])) for one in items]


async def test_s3_history_inside_the_kept_time_is_untouched(db: Database) -> None:
    days, kept = 30, 15
    runs = await _history(db, days)
    now = days + 0.5
    moments = [minutes((now - kept) * _DAY), *(minutes((day + 0.25) * _DAY) for day in range(16, days))]
    before = [_picture((await read_snapshot(db, "acme", "pipelines", at)).items) for at in moments]
    drifts = [(await diff(db, "acme", one, other)).changes for one, other in pairwise(runs[15:])]
    whole = (await diff(db, "acme", runs[15], runs[-1])).changes
    went = await remove(db, now, runs=kept)
    assert went["versions of pipeline"] > 0
    assert went["versions of pipeline_status"] > 0
    after = [_picture((await read_snapshot(db, "acme", "pipelines", at)).items) for at in moments]
    assert after == before
    left = [record.run_id for record in await list_runs(db, "acme", 100)]
    assert left == runs[:14:-1]  # from the one that says what held when the kept time begins
    assert [(await diff(db, "acme", one, other)).changes for one, other in pairwise(runs[15:])] == drifts
    assert (await diff(db, "acme", runs[15], runs[-1])).changes == whole
    # What is before is said to be gone, not shown wrongly.
    with pytest.raises(NoSnapshotError):
        await read_snapshot(db, "acme", "pipelines", minutes(3 * _DAY))
    with pytest.raises(UnknownRunError):
        await diff(db, "acme", runs[3], runs[-1])
    assert await remove(db, now, runs=kept) == {}
    assert await count(db, table_of(Snapshot)) == 2 * len(left)


async def test_s3_an_org_that_is_seldom_synced_keeps_something_to_compare(db: Database) -> None:
    runs = await _history(db, 12)
    for day in range(RUNS_KEPT):  # and then it only failed
        run = await begin_run(db, "acme", "all", now=minutes((20 + day) * _DAY))
        await finish_run(db, run, "failed", reason="no answer", now=minutes((20 + day) * _DAY))
    before = (await diff(db, "acme")).changes
    went = await remove(db, 1000, runs=30)
    assert went["runs"] > 0
    assert (await diff(db, "acme")).changes == before
    left = [record.run_id for record in await list_runs(db, "acme", 100)]
    assert left[-2:] == [runs[11], runs[10]]
    assert _picture((await read_snapshot(db, "acme", "pipelines")).items) == [("name 11", 1)]


async def test_t3_a_pair_that_may_still_be_needed_stays(db: Database) -> None:
    await connect(db, "a")
    for number, (used, fresh) in enumerate((("a", "b"), ("b", "c"), ("c", "d"))):
        await append(db, used, fresh, at=(number + 1) * _DAY)
        await step_on(db, fresh, at=(number + 1) * _DAY)
    await append(db, "b", "x", at=2 * _DAY)  # a sibling that never came to its block
    await append(db, "d", "e", at=5 * _DAY)  # and the newest, not yet in its block
    await append(db, "d", "f", at=6 * _DAY)
    await mark_dead(db, "acme", "f", minutes(6 * _DAY))
    await append(db, "code:9", "n", at=0, org="nobody")
    await mark_dead(db, "nobody", "n", minutes(0))
    before = await chain(db, "acme")
    assert await remove(db, 300, tokens=100) == {"tokens": 3}
    after = await chain(db, "acme")
    assert [edge.fingerprint for edge in after.edges] == ["d", "x", "e", "f"]
    assert after.path()[-1] == before.path()[-1] == "e"


async def test_what_is_looked_for_in_the_past_is_still_found(db: Database) -> None:
    async with db.begin() as connection:
        for number in range(REMEMBERED + 5):
            since, until = minutes(number * 60), minutes((number + 1) * 60)
            await save_completeness(connection, Completeness("acme", since, until, 1, 1, 0, {}, until))
        await add_audit(connection, "acme", "connected", {}, minutes(0))
        await add_audit(connection, "acme", "disconnected", {}, minutes(50 * _DAY))
    now: datetime = minutes(2000 * _DAY)
    before = await complete_until(db, "acme", now, minutes(0))
    assert await remove(db, 60, batch=50, completeness=30, audit=30) == {"completeness": 5, "audit": 1}
    assert await complete_until(db, "acme", now, minutes(0)) == before
    assert [record.event for record in await list_audit(db, "acme")] == ["disconnected"]


async def test_a_row_that_came_to_life_meanwhile_stays(db: Database) -> None:
    """Between the look and the removal an event was replayed."""
    await arrive(db, "a", "b")
    async with db.begin() as connection:
        await connection.execute(update(EVENTS).values(state="dead", settled_at=minutes(0)))
    rule = next(rule for rule in RULES if rule.name == "dead events")
    begin = db.begin

    def replayed_before(**options: Any) -> Any:
        db.begin = begin  # type: ignore[method-assign]  # as it was
        return _after(
            begin, update(EVENTS).where(EVENTS.c.unique_key == "a").values(state="pending"), options
        )

    db.begin = replayed_before  # type: ignore[method-assign]  # another comes in between
    done = await remove_old(db, rule, Ages({"dead_letters": 1}), now=minutes(0) + timedelta(days=9))
    assert done.rows == 1
    async with db.read() as connection:
        [(delivery_id, state)] = (
            await connection.execute(select(EVENTS.c.delivery_id, EVENTS.c.state))
        ).all()
    assert state == "pending"
    assert len(await delivery_events(db, delivery_id)) == 1


def _after(begin: Any, statement: Any, options: Any) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def opened() -> Any:
        async with begin() as connection:
            await connection.execute(statement)
        async with begin(**options) as connection:
            yield connection

    return opened()
