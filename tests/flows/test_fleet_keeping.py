"""A page of a fleet: what only shows or keeps something ends no sync, and what ends it leaves nothing running."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import fleet_sync
from tasks.fleet_sync import FleetPage, sync_page
from tasks.progress import try_to_show
from tasks.scopes import Scope


class _Clock:
    """Sleeps are as short as can be."""

    async def sleep(self, _seconds: float) -> None:
        await asyncio.sleep(0)


class _Clients:
    async def read_ahead(self, _connections: object) -> None: ...


async def _nothing(*_arguments: Any, **_named: Any) -> None: ...


def _session() -> Any:
    return SimpleNamespace(
        database=None,
        clients=_Clients(),
        scope=Scope.ALL,
        clock=_Clock(),
        owner="one",
        turn=asyncio.Semaphore(8),
        stopped=None,
        progress=SimpleNamespace(show=_nothing),
        note=lambda _done: None,
    )


def _page(*orgs: str) -> FleetPage:
    return FleetPage(1, [SimpleNamespace(org=org) for org in orgs])  # type: ignore[misc]  # names are enough


async def test_turns_go_on_being_kept_after_the_database_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    tries, enough = 0, asyncio.Event()

    async def keep(*_arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ConnectionError
        enough.set()

    monkeypatch.setattr(fleet_sync, "keep_turns", keep)
    monkeypatch.setattr(fleet_sync, "end_turns", _nothing)

    async def slow(*_arguments: Any) -> Any:
        await enough.wait()
        return SimpleNamespace(ended=True)

    monkeypatch.setattr(fleet_sync, "sync_org", slow)
    async with asyncio.timeout(5):
        await sync_page.fn(_session(), _page("acme"))
    assert tries >= 3


async def test_what_ends_a_page_is_said_and_leaves_no_org_running_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running: set[str] = set()

    async def sync(_database: object, _clients: object, connection: Any, *_rest: object) -> Any:
        running.add(connection.org)
        try:
            if connection.org == "globex":
                raise ConnectionError("the database is away")
            await asyncio.Event().wait()
        finally:
            running.discard(connection.org)

    monkeypatch.setattr(fleet_sync, "sync_org", sync)
    monkeypatch.setattr(fleet_sync, "keep_turns", _nothing)
    monkeypatch.setattr(fleet_sync, "end_turns", _nothing)
    with pytest.raises(ConnectionError, match="the database is away"):
        await sync_page.fn(_session(), _page("acme", "globex", "initech"))
    assert running == set()


async def test_what_cannot_be_shown_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def refused() -> None:
        raise RuntimeError("Prefect is away")

    await try_to_show(refused())
    assert "not shown in Prefect: RuntimeError" in caplog.text
