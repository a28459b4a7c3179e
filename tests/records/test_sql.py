"""S2: what Kommo has of a record can be asked for in SQL, the same on either database."""

# ruff: noqa: S608 - questions of our own

import asyncio
import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from sandbox.state import Account
from store.database import Database
from store.record_queries import QueryRefusedError, ask_in_sql, list_records
from store.record_sync import RecordMode
from tests.records.support import archive
from tests.syncing import quiet_config

PAGE = Path(__file__).parents[2] / "docs" / "records.md"
CONFIG = quiet_config(accounts=1, leads=70, contacts=70, companies=70)
ODD = 'half \ud83d, nul \x00, "quotes", emoji 🙂'


def _shown(value: Any) -> str | None:
    """A value as SQL shows it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _held(account: Account, entity: str) -> dict[tuple[int, int, int], tuple[Any, ...]]:
    """(record, field, place) → what the sandbox has there."""
    return {
        (record["id"], entry["field_id"], place): (
            entry["field_type"],
            _shown(value.get("value")),
            value.get("enum_id"),
            value.get("enum_code"),
        )
        for record in account.entities[entity]
        if not record["is_deleted"] and not record.get("is_unsorted")
        for entry in record["custom_fields_values"] or ()
        for place, value in enumerate(entry["values"], 1)
    }


@pytest.mark.seconds(2)
async def test_s2_every_custom_field_type_survives(db: Database) -> None:
    async with archive(db, CONFIG) as org:
        account, types = org.sandbox.account("acme"), set()
        for entity in ("leads", "contacts", "companies"):
            await org.read(entity, RecordMode.FULL)
            rows = (
                await ask_in_sql(
                    db,
                    "SELECT record_id, field_id, place, field_type, value, enum_id, enum_code "
                    f"FROM record_field_value WHERE entity = '{entity}'",
                    limit=100_000,
                )
            ).rows
            assert {row[:3]: row[3:] for row in rows} == _held(account, entity)
            types |= {row[3] for row in rows}
        assert types >= {
            *("text", "textarea", "url", "streetaddress", "numeric", "checkbox", "select", "radiobutton"),
            *("multiselect", "date", "date_time", "file", "monetary", "birthday", "smart_address"),
            *("legal_entity", "chained_list", "tracking_data", "multitext"),
        }


async def test_s2_a_text_that_sql_cannot_hold_hides_no_other_record(db: Database) -> None:
    async with archive(db, quiet_config(accounts=1, leads=5)) as org:
        leads = org.sandbox.account("acme").entities["leads"]
        first, second = list(org.held("leads"))[:2]
        fields = next(record["custom_fields_values"] for record in leads if record["custom_fields_values"])
        odd = {**fields[0], "values": [{"value": ODD.replace("\ud83d", "")}]}
        leads.change(first, custom_fields_values=[odd], name="nul \x00")
        await org.read("leads", RecordMode.FULL)
        values = await ask_in_sql(db, f"SELECT value FROM record_field_value WHERE record_id = {first}")
        assert values.rows == [(ODD.replace("\ud83d", "").replace("\x00", "�"),)]
        names = await ask_in_sql(db, "SELECT lead_id FROM current_leads ORDER BY lead_id")
        assert {row[0] for row in names.rows} >= {first, second}
        kept = (await list_records(db, "acme", "leads", limit=1))[0]
        assert kept.raw["name"] == "nul \x00", "the JSON keeps the original"


async def test_s2_links_and_tags_are_those_that_came_with_the_records(db: Database) -> None:
    async with archive(db, CONFIG) as org:
        await org.read("leads", RecordMode.FULL)
        rows = (
            await ask_in_sql(
                db, "SELECT record_id, to_id FROM record_link WHERE to_entity = 'contacts'", limit=10_000
            )
        ).rows
        held = {
            (number, contact) for number, lead in org.held("leads").items() for contact in lead["_contacts"]
        }
        assert set(rows) == held
        tags = (await ask_in_sql(db, "SELECT record_id, tag_id FROM record_tag", limit=10_000)).rows
        assert set(tags) == {(n, tag) for n, lead in org.held("leads").items() for tag in lead["_tags"]}


@pytest.mark.parametrize(
    "question",
    [
        "DELETE FROM record",
        "SELECT 1; DELETE FROM record",
        "WITH gone AS (DELETE FROM record RETURNING 1) SELECT * FROM gone",
        "SELECT nothing FROM nowhere",
    ],
)
async def test_a_question_in_sql_changes_nothing(db: Database, question: str) -> None:
    async with archive(db, quiet_config(accounts=1, leads=5)) as org:
        await org.read("leads", RecordMode.FULL)
        with pytest.raises(QueryRefusedError):
            await ask_in_sql(db, question)
        assert len(await list_records(db, "acme", "leads")) == 5
        await org.read("leads", RecordMode.FULL)  # the connection can write as before


@pytest.mark.parametrize(
    "question",
    [
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT nextval('connection_audit_id_seq')",
        "SELECT '\ud83d'",
        "SELECT '\x00'",
        "SELECT ?",
        "selected",
    ],
)
async def test_a_question_that_would_change_something_or_is_none_is_refused(
    db: Database, question: str
) -> None:
    with pytest.raises(QueryRefusedError):
        await ask_in_sql(db, question)


@pytest.mark.parametrize(
    "question", ["WITH\nx AS (SELECT 1) SELECT * FROM x", "select\n1;", "SELECT 'a;b' WHERE 1=1"]
)
async def test_a_question_may_have_lines_and_semicolons_in_its_texts(db: Database, question: str) -> None:
    assert len((await ask_in_sql(db, question)).rows) == 1


async def test_a_question_without_an_end_is_ended(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT 1 FROM c) SELECT count(*) FROM c WHERE x < 0"
    monkeypatch.setattr("store.record_queries.QUERY_SECONDS", 1.0)
    async with asyncio.timeout(20):
        with pytest.raises(QueryRefusedError):
            await ask_in_sql(db, endless)
    monkeypatch.setattr("store.record_queries.QUERY_SECONDS", 10.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ask_in_sql(db, endless)
    async with asyncio.timeout(5):
        assert (await ask_in_sql(db, "SELECT 1")).rows == [(1,)]


async def test_of_a_large_answer_only_what_is_shown_is_fetched(db: Database) -> None:
    many = (
        "SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
        if db.dialect == "postgresql"
        else "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 200000) "
        "SELECT hex(zeroblob(500)) FROM c"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = await ask_in_sql(db, many, limit=10)
    assert (len(answer.rows), answer.more) == (10, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000, "KiB; all of it is 200 MB"


async def test_the_questions_on_the_page_of_records_can_be_asked(db: Database) -> None:
    page = PAGE.read_text()
    questions = [
        question
        for block in re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        for question in block.split(";")
    ]
    asked = [await ask_in_sql(db, question) for question in questions if question.strip()]
    assert len(asked) >= 2
    assert all(answer.columns for answer in asked)
