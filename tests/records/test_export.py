"""Records as files: every format says what the store has, also of what is awkward."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kommo.clock import SystemClock
from store.connections import put_connection
from store.database import Database
from store.mirror import RecordState, mark_gone, save_records
from store.record_queries import EXPORTED
from tasks.record_export import ExportedKind, ExportError, Format, Wide, export_records
from tasks.records import new_record

AWKWARD = {
    1: {"id": 1, "name": "Сделка\x00 №1", "price": 2**62, "created_at": 1_700_000_000, "updated_at": 1_700_000_001},
    2: {"id": 2, "name": '=1+1"; "x"\nnext', "price": None, "updated_at": 1_700_000_002},
    3: {"id": 3, "name": "صفقة", "custom_fields_values": [
        {"field_id": 10, "values": [{"value": "one"}, {"value": "two"}]},
        {"field_id": 11, "values": [{"value": 7}]},
    ]},
    4: {"id": 4, "name": "half \ud83d"},
}  # fmt: skip


@pytest.fixture
async def filled(db: Database) -> Database:
    now = SystemClock().now()
    await put_connection(
        db, org="acme", block_name="acme", host="acme.kommo.com", account_id=1, token_kind="pair", now=now
    )
    async with db.begin() as connection:
        rows = [new_record(raw, read_at=now) for raw in AWKWARD.values()]
        rows.append(new_record({"id": 5, "name": "gone"}, read_at=now))
        await save_records(connection, "acme", "leads", rows, "sync", now=now)
        await mark_gone(connection, "acme", "leads", [5], RecordState.DELETED, now=SystemClock().now())
    return db


async def _written(db: Database, folder: Path, form: Format, **options: Any) -> Path:
    told: list[tuple[str, int]] = []
    (one,) = await export_records(
        db, "acme", ["leads"], folder, form, step=lambda kind, rows: told.append((kind, rows)), **options
    )
    assert (one.rows, told[-1]) == (4, ("leads", 4))
    return _whole(one, folder)


def _whole(one: ExportedKind, folder: Path) -> Path:
    file = Path(one.file)
    assert file.stat().st_size == one.bytes
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == [file.name], "nothing half is left"
    return file


async def test_json_lines_have_everything_as_it_is(filled: Database, tmp_path: Path) -> None:
    file = await _written(filled, tmp_path / "out", Format.JSONL, raw=True)
    rows = {row["record_id"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert {number: row["raw"] for number, row in rows.items()} == AWKWARD
    assert rows[1]["price"] == 2**62
    assert rows[1]["created_at"] == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("escaped", [False, True])
async def test_csv_can_be_read_back_by_its_rules(filled: Database, tmp_path: Path, *, escaped: bool) -> None:
    file = await _written(filled, tmp_path / "out", Format.CSV, escape_formulas=escaped)
    with file.open(newline="", encoding="utf-8") as text:
        rows = {row["record_id"]: row for row in csv.DictReader(text)}
    assert list(rows["1"]) == list(EXPORTED)
    assert rows["1"]["name"] == "Сделка\ufffd №1"
    assert rows["2"]["name"] == ("'" if escaped else "") + '=1+1"; "x"\nnext'
    assert (rows["2"]["price"], rows["1"]["price"]) == ("", str(2**62))
    assert rows["4"]["name"] == "half \ufffd"


async def test_parquet_has_types(filled: Database, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(await _written(filled, tmp_path / "out", Format.PARQUET, raw=True))
    rows = {row["record_id"]: row for row in table.to_pylist()}
    assert rows[1]["price"] == 2**62
    assert rows[1]["created_at"].isoformat() == "2023-11-14T22:13:20+00:00"
    assert rows[3]["name"] == "صفقة"
    assert json.loads(rows[4]["raw"]) == AWKWARD[4]
    assert str(table.schema.field("updated_at").type) == "timestamp[us, tz=UTC]"


async def test_custom_fields_are_columns_where_the_set_up_is_known(filled: Database, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="kommo sync acme --scope fields"):
        await export_records(filled, "acme", ["leads"], tmp_path, Format.CSV, wide=True)
    wide = Wide([(10, "Sizes"), (11, "Count"), (12, "count"), (13, "name")])
    assert list(wide.columns.values()) == ["Sizes", "Count (11)", "count (12)", "name (13)"]
    assert wide.values(AWKWARD[3]) == {
        "Sizes": ["one", "two"], "Count (11)": 7, "count (12)": None, "name (13)": None
    }  # fmt: skip


async def test_a_kind_without_records_is_an_empty_file_with_its_columns(
    filled: Database, tmp_path: Path
) -> None:
    (one,) = await export_records(filled, "acme", ["tasks"], tmp_path, Format.CSV)
    assert one.rows == 0
    assert _whole(one, tmp_path).read_bytes().decode() == ",".join(EXPORTED) + "\r\n"
