"""The rows that webhooks have brought come through the migration and back, and are worth as much afterwards."""

# ruff: noqa: S608 - questions of our own

from sqlalchemy import text

from store.database import Database
from store.mirror import ChangeKind, get_record, save_records
from store.types import dump_json
from tasks.records import new_record
from tests.store.builders import START

RAW = {
    "id": 7,
    "name": "nul \x00 🙂",
    "price": 1000,
    "status_id": 142,
    "pipeline_id": 5,
    "responsible_user_id": 9,
    "created_at": int(START.timestamp()),
    "updated_at": int(START.timestamp()),
    "closed_at": int(START.timestamp()),
    "_links": {"self": {"href": "https://acme.kommo.com/api/v4/leads/7"}},
}


async def test_records_of_before_come_through_an_upgrade_and_back(empty_place: tuple[str, str]) -> None:
    async with Database.open(*empty_place) as db:
        await db.upgrade("0005")
        place = f'"{db.address.schema}".record' if db.dialect == "postgresql" else "record"
        moment = (
            START if db.dialect == "postgresql" else START.replace(tzinfo=None).isoformat(" ", "microseconds")
        )
        insert = text(
            f"INSERT INTO {place} (org, entity, record_id, name, responsible_user_id, status_id, pipeline_id, "
            "created_at, updated_at, raw, digest, state, state_since, read_at, source) VALUES "
            "('acme', 'leads', 7, 'nul � 🙂', 9, 142, 5, :at, :at, :raw, 'old', 'present', :at, :at, 'webhook')"
        )
        if db.dialect == "postgresql":
            insert = text(insert.text.replace(":raw", "CAST(:raw AS json)"))
        async with db.begin() as connection:
            await connection.execute(insert, {"at": moment, "raw": dump_json(RAW)})
        await db.upgrade()
        stored = await get_record(db, "acme", "leads", 7)
        assert stored is not None
        assert (stored.raw, stored.source) == (RAW, "webhook")
        async with db.read() as connection:
            row = (await connection.execute(text(f"SELECT price, clean FROM {place}"))).one()
        assert row.price == 1000
        assert row.clean is not None
        async with db.begin() as connection:
            again = await save_records(
                connection, "acme", "leads", [new_record(RAW, read_at=START)], "sync", now=START
            )
        assert again[7].kind is ChangeKind.UNCHANGED, "the same record does not count as changed"
        await db.downgrade("0005")
        await db.upgrade()
        stored = await get_record(db, "acme", "leads", 7)
        assert stored is not None
        assert stored.raw == RAW
