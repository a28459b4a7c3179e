"""Erasing and giving out an org: every table is thought of, the others' rows stay, a crash in the middle is no end."""

import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import LargeBinary, Table, func, insert, select

from store import erasing
from store.audit import list_audit
from store.database import Database
from store.erasing import ERASED, ORGLESS, erase_rows, erased_at, leftovers
from store.errors import UnknownConnectionError
from store.exporting import LEFT_OUT, SECRET_COLUMNS, exported_tables, pages_of
from store.purge import purge_org
from store.tables import metadata
from store.types import EpochSeconds, PlainJSON, UTCDateTime
from tasks.export import export

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ORGS = ("acme", "acme-two", "globex")


def _row(table: Table, org: str, number: int) -> dict[str, Any]:
    """A row of any table that fits its columns, and keeps its keys apart from all others."""
    values: dict[str, Any] = {}
    for column in table.columns:
        if column.name == "org":
            values[column.name] = org
        elif column.name == "account_id":
            values[column.name] = 100 + ORGS.index(org)
        elif column.name == "id" and column.primary_key:
            continue
        elif isinstance(column.type, UTCDateTime):
            values[column.name] = NOW
        elif isinstance(column.type, PlainJSON):
            values[column.name] = None if column.name == "orgs" else {"of": org}
        elif isinstance(column.type, LargeBinary):
            values[column.name] = f"\xff{org}".encode("latin-1")
        elif isinstance(column.type, EpochSeconds) or column.type.python_type in {int, float}:
            values[column.name] = number
        elif column.type.python_type is bool:
            values[column.name] = True
        else:
            values[column.name] = f"{org} {number}"
    return values


async def _filled(db: Database) -> None:
    async with db.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name in ORGLESS:
                continue
            for org in ORGS:
                for number in range(1 if [key.name for key in table.primary_key] == ["org"] else 3):
                    await connection.execute(insert(table).values(_row(table, org, number)))
        keys = metadata.tables["api_key"]
        for name, orgs in (
            ("one", ["acme"]),
            ("some", ["acme", "globex"]),
            ("all", None),
            ("two", ["acme-two"]),
        ):
            row = {"key_id": name, "name": name, "hash": name, "orgs": orgs, "created_at": NOW}
            await connection.execute(insert(keys).values(row))
        budget = metadata.tables["rate_budget"]
        for key in ("account:100", "account:101", "egress:default"):
            await connection.execute(insert(budget).values(_row(budget, "acme", 1) | {"key": key}))


async def _counts(db: Database, org: str) -> dict[str, int]:
    async with db.read() as connection:
        return {
            table.name: (
                await connection.execute(select(func.count()).where(table.c.org == org))
            ).scalar_one()
            for table in metadata.sorted_tables
            if "org" in table.c
        }


async def test_erasing_leaves_one_line_of_an_org_and_all_of_the_others(db: Database) -> None:
    await _filled(db)
    before = {org: await _counts(db, org) for org in ORGS}
    assert all(count for name, count in before["acme"].items()), "every table has rows of the org"
    removed = await erase_rows(db, "acme", by="dpo", now=NOW)
    assert removed["api_key"] == 2
    assert removed["rate_budget"] == 1
    assert set(before["acme"]) <= set(removed)
    assert await leftovers(db, "acme") == {}
    after = await _counts(db, "acme")
    assert {name: count for name, count in after.items() if count} == {"connection_audit": 1}
    [line] = await list_audit(db, "acme")
    assert (line.event, line.detail["by"], line.detail["rows"]) == (ERASED, "dpo", sum(removed.values()))
    assert await erased_at(db, "acme") == NOW
    for other in ORGS[1:]:
        assert await _counts(db, other) == before[other]
    async with db.read() as connection:
        keys = metadata.tables["api_key"]
        kept = {row.key_id: row.orgs for row in await connection.execute(select(keys))}
    assert kept == {"some": ["globex"], "all": None, "two": ["acme-two"]}
    with pytest.raises(UnknownConnectionError):
        await erase_rows(db, "acme", by="dpo", now=NOW)


