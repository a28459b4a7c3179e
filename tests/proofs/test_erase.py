"""Erasing an org: a search through our tables and Prefect's whole database finds one line of the audit.

The server of the default round records no events, as in all tests; that of the full round has all its services.
"""

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import pytest
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound
from prefect.logging.handlers import APILogWorker
from prefect.states import Completed, Running
from sqlalchemy import select, update

from blocks.settings import Settings
from flows.actions import create_task
from flows.fleet_sync import full_crm_sync_all
from flows.full_sync import full_crm_sync
from sandbox import sandbox_in_thread
from store.audit import list_audit
from store.connections import get_connection
from store.erasing import ERASED, leftovers
from store.errors import UnknownConnectionError
from store.tables import Connection, metadata, table_of
from tasks.credentials import PrefectBlocks
from tasks.erase import erase
from tasks.errors import DataPlaneError, FleetSyncFailedError, SyncFailedError
from tasks.installation import open_database
from tests.everywhere import prefect_database
from tests.prefect_server import running_prefect
from tests.proofs.support import FULL
from tests.syncing import connect, quiet_config

pytestmark = pytest.mark.proof

_SERVICES = ("EVENT_PERSISTER", "TRIGGERS", "TASK_RUN_RECORDER")
_DAY = 86_400


@pytest.fixture
def prefect(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A Prefect server; of a full round, one that records all that it can."""
    if not FULL:
        request.getfixturevalue("prefect_api")
        yield
        return
    for service in _SERVICES:
        monkeypatch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "true")
    folder = tmp_path / "prefect"
    folder.mkdir()
    with running_prefect(folder, tmp_path):
        yield


def _anywhere(*names: str) -> re.Pattern[str]:
    """These names with whatever before them, but not as the beginning of a longer one: no pattern of what is tested."""
    return re.compile(rf"(?:{'|'.join(names)})(?![\w-])")


def _in_prefect(pattern: re.Pattern[str]) -> dict[str, int]:
    """Every value of every row of Prefect's database that names the org, counted by table and column."""
    found: dict[str, int] = {}
    with closing(sqlite3.connect(f"file:{prefect_database()}?mode=ro", uri=True)) as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in database.execute(f'select * from "{table}"'):  # noqa: S608 - names of Prefect's own tables
                for value in row:
                    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                    if pattern.search(text):
                        found[table] = found.get(table, 0) + 1
    return found


async def _in_store(settings: Settings, pattern: re.Pattern[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    async with open_database(settings) as database, database.read() as connection:
        for table in metadata.sorted_tables:
            for row in await connection.execute(select(table)):
                if any(pattern.search(str(value)) for value in row):
                    found[table.name] = found.get(table.name, 0) + 1
    return found


@pytest.mark.one_database
@pytest.mark.seconds(8)
@pytest.mark.usefixtures("prefect")
async def test_of_an_erased_org_one_line_of_the_audit_is_left(installation: Settings) -> None:
    with sandbox_in_thread(quiet_config(accounts=2, leads=5, contacts=3, companies=2)) as kommo:
        # Names of their own, so that nothing else is found by them; one begins as the other does.
        for org, account in (("vanishing", kommo.accounts[0]), ("vanishing-two", kommo.accounts[1])):
            await connect(org, account, installation)
            await full_crm_sync(org)
        await create_task("vanishing", text="Call Ann", complete_till=int(time.time()) + _DAY)
        kommo.world.faults.add(kind="401", rate=1.0, times=1, path="users")
        with pytest.raises(FleetSyncFailedError, match="vanishing"):
            await full_crm_sync_all(concurrency=1)
        kommo.world.faults.add(kind="401", rate=1.0, times=1, path="account")
        with pytest.raises((SyncFailedError, DataPlaneError)):
            await full_crm_sync("vanishing")
        await asyncio.to_thread(APILogWorker.drain_all)
        await asyncio.to_thread(EventsWorker.drain_all)
        async with open_database(installation) as database:
            account_id = (await get_connection(database, "vanishing")).account_id
            pattern, other = _anywhere("vanishing", str(account_id)), _anywhere("vanishing-two")
            before = _in_prefect(pattern)
            assert {"flow_run", "log", "block_document"} <= set(before), "it was everywhere"
            if FULL:
                await _events_are_recorded(pattern)
            kept = await _in_store(installation, other)
            report = await erase(
                "vanishing",
                installation,
                database=database,
                by="dpo",
                prefect_database_url=f"sqlite+aiosqlite:///{prefect_database()}",
            )
            assert report.prefect is not None
            assert report.prefect.runs >= 2
            assert report.prefect.left == {}
            if FULL:
                await asyncio.sleep(8)  # what the removal itself has set going would be recorded by then
            assert _in_prefect(pattern) == {}
            assert await _in_store(installation, pattern) == {"connection_audit": 1}
            assert [line.event for line in await list_audit(database, "vanishing")] == [ERASED]
            # The other one, whose name begins with the same word, has all that it had, and works.
            assert await _in_store(installation, other) == kept
            assert _in_prefect(other)
            async with PrefectBlocks() as blocks:
                assert await blocks.load("vanishing") is None
                assert await blocks.load("vanishing-two") is not None
            with pytest.raises(UnknownConnectionError):
                await erase("vanishing", installation, database=database, by="dpo")


@pytest.mark.whole_service
@pytest.mark.one_database
@pytest.mark.seconds(6)
@pytest.mark.usefixtures("prefect")
async def test_an_org_named_like_what_prefect_says_takes_nothing_of_others_along(
    installation: Settings,
) -> None:
    with sandbox_in_thread(quiet_config(accounts=2)) as kommo:
        for org, account in (("1", kommo.accounts[0]), ("staying", kommo.accounts[1])):
            await connect(org, account, installation)
        # A tenant's id may be a number, and what an account is called is up to the customer.
        async with open_database(installation) as database, database.begin() as connection:
            row = table_of(Connection)
            called = {"account_name": "Kommo Connection", "subdomain": "Completed"}
            await connection.execute(update(row).where(row.c.org == "1").values(called))
        async with get_client() as client:
            others = [
                await client.create_flow_run(
                    full_crm_sync, parameters={"org": "staying"}, name="sync staying", tags=["1"]
                ),
                await client.create_flow_run(
                    full_crm_sync_all, parameters={"concurrency": 1}, name="sync all 1"
                ),
                await client.create_flow_run(full_crm_sync_all, name="Completed"),
            ]
            own = await client.create_flow_run(full_crm_sync, parameters={"org": "1"}, name="sync 1 all")
            for run in (*others, own):
                await client.set_flow_run_state(run.id, Completed(), force=True)
            going_on = await client.create_flow_run(
                full_crm_sync_all, parameters={"concurrency": 1}, name="sync 1"
            )
            await client.set_flow_run_state(going_on.id, Running(), force=True)
            async with open_database(installation) as database:
                await erase(
                    "1",
                    installation,
                    database=database,
                    by="dpo",
                    prefect_database_url=f"sqlite+aiosqlite:///{prefect_database()}",
                )
            for run in (*others, going_on):
                there = await client.read_flow_run(run.id)
                assert there.parameters == run.parameters
                assert there.state is not None
            assert (await client.read_flow_run(going_on.id)).state_name == "Running"
            with pytest.raises(ObjectNotFound):
                await client.read_flow_run(own.id)
        async with PrefectBlocks() as blocks:
            assert await blocks.load("1") is None
            assert await blocks.load("staying") is not None


@pytest.mark.whole_service
@pytest.mark.one_database
@pytest.mark.seconds(6)
@pytest.mark.usefixtures("prefect")
@pytest.mark.parametrize(
    "where", ["PrefectBlocks.delete", "remove_runs_and_artifacts", "erase_rows", "leftovers"]
)
async def test_an_erasure_that_broke_off_anywhere_is_begun_again(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class KilledError(BaseException):
        pass

    async def killed(*_given: object, **_more: object) -> NoReturn:
        raise KilledError

    with sandbox_in_thread(quiet_config(accounts=1)) as kommo:
        await connect("broken", kommo.accounts[0], installation)
        async with get_client() as client, open_database(installation) as database:
            run = await client.create_flow_run(
                full_crm_sync, parameters={"org": "broken"}, name="sync broken"
            )
            await client.set_flow_run_state(run.id, Completed(), force=True)
            url = f"sqlite+aiosqlite:///{prefect_database()}"
            with monkeypatch.context() as patch:
                if where == "leftovers":
                    looks = iter(range(1, 99))

                    async def fourth(*given: Any) -> dict[str, int]:
                        if next(looks) == 4:
                            raise KilledError
                        return await leftovers(*given)

                    patch.setattr("tasks.erase.leftovers", fourth)
                else:
                    patch.setattr(f"tasks.erase.{where}", killed)
                with pytest.raises(KilledError):
                    await erase("broken", installation, database=database, by="dpo", prefect_database_url=url)
            with contextlib.suppress(UnknownConnectionError):
                await erase("broken", installation, database=database, by="dpo", prefect_database_url=url)
            await asyncio.to_thread(APILogWorker.drain_all)
            assert _in_prefect(_anywhere("broken")) == {}
            assert await _in_store(installation, _anywhere("broken")) == {"connection_audit": 1}


async def _events_are_recorded(pattern: re.Pattern[str]) -> None:
    end = time.monotonic() + 30
    while "events" not in _in_prefect(pattern):
        assert time.monotonic() < end, "the server has recorded no event"
        time.sleep(0.5)  # noqa: ASYNC251 - the server is another process
