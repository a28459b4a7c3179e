"""S1, S4: a reading of records ends with exactly what Kommo holds, whatever happens while it reads."""

import asyncio
import re
from typing import Any

import pytest

from kommo.clock import SystemClock
from kommo.recordkinds import RECORD_KINDS
from store.connections import ConnectionState, set_state
from store.database import Database
from store.erasing import erase_rows, leftovers
from store.errors import UnknownConnectionError
from store.mirror import get_record, record_states
from store.record_sync import PageSaved, ReadingTakenOverError, RecordMode, count_records, save_page
from tasks import record_reading
from tasks.progress import Step, listen_to_progress
from tasks.record_reading import KindReader
from tasks.record_session import session_of
from tasks.sync_records import RecordsProgress
from tests.records.support import archive, client_of
from tests.syncing import quiet_config

SMALL = quiet_config(accounts=1, leads=620, contacts=40, companies=10)
FULL = RecordMode.FULL


@pytest.mark.seconds(3)
async def test_s4_every_kind_is_read_whole_and_an_unchanged_one_writes_nothing(db: Database) -> None:
    async with archive(db, SMALL) as org:
        counts = {kind: await org.read(kind) for kind in RECORD_KINDS}
        for kind in ("leads", "contacts", "companies", "tasks"):
            await org.assert_mirrored(kind)
        account = org.sandbox.account("acme")
        assert counts["events"].added == len(account.events)
        assert counts["talks"].added == len(account.talks)
        assert counts["unsorted"].added == len(account.unsorted)
        assert counts["lead_notes"].added == sum(note["_entity"] == "leads" for note in account.notes)
        assert counts["catalog_elements"].added == sum(len(held) for held in account.elements.values())
        assert counts["messages"].added == sum(len(held) for held in account.messages.values()) > 0
        again = {kind: await org.read(kind, FULL) for kind in RECORD_KINDS}
        assert {kind: (one.added, one.changed, one.gone) for kind, one in again.items()} == dict.fromkeys(
            RECORD_KINDS, (0, 0, 0)
        )
        note = (await count_records(db, "acme"))[0]
        assert note.sync is not None


@pytest.mark.parametrize("ended", ["erased", "disconnected"])
async def test_of_an_org_that_was_ended_meanwhile_no_further_kind_is_read(db: Database, ended: str) -> None:
    async with archive(db, quiet_config(accounts=1, leads=3, contacts=3)) as org:
        await org.read("leads")
        if ended == "erased":
            await erase_rows(db, "acme", by="dpo", now=SystemClock().now())
        else:
            await set_state(
                db, "acme", ConnectionState.DISCONNECTED, "It was ended.", now=SystemClock().now()
            )
        before = await leftovers(db, "acme")
        with pytest.raises(UnknownConnectionError, match="not connected any more"):
            await org.read("contacts")
        assert await leftovers(db, "acme") == before


