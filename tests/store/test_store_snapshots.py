"""Saving and reading snapshots (S1, S2, S3): what is written, what is seen, what is refused."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select, text

from store.database import Database
from store.errors import InvalidReadError, NoSnapshotError, UnknownKindError, UnknownRunError
from store.kinds import KINDS, find_kind
from store.snapshots import (
    Item,
    Saved,
    begin_run,
    fail_snapshot,
    finish_run,
    latest_run,
    latest_runs,
    list_runs,
    read_snapshot,
    save_snapshot,
)
from store.tables import metadata
from tests.store.builders import enum, field, item, minutes, pipeline, save, start_process, status


async def _versions(db: Database) -> int:
    """How many version rows there are in all tables."""
    tables = {kind.table for kind in KINDS.values()}
    async with db.read() as connection:
        return sum(
            [
                (await connection.execute(select(func.count()).select_from(table))).scalar_one()
                for table in tables
            ]
        )


def _statements(db: Database) -> list[str]:
    """A list that grows with each statement that the engine sends."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append(statement)

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    return seen


CRM = {
    "pipelines": [pipeline(1, "Sales", is_main=True), pipeline(2, "Support")],
    "statuses": [status(1, 11, "New"), status(1, 142, "Won"), status(2, 21, "Open"), status(2, 142, "Done")],
}


async def test_s3_an_unchanged_read_writes_no_version(db: Database) -> None:
    await save(db, 0, CRM)
    before = await _versions(db)
    _, saved = await save(db, 1, CRM)
    assert await _versions(db) == before
    assert saved == {"pipelines": Saved(2), "statuses": Saved(4)}
    assert (await read_snapshot(db, "acme", "pipelines")).taken_at == minutes(1)


async def test_s3_one_renamed_stage_is_exactly_one_new_version(db: Database) -> None:
    await save(db, 0, CRM)
    before = await _versions(db)
    renamed = [status(1, 11, "Hello"), *CRM["statuses"][1:]]
    _, saved = await save(db, 1, {**CRM, "statuses": renamed})
    assert await _versions(db) == before + 1
    assert saved == {"pipelines": Saved(2), "statuses": Saved(4, changed=1)}
    now = await read_snapshot(db, "acme", "pipelines")
    then = await read_snapshot(db, "acme", "pipelines", at=minutes(0.5))
    assert [now.items[0]["statuses"][0]["name"], then.items[0]["statuses"][0]["name"]] == ["Hello", "New"]


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: {**raw, "_links": {"self": {"href": "https://moved.kommo.com/?page=7"}}},
        lambda raw: dict(reversed(raw.items())),
        lambda raw: {**raw, "_embedded": {**raw["_embedded"], "_links": {"next": 1}}},
    ],
    ids=["another link", "another order of keys", "a link deeper down"],
)
async def test_what_does_not_matter_is_no_change(
    db: Database, change: Callable[[dict[str, Any]], Any]
) -> None:
    first = item(
        "pipelines", {"_embedded": {"x": [{"y": 1}]}, "_links": {"self": 1}}, pipeline_id=1, name="Sales"
    )
    await save(db, 0, {"pipelines": [first]})
    _, saved = await save(db, 1, {"pipelines": [Item(first.key, first.columns, change(first.raw))]})
    assert saved["pipelines"] == Saved(1)


async def test_s2_a_field_that_kommo_adds_tomorrow_is_a_change_and_is_kept(db: Database) -> None:
    await save(db, 0, {"pipelines": [pipeline(1)]})
    _, saved = await save(db, 1, {"pipelines": [item("pipelines", {"is_new": [1]}, **pipeline(1).columns)]})
    assert saved["pipelines"].changed == 1
    view = await read_snapshot(db, "acme", "pipelines", raw=True)
    assert view.items[0]["raw"]["is_new"] == [1]


async def test_what_is_missing_from_a_complete_read_is_gone_and_can_come_back(db: Database) -> None:
    await save(db, 0, {"loss_reasons": [item("loss_reasons", loss_reason_id=1, name="Price")]})
    _, gone = await save(db, 1, {"loss_reasons": []})
    _, back = await save(db, 2, {"loss_reasons": [item("loss_reasons", loss_reason_id=1, name="Price")]})
    assert (gone["loss_reasons"].removed, back["loss_reasons"].added) == (1, 1)
    sizes = [
        len((await read_snapshot(db, "acme", "loss_reasons", at=minutes(at))).items) for at in (0.5, 1.5, 2.5)
    ]
    assert sizes == [1, 0, 1]


