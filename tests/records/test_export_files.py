"""An org's data as one file: whole, private whatever lay there before, and readable whatever the CRM holds."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from deployments.cli.output import print_json
from kommo.clock import SystemClock
from store.connections import put_connection
from store.database import Database
from store.mirror import save_records
from tasks.export import export
from tasks.files import FileNotWrittenError
from tasks.record_export import Format, export_records
from tasks.records import new_record

RAW = {"id": 1, "name": "half \ud83d, nul \x00, emoji 🙂"}


@pytest.fixture
async def filled(db: Database) -> Database:
    now = SystemClock().now()
    await put_connection(
        db, org="acme", block_name="acme", host="acme.kommo.com", account_id=1, token_kind="pair", now=now
    )
    async with db.begin() as connection:
        await save_records(connection, "acme", "leads", [new_record(RAW, read_at=now)], "sync", now=now)
    return db


async def test_a_name_that_is_no_unicode_does_not_stop_an_export(filled: Database, tmp_path: Path) -> None:
    await export("acme", tmp_path / "acme.zip", database=filled)
    with zipfile.ZipFile(tmp_path / "acme.zip") as packed:
        (line,) = packed.read("record.jsonl").decode().splitlines()
    assert json.loads(line)["raw"] == RAW


def test_nor_does_it_stop_a_command_that_prints_json(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json(RAW)
    assert json.loads(capsysbinary.readouterr().out.decode()) == RAW


@pytest.mark.parametrize("kind", ["org", "records"])
async def test_what_lay_there_before_gives_nobody_the_right_to_read_an_export(
    filled: Database, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / ("acme.zip" if kind == "org" else "leads.jsonl")
    stranger = tmp_path / "stranger"
    for left_over in (tmp_path / f".{file.name}.half", file):
        left_over.write_text("an older one")
        left_over.chmod(0o644)
    os.link(tmp_path / f".{file.name}.half", stranger)
    if kind == "org":
        await export("acme", file, database=filled)
    else:
        await export_records(filled, "acme", ["leads"], tmp_path, Format.JSONL)
    assert file.stat().st_mode & 0o777 == 0o600
    assert stranger.read_text() == "an older one"


@pytest.mark.parametrize("kind", ["org", "records"])
async def test_a_full_disk_is_said_and_leaves_nothing_half(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(*_given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tasks.export._write", full)
    monkeypatch.setattr("tasks.record_export._JsonLines.write", full)
    writing = (
        export("acme", tmp_path / "acme.zip", database=filled)
        if kind == "org"
        else export_records(filled, "acme", ["leads"], tmp_path, Format.JSONL)
    )
    with pytest.raises(FileNotWrittenError, match="No space left on device"):
        await writing
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - a look at an empty folder
