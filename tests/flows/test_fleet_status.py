"""fleet-status: what is wrong as a whole is told when it begins, hourly, when it ends, and never twice."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from blocks.settings import Settings
from flows.fleet_status import fleet_status
from kommo.clock import SystemClock
from store.completeness import Completeness, save_completeness
from store.connections import ConnectionState, put_connection
from store.database import Database
from store.inbox import NewDelivery, NewEvent, save_deliveries
from tasks.fleet_markdown import fleet_markdown
from tasks.fleet_status import BACKLOG_STALE, COMPLETENESS_LOW, DEAD_GROWING, look, tell_alarms
from tasks.installation import open_database

BEGIN = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
WITHIN = timedelta(hours=36)


class Hour(SystemClock):
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.at = BEGIN

    def now(self) -> datetime:
        return self.at


class Told:
    """Events that were emitted."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any], uuid.UUID]] = []

    def __call__(self, name: str, payload: Mapping[str, Any], event_id: uuid.UUID) -> None:
        self.events.append((name, payload, event_id))

    def taken(self) -> list[str]:
        names = [name for name, _, _ in self.events]
        self.events.clear()
        return names


@pytest.fixture
async def database(installation: Settings) -> AsyncIterator[Database]:
    async with open_database(installation) as opened:
        yield opened


async def _connect(database: Database, org: str, state: ConnectionState = ConnectionState.CONNECTED) -> None:
    await put_connection(
        database,
        org=org,
        block_name=f"kommo-{org}",
        host=f"{org}.kommo.com",
        token_kind="long_lived",
        state=state,
        reason="Kommo | gave *its* final word." if state != ConnectionState.CONNECTED else None,
        now=BEGIN - timedelta(hours=2),
    )


async def _compare(database: Database, org: str, arrived: int) -> None:
    async with database.begin() as connection:
        measured = Completeness(
            org, BEGIN - timedelta(hours=1), BEGIN, 1000, arrived, 1000 - arrived, {}, BEGIN
        )
        await save_completeness(connection, measured)


async def _receive(database: Database, number: int, *, at: datetime, reason: str | None = None) -> None:
    event = NewEvent("leads", "update", str(number), None, None, f"u{number}", {})
    delivery = NewDelivery(
        delivery_id=f"d{number}",
        org="acme",
        account_id=1,
        door="key",
        received_at=at,
        content_type=None,
        headers={},
        request_id=None,
        body=b"",
        events=() if reason else (event,),
        reason=reason,
    )
    await save_deliveries(database, [delivery], now=at.timestamp)


async def _look(database: Database, clock: Any, told: Told) -> list[str]:
    looked = await look(database, clock, sync_within=WITHIN)
    await tell_alarms(database, looked.due, clock, told)
    return told.taken()


async def test_low_completeness_is_told_once_hourly_and_when_it_is_over(database: Database) -> None:
    clock, told = Hour(), Told()
    await _connect(database, "acme")
    await _compare(database, "acme", 990)
    assert await _look(database, clock, told) == []
    await _compare(database, "acme", 989)
    looked = await look(database, clock, sync_within=WITHIN)
    await tell_alarms(database, looked.due, clock, told)
    ((name, payload, _),) = told.events
    assert name == COMPLETENESS_LOW
    assert (payload["completeness"], payload["orgs_under"]) == (0.989, 1)
    told.events.clear()
    for minutes, names in ((5, []), (59, []), (60, [COMPLETENESS_LOW]), (65, []), (120, [COMPLETENESS_LOW])):
        clock.at = BEGIN + timedelta(minutes=minutes)
        assert await _look(database, clock, told) == names, minutes
    await _compare(database, "acme", 1000)
    assert await _look(database, clock, told) == [f"{COMPLETENESS_LOW}.recovered"]
    assert await _look(database, clock, told) == []


async def test_growing_dead_letters_are_told_until_none_has_come_for_an_hour(database: Database) -> None:
    clock, told = Hour(), Told()
    assert await _look(database, clock, told) == []
    await _receive(database, 1, at=BEGIN, reason="unreadable")
    assert await _look(database, clock, told) == [DEAD_GROWING]
    clock.at += timedelta(minutes=30)
    await _receive(database, 2, at=BEGIN, reason="unreadable")
    assert await _look(database, clock, told) == [], "that they go on growing is known"
    clock.at += timedelta(minutes=59)
    assert await _look(database, clock, told) == [DEAD_GROWING], "told again after an hour"
    clock.at += timedelta(minutes=1)
    assert await _look(database, clock, told) == [f"{DEAD_GROWING}.recovered"]


async def test_a_killed_run_is_followed_by_one_that_tells_the_same_under_the_same_id(
    database: Database,
) -> None:
    if database.dialect == "postgresql":
        pytest.skip("what is due is told by the server's clock there; the ids are the same")
    clock, told = Hour(), Told()
    await _receive(database, 1, at=BEGIN - timedelta(seconds=301))
    first = await look(database, clock, sync_within=WITHIN)  # and then it is killed
    second = await look(database, clock, sync_within=WITHIN)

    def killed(name: str, payload: Mapping[str, Any], event_id: uuid.UUID) -> None:
        told(name, payload, event_id)
        raise asyncio.CancelledError  # after it was told, before it was crossed off

    with pytest.raises(asyncio.CancelledError):
        await tell_alarms(database, second.due, clock, killed)
    third = await look(database, clock, sync_within=WITHIN)
    await tell_alarms(database, third.due, clock, told)
    assert [name for name, _, _ in told.events] == [BACKLOG_STALE, BACKLOG_STALE]
    assert {event_id for _, _, event_id in told.events} == {one.event_id for one in first.due}
    assert told.events[0][1]["pending"] == 1
    told.events.clear()
    assert await _look(database, clock, told) == []


async def test_two_runs_at_once_have_one_alarm_to_tell(database: Database) -> None:
    clock = Hour()
    await _receive(database, 1, at=BEGIN, reason="unreadable")
    both = await asyncio.gather(*(look(database, clock, sync_within=WITHIN) for _ in range(2)))
    assert len({alarm.event_id for looked in both for alarm in looked.due}) == 1


async def test_the_dashboard_shows_the_broken_and_escapes_what_comes_from_outside(database: Database) -> None:
    clock = Hour()
    await _connect(database, "acme")
    await _connect(database, "bert", ConnectionState.REAUTHORIZATION_REQUIRED)
    await _receive(database, 1, at=BEGIN, reason="unreadable")
    looked = await look(database, clock, sync_within=WITHIN)
    page = fleet_markdown(looked.fleet, looked.figures, looked.alarms, looked.at)
    assert "2 connected: 1 well, 1 broken" in page.splitlines()[0]
    assert "dead letters are growing" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| bert")]
    assert r"Kommo \| gave \*its\* final word" in row
    assert "kommo connect bert" in row
    assert "| 2 h |" in row
    assert "acme" not in page


async def test_one_run_costs_one_artifact(prefect_api: str, database: Database) -> None:
    del prefect_api
    await _connect(database, "acme")
    report = await fleet_status()
    assert (report.connected, report.well, report.told) == (1, 1, [])
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["kommo-fleet"])), limit=200
        )
    newest = max(found, key=lambda one: str(one.created))
    assert "1 connected: 1 well, 0 broken" in str(newest.data)