async def test_one_orgs_snapshot_is_not_anothers(db: Database) -> None:
    await save(db, 0, {"pipelines": [pipeline(1, "Ours")]})
    await save(db, 1, {"pipelines": [pipeline(1, "Theirs")]}, org="other")
    assert (await read_snapshot(db, "acme", "pipelines")).items[0]["name"] == "Ours"
    run_id = await begin_run(db, "other", "all", now=minutes(2))
    with pytest.raises(UnknownRunError):
        await save_snapshot(db, run_id, "acme", CRM, read_started_at=minutes(2), now=minutes(2))


async def test_answers_use_kommos_names_nested_and_sorted(db: Database) -> None:
    await save(
        db,
        0,
        {
            "pipelines": [
                pipeline(2, "Second", sort=1),
                pipeline(1, "First", sort=1),
                pipeline(3, "No place", sort=None),
            ],
            "statuses": [status(1, 12, sort=20), status(1, 11, sort=10)],
            "lead_fields": [field(7, "Size", is_system=False)],
            "lead_field_enums": [enum(7, 2, "L", sort=2), enum(7, 1, "S", sort=1)],
        },
    )
    funnels = (await read_snapshot(db, "acme", "funnels")).items
    assert [funnel["id"] for funnel in funnels] == [1, 2, 3]
    assert [stage["id"] for stage in funnels[0]["statuses"]] == [11, 12]
    assert set(funnels[0]["statuses"][0]) == {
        "id",
        "pipeline_id",
        "name",
        "sort",
        "color",
        "type",
        "is_editable",
    }
    (size,) = (await read_snapshot(db, "acme", "dealFields")).items
    assert {name: size[name] for name in ("id", "name", "type", "code", "is_system", "entity_type")} == {
        "id": 7,
        "name": "Size",
        "type": "text",
        "code": None,
        "is_system": False,
        "entity_type": "leads",
    }
    assert [choice["value"] for choice in size["enums"]] == ["S", "L"]
    assert "enums" not in (await read_snapshot(db, "acme", "lead_fields", nested=False)).items[0]


async def test_s1_a_group_has_one_time_even_when_the_clock_stands_still_or_goes_back(db: Database) -> None:
    await save(db, 5, {"pipelines": [pipeline(1, "a")]})
    await save(db, 5, {"pipelines": [pipeline(1, "b")], "statuses": []})
    await save(db, 4, {"pipelines": [pipeline(1, "c")], "statuses": []}, read_at=6)
    runs = await list_runs(db, "acme")
    taken = {record.taken_at for run in runs for record in run.snapshots}
    tick = timedelta(microseconds=1)
    assert taken == {minutes(5), minutes(5) + tick, minutes(5) + 2 * tick}
    names = [
        (await read_snapshot(db, "acme", "pipelines", at=moment)).items[0]["name"] for moment in sorted(taken)
    ]
    assert names == ["a", "b", "c"]


async def test_s1_a_read_that_began_earlier_than_the_saved_one_writes_nothing(db: Database) -> None:
    await save(db, 10, {"pipelines": [pipeline(1, "newer")]}, read_at=9)
    rows = {"pipelines": [pipeline(1, "older")], "statuses": [status(1, 11)]}
    run_id, saved = await save(db, 11, rows, read_at=8)
    assert saved == {"pipelines": Saved(1, superseded=True), "statuses": Saved(1, superseded=True)}
    assert (await read_snapshot(db, "acme", "pipelines")).items[0]["name"] == "newer"
    with pytest.raises(NoSnapshotError):
        await read_snapshot(db, "acme", "statuses")
    run = await latest_run(db, "acme")
    assert run is not None
    assert run.run_id == run_id
    assert {record.state for record in run.snapshots} == {"superseded"}


async def test_a_repeated_save_of_one_run_adds_nothing_and_keeps_its_counts(db: Database) -> None:
    run_id = await begin_run(db, "acme", "all", now=minutes(0))
    for at in (1, 2):
        await save_snapshot(db, run_id, "acme", CRM, read_started_at=minutes(0), now=minutes(at))
    await fail_snapshot(db, run_id, "acme", ["pipelines"], "a later attempt failed", now=minutes(3))
    run = await latest_run(db, "acme")
    assert run is not None
    assert [(record.state, record.items, record.added) for record in run.snapshots] == [
        ("saved", 2, 2),
        ("saved", 4, 4),
    ]