async def test_an_erasure_that_was_cut_off_anywhere_is_made_good_by_the_next(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _filled(db)
    whole = erasing._in_batches
    left = 4

    async def cut_off(*arguments: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConnectionError
        return await whole(*arguments)

    monkeypatch.setattr(erasing, "_in_batches", cut_off)
    with pytest.raises(ConnectionError):
        await erase_rows(db, "acme", by="dpo", now=NOW)
    half = await leftovers(db, "acme")
    assert half["connection"] == 1, "who is cut off finds the org again"
    monkeypatch.setattr(erasing, "_in_batches", whole)
    monkeypatch.setattr(erasing, "BATCH", 1)
    await erase_rows(db, "acme", by="dpo", now=NOW)
    assert await leftovers(db, "acme") == {}


@pytest.mark.parametrize("how", ["erase", "purge"])
async def test_what_came_for_its_account_when_nobody_was_connected_is_given_out_and_goes_with_it(
    db: Database, tmp_path: Path, how: str
) -> None:
    await _filled(db)
    deliveries = metadata.tables["webhook_delivery"]
    async with db.begin() as connection:
        for account in (100, 999):
            row = _row(deliveries, "acme", account) | {
                "org": "",
                "delivery_id": f"nobodys-{account}",
                "account_id": account,
            }
            await connection.execute(insert(deliveries).values(row))
    before = (await _counts(db, "acme"))["webhook_delivery"]
    report = await export("acme", tmp_path / "acme.zip", database=db)
    assert report.tables["webhook_delivery"] == before + 1
    if how == "erase":
        await erase_rows(db, "acme", by="dpo", now=NOW)
    else:
        await purge_org(db, "acme", now=NOW)
    async with db.read() as connection:
        left = select(deliveries.c.delivery_id).where(deliveries.c.org == "")
        assert list((await connection.execute(left)).scalars()) == ["nobodys-999"]


async def test_two_orgs_on_one_account_do_not_erase_each_others_budget(db: Database) -> None:
    await _filled(db)
    connection_table = metadata.tables["connection"]
    async with db.begin() as connection:
        await connection.execute(connection_table.update().values(account_id=100))
    assert "rate_budget" not in await erase_rows(db, "acme", by="dpo", now=NOW)


def test_every_table_is_erased_by_its_org_or_known_to_have_none() -> None:
    assert {table.name for table in metadata.sorted_tables if "org" not in table.c} == ORGLESS
    assert {table.name for table in exported_tables()} | set(LEFT_OUT) | ORGLESS == set(metadata.tables)


def test_no_export_has_a_column_that_is_made_from_a_secret() -> None:
    suspicious = {
        (table.name, column.name)
        for table in exported_tables()
        for column in table.columns
        if any(word in column.name for word in ("hash", "fingerprint", "sealed", "token", "secret"))
        and column.name not in SECRET_COLUMNS.get(table.name, ())
    }
    # A hash of what a customer's own CRM sent, how the tokens are had, and how many they were: no secret is made of it.
    assert suspicious == {
        ("webhook_delivery", "body_hash"),
        ("connection", "token_kind"),
        ("connection", "token_serial"),
    }


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_an_export_has_every_row_of_the_org_and_none_of_another(db: Database, tmp_path: Path) -> None:
    await _filled(db)
    file = tmp_path / "acme.zip"
    report = await export("acme", file, database=db)
    assert file.stat().st_mode & 0o077 == 0, "it is for its owner only"
    assert _names(tmp_path) == ["acme.zip"]
    counts = await _counts(db, "acme")
    assert report.tables == {table.name: counts[table.name] for table in exported_tables()}
    with zipfile.ZipFile(file) as packed:
        manifest = json.loads(packed.read("manifest.json"))
        for table in exported_tables():
            lines = packed.read(f"{table.name}.jsonl").decode().splitlines()
            assert manifest["files"][f"{table.name}.jsonl"]["rows"] == len(lines) == counts[table.name]
            assert {json.loads(line)["org"] for line in lines} == {"acme"}
        [body, *_] = packed.read("webhook_delivery.jsonl").decode().splitlines()
    assert json.loads(body)["body"] == {"base64": "/2FjbWU="}
    with pytest.raises(UnknownConnectionError):
        await export("nobody", tmp_path / "nobody.zip", database=db)
    assert _names(tmp_path) == ["acme.zip"]


async def test_an_export_goes_through_all_pages(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await _filled(db)
    monkeypatch.setattr("store.exporting.PAGE", 2)
    for name, width in (("record", 3), ("webhook_event", 3), ("connection", 1)):
        pages = [page async for page in pages_of(db, metadata.tables[name], "acme")]
        assert sum(map(len, pages)) == width, name
        assert len(pages) == -(-width // 2)