async def test_how_far_a_reading_is_is_told_and_the_second_time_for_how_much_longer(db: Database) -> None:
    told: list[Step] = []
    listen_to_progress(told.append)
    async with archive(db, SMALL) as org:
        await org.read("companies")  # which are there, and are not asked for
        for _ in range(2):
            session = await session_of(org.connection, org.client, db, SystemClock())
            progress = RecordsProgress(session, ["contacts", "leads"], FULL)
            await progress.start()
            for kind in ("contacts", "leads"):
                await progress.step(await KindReader(session, RECORD_KINDS[kind], FULL).read())
    first, second = told[: len(told) // 2], told[len(told) // 2 :]
    assert [step.group for step in first if step.under_way is None] == ["contacts", "leads"]
    halves = [[step.under_way for step in half if step.under_way is not None] for half in (first, second)]
    assert all(re.match(r"[\d,]+ records, [\d,]+ a second, [\d,]+ requests", text) for text in halves[0])
    assert not any("more" in text for text in halves[0]), "what there is nobody knows the first time"
    assert re.search(r", about \d+ s more$", halves[1][0])
    assert "more" not in halves[1][-1], "nothing is left"


async def test_messages_are_read_where_the_token_may_and_cost_one_request_where_it_may_not(
    db: Database,
) -> None:
    async with archive(db, SMALL) as org:
        await org.read("talks")
        world = org.sandbox.world
        poor = world.tokens.issue(
            world.accounts.cards[0],
            world.accounts.cards[0].admin_id,
            world.integration.client_id,
            ["crm"],
            seconds=3600,
        )
        async with client_of(org.connection.host, poor.value) as client:
            session = await session_of(org.connection, client, db, SystemClock())
            refused = await KindReader(session, RECORD_KINDS["messages"], FULL).read()
        assert (refused.state, refused.added, refused.requests) == ("complete", 0, 1)
        assert "list_external_messages" in (refused.note or "")
        assert (await org.read("messages")).added > 0


async def test_s4_an_incremental_reading_costs_what_has_changed(db: Database) -> None:
    async with archive(db, SMALL) as org:
        first = await org.read("leads")
        assert first.mode == "full"
        for number in list(org.held("leads"))[:6]:
            org.change("update_record", entity="leads", id=number, values={"name": "New name"})
        second = await org.read("leads")
        assert (second.mode, second.changed, second.added, second.gone) == ("incremental", 6, 0, 0)
        assert second.requests <= 1 + 2
        await org.assert_mirrored("leads")


async def test_s1_what_vanished_is_gone_only_when_kommo_was_asked_for_it(db: Database) -> None:
    async with archive(db, SMALL) as org:
        await org.read("leads")
        gone, back = list(org.held("leads"))[3:5]
        for number in (gone, back):
            org.change("delete_record", entity="leads", id=number)
        assert (await org.read("leads")).gone == 0, "what changed says nothing of what is gone"
        assert (await org.read("leads", FULL)).gone == 2
        states = await record_states(db, "acme", "leads", [gone, back])
        assert {facts.state for facts in states.values()} == {"deleted"}
        org.change("restore_record", entity="leads", id=back)
        await org.read("leads", FULL)
        stored = await get_record(db, "acme", "leads", back)
        assert stored is not None
        assert stored.state == "present"
        await org.assert_mirrored("leads")


@pytest.mark.parametrize("kind", ["leads", "tasks"])
async def test_s4_records_that_change_while_they_are_read_are_all_there_at_the_end(
    db: Database, kind: str
) -> None:
    async with archive(db, SMALL) as org:
        if kind == "tasks":
            for number in range(560):
                org.change(
                    "add_record",
                    entity="tasks",
                    values={"text": f"Call {number}", "complete_till": 1_900_000_000},
                )
        for round_number in range(3):
            org.sandbox.world.faults.reseed(round_number)
            org.sandbox.world.faults.add(kind="unrest", by=3)
            await org.read(kind, FULL)
            org.sandbox.world.faults.rules.clear()
            await org.read(kind)
            missing = set(org.held(kind)) - set(await record_states(db, "acme", kind))
            assert missing == set()
        await org.read(kind, FULL)
        await org.assert_mirrored(kind)


async def test_s4_where_kommo_ignores_the_filter_the_list_is_read_by_id(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox.routes import entities

    monkeypatch.setattr(entities, "_LEADS", {})
    async with archive(db, SMALL) as org:
        count = await org.read("leads", FULL)
        assert "whole" in (count.note or "")
        await org.assert_mirrored("leads")


async def test_s4_more_records_of_one_second_than_a_page_holds_are_all_read(db: Database) -> None:
    async with archive(db, SMALL) as org:
        leads = org.sandbox.account("acme").entities["leads"]
        for number in list(org.held("leads"))[20:]:
            leads.change(number, updated_at=1_700_000_000)
        await org.read("leads", FULL)
        await org.assert_mirrored("leads")


@pytest.mark.parametrize(("kind", "pages"), [("leads", 3), ("tasks", 2)])
async def test_s1_a_reading_that_was_killed_is_gone_on_with_and_proves_nothing_gone_by_itself(
    db: Database, monkeypatch: pytest.MonkeyPatch, kind: str, pages: int
) -> None:
    async with archive(db, quiet_config(accounts=1, leads=1_000)) as org:
        if kind == "tasks":
            for number in range(760):
                values = {"text": f"Call {number}", "complete_till": 1_900_000_000}
                org.change("add_record", entity="tasks", values=values)
        await org.read(kind, FULL)
        stored: list[int] = []

        async def killed(*given: Any, **more: Any) -> PageSaved:
            if len(stored) == pages:
                raise asyncio.CancelledError
            stored.append(len(given[2]))
            return await save_page(*given, **more)

        async def nothing(*_: Any, **__: Any) -> None:
            """A killed process says nothing."""

        with monkeypatch.context() as patched:
            patched.setattr(record_reading, "save_page", killed)
            patched.setattr(record_reading, "fail_reading", nothing)
            with pytest.raises(asyncio.CancelledError):
                await org.read(kind, FULL)
        gone = max(org.held(kind))
        org.change("delete_record", entity=kind, id=gone)
        again = await org.read(kind, FULL)
        assert again.resumed
        assert again.gone <= 1
        total = len(org.held(kind)) + 1
        # What was stored before is not read again, but for the second in which a page ended and what changed lately.
        assert again.records <= total - sum(stored) + 30
        await org.read(kind, FULL)
        await org.assert_mirrored(kind)


async def test_of_two_runs_that_read_a_kind_at_once_the_later_one_goes_on(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(db, SMALL) as org:
        once: list[bool] = []

        async def overtaken(*given: Any, **more: Any) -> PageSaved:
            if not once:
                once.append(True)
                await org.read("leads", FULL)
            return await save_page(*given, **more)

        monkeypatch.setattr(record_reading, "save_page", overtaken)
        with pytest.raises(ReadingTakenOverError, match="nothing to do"):
            await org.read("leads", FULL)
        await org.assert_mirrored("leads")
        assert (await count_records(db, "acme"))[0].sync is not None


async def test_s1_one_who_is_not_in_a_short_list_is_gone_after_a_second_look(db: Database) -> None:
    async with archive(db, SMALL) as org:
        unsorted = org.sandbox.account("acme").unsorted
        await org.read("unsorted")
        unsorted.pop(next(iter(unsorted)))
        assert [(await org.read("unsorted")).gone for _ in range(3)] == [0, 1, 0]