async def test_a_failed_read_leaves_the_last_snapshot_and_its_reason(db: Database) -> None:
    await save(db, 0, CRM)
    run_id = await begin_run(db, "acme", "funnels", "flow-run-1", now=minutes(1))
    await fail_snapshot(db, run_id, "acme", ["funnels", "statuses"], "Kommo answered 402.", now=minutes(2))
    await finish_run(db, run_id, "failed", requests=3, reason="Kommo answered 402.", now=minutes(2))
    run = (await list_runs(db, "acme", limit=1))[0]
    assert (run.state, run.requests, run.flow_run_id, run.reason) == (
        "failed",
        3,
        "flow-run-1",
        "Kommo answered 402.",
    )
    assert [(record.kind, record.state) for record in run.snapshots] == [
        ("pipelines", "failed"),
        ("statuses", "failed"),
    ]
    view = await read_snapshot(db, "acme", "pipelines")
    assert (view.taken_at, len(view.items)) == (minutes(0), 2)
    assert set(await latest_runs(db, ["acme", "nobody"])) == {"acme"}


async def test_only_runs_of_the_same_org_that_began_long_ago_are_given_up(db: Database) -> None:
    dead = await begin_run(db, "acme", "all", now=minutes(0))
    other = await begin_run(db, "other", "all", now=minutes(0))
    alive = await begin_run(db, "acme", "all", now=minutes(300))
    newest = await begin_run(db, "acme", "all", now=minutes(361))
    states = {run.run_id: run.state for org in ("acme", "other") for run in await list_runs(db, org)}
    assert states == {dead: "abandoned", other: "running", alive: "running", newest: "running"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"pipelines": [pipeline(1), pipeline(1, "again")]}, "twice"),
        ({"pipelines": [], "funnels": []}, "twice"),
        ({"pipelines": [Item("", {"pipeline_id": 1}, {})]}, "empty or longer"),
        ({"pipelines": [Item("x" * 401, {"pipeline_id": 1}, {})]}, "empty or longer"),
        ({"pipelines": [Item("1", {"pipeline_id": 1, "colour": "red"}, {})]}, '"colour" of'),
        ({"pipelines": [Item("1", {"pipeline_id": 1, "sort": "10"}, {})]}, r"\(str\)"),
        ({"pipelines": [Item("1", {"pipeline_id": True}, {})]}, r"\(bool\)"),
        ({"pipelines": [Item("1", {"pipeline_id": 2**63}, {})]}, '"pipeline_id" of'),
        ({"pipelines": [Item("1", {"pipeline_id": 1}, {"x": float("nan")})]}, "not JSON"),
        ({"pipelines": [Item("1", {"pipeline_id": 1}, {"x": object()})]}, "not JSON"),
        ({"pipelines": [Item("1", {"name": "no id"}, {})]}, "pipeline_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_read_that_contradicts_itself_is_refused_whole(db: Database, rows: Any, words: str) -> None:
    with pytest.raises(InvalidReadError, match=words):
        await save(db, 0, {"loss_reasons": [item("loss_reasons", loss_reason_id=1, name="x")], **rows})
    assert await _versions(db) == 0


async def test_what_does_not_exist_is_named(db: Database) -> None:
    with pytest.raises(UnknownKindError, match="must ask for one of: account, "):
        await read_snapshot(db, "acme", "leads")
    with pytest.raises(NoSnapshotError, match="Run a sync"):
        await read_snapshot(db, "acme", "pipelines")
    await save(db, 5, CRM)
    with pytest.raises(NoSnapshotError, match="by that time"):
        await read_snapshot(db, "acme", "pipelines", at=minutes(4))
    for unknown in (finish_run(db, "no-run", "failed", now=minutes(1)),):
        with pytest.raises(UnknownRunError):
            await unknown


def test_each_kind_can_make_the_key_of_its_items() -> None:
    assert find_kind("statuses").key({"status_id": 142, "pipeline_id": 7, "name": "Won"}) == "7:142"
    assert find_kind("channels").key({"channel_id": "waba:1"}) == "waba:1"
    assert {kind.parent for kind in KINDS.values() if kind.parent} == {
        "pipelines",
        "lead_fields",
        "contact_fields",
        "company_fields",
    }


async def test_ten_thousand_rows_take_few_statements_and_unchanged_ones_write_nothing(db: Database) -> None:
    rows = {
        "lead_fields": [field(number) for number in range(1000)],
        "lead_field_enums": [enum(number // 9, number, str(number)) for number in range(9000)],
    }
    seen = _statements(db)
    began = time.perf_counter()
    await save(db, 0, rows)
    first = time.perf_counter() - began
    assert len(seen) <= 25
    seen.clear()
    began = time.perf_counter()
    _, saved = await save(db, 1, rows)
    second = time.perf_counter() - began
    assert saved == {"lead_fields": Saved(1000), "lead_field_enums": Saved(9000)}
    assert sum(statement.startswith("SELECT") for statement in seen) <= 4
    assert not any("custom_field" in statement for statement in seen if not statement.startswith("SELECT"))
    seen.clear()
    view = await read_snapshot(db, "acme", "deal_fields")
    assert len(seen) == 3
    assert sum(len(entry["enums"]) for entry in view.items) == 9000
    assert (first, second) < (10, 5)  # an order of magnitude above what it takes


async def test_every_statement_has_an_index_for_its_tables(db: Database) -> None:
    """On a database of a few orgs no statement of a save, a read or a report reads a table from end to end."""
    from store.connections import get_connection, put_connection, set_state
    from store.drift import changes_of_run, diff

    for at, org in enumerate(("acme", "b", "c", "acme")):
        await save(
            db, at, {"statuses": [status(at, number) for number in range(20)], "pipelines": []}, org=org
        )
    seen: list[tuple[str, Any]] = []

    def note(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        if statement.startswith(("SELECT", "UPDATE", "WITH")):
            seen.append((statement, parameters[0] if many else parameters))

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    run_id, _ = await save(db, 9, {"statuses": [status(1, 2)], "pipelines": []})
    await read_snapshot(db, "acme", "pipelines")
    await read_snapshot(db, "acme", "statuses", at=minutes(1))
    await diff(db, "acme")
    await changes_of_run(db, run_id)
    await list_runs(db, "acme")
    await latest_runs(db, ["acme", "b"])
    await put_connection(db, org="acme", host="x", block_name="x", token_kind="oauth", now=minutes(1))
    await get_connection(db, "acme")
    await set_state(db, "acme", "failed", now=minutes(1))
    event.remove(db.engine.sync_engine, "before_cursor_execute", note)
    assert len(seen) > 30
    async with db.read() as connection:
        if db.dialect == "postgresql":
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, parameters in seen:
            explain = "EXPLAIN " if db.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
            plan = [str(row) for row in await connection.exec_driver_sql(explain + statement, parameters)]
            scans = [
                line
                for line in plan
                if any(
                    f"{word} {table}" in line for table in metadata.tables for word in ("SCAN", "Seq Scan on")
                )
                and "USING" not in line
            ]
            assert not scans, f"{statement}\n{plan}"


async def test_s1_readers_never_see_half_a_snapshot(db: Database) -> None:
    """Each picture says its number in every pipeline and every stage; a reader must only ever see one number."""

    def picture(number: int) -> dict[str, list[Item]]:
        name = str(number)
        return {
            "pipelines": [pipeline(own, name) for own in range(5)],
            "statuses": [
                status(own, stage, name) for own in range(5) for stage in range(number % 3 * 20 + 1)
            ],
        }

    await save(db, 0, picture(0))
    done = asyncio.Event()

    async def read() -> set[str]:
        seen = set()
        while not done.is_set():
            items = (await read_snapshot(db, "acme", "pipelines")).items
            names = {
                name for entry in items for name in (entry["name"], *(s["name"] for s in entry["statuses"]))
            }
            assert len(names) == 1, names
            assert {len(entry["statuses"]) for entry in items} == {int(min(names)) % 3 * 20 + 1}
            seen |= names
        return seen

    async def write() -> None:
        for number in range(1, 16):
            await save(db, number, picture(number))
        done.set()

    seen, others, _ = await asyncio.gather(read(), read(), write())
    assert len(seen | others) > 3


async def test_s1_a_process_killed_in_the_middle_of_a_save_leaves_the_last_snapshot_whole(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    await save(db, 0, CRM)
    before = await read_snapshot(db, "acme", "pipelines", raw=True)
    process = await start_process("die_while_saving", *migrated_place, "acme")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"in the middle\n"
    assert await read_snapshot(db, "acme", "pipelines", raw=True) == before
    process.kill()
    await process.communicate()
    assert await read_snapshot(db, "acme", "pipelines", raw=True) == before
    _, saved = await save(db, 6, CRM)
    assert saved == {"pipelines": Saved(2), "statuses": Saved(4)}


async def test_saves_of_one_org_at_once_go_one_after_the_other(db: Database) -> None:
    await asyncio.gather(
        *(save(db, number, {"pipelines": [pipeline(1, str(number))], "statuses": []}) for number in range(8))
    )
    assert (await read_snapshot(db, "acme", "pipelines")).items[0]["name"] == "7"
    versions = metadata.tables["pipeline"]
    async with db.read() as connection:
        spans = (
            await connection.execute(
                select(versions.c.valid_from, versions.c.valid_to).order_by(versions.c.id)
            )
        ).all()
    assert [end for _, end in spans] == [*(begin for begin, _ in spans[1:]), None]
