"""Connecting an account as a person does it: a real Chromium, the gateway, the sandbox as Kommo, a small product.

Pictures of every page go to the folder KOMMO_TEST_PICTURES, if it is set.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from gateway.first_sync import start_first_sync
from kommo.clock import SystemClock
from store.snapshots import read_snapshot
from tests.gateway.browser.chromium import Chromium, Tab, chromium_path, running_chromium
from tests.gateway.browser.product import product_app
from tests.gateway.support import CALLBACK, House, open_socket, served
from tests.proofs.support import FULL

_CHROMIUM = chromium_path()
_PICTURES = os.environ.get("KOMMO_TEST_PICTURES")  # before a fixture tidies the environment
pytestmark = [
    pytest.mark.whole_service,
    pytest.mark.skipif(
        _CHROMIUM is None and os.environ.get("KOMMO_TEST_BROWSER") != "required",
        reason="Chromium is not installed here (Debian: apt-get install chromium)",
    ),
    pytest.mark.seconds(8),
]
ALLOW, DECLINE = "button[value=allow]", "button[value=decline]"


@dataclass
class Stage:
    """A browser, and what it looks at."""

    house: House
    product: str
    browser: Chromium
    pictures: Path | None

    async def begin(self, org: str = "acme") -> Tab:
        """A new browser at Kommo's consent page."""
        tab = await self.browser.new_tab()
        await tab.goto(f"{self.product}/home/{org}")
        await tab.press("#connect")
        assert "Allow access?" in await tab.text()
        return tab

    async def ends(self, tab: Tab, name: str, *words: str) -> str:
        """The page has these words, says no more in its address than its path, and obeys its own policy."""
        await self.picture(tab, name)
        text = await tab.text()
        for word in words:
            assert word in text
        assert await tab.run("location.search") == ""
        assert await tab.run("getComputedStyle(document.querySelector('main')).borderRadius") == "16px"
        assert await tab.run("document.documentElement.lang") == "en"
        assert not [line for line in self.browser.console if "Content Security Policy" in line]
        return text

    async def picture(self, tab: Tab, name: str) -> None:
        if self.pictures is None:
            return
        await tab.picture(self.pictures / f"{name}.png")
        await tab.picture(self.pictures / f"{name}-dark.png", dark=True)
        await tab.picture(self.pictures / f"{name}-phone.png", width=360, height=640)


@pytest.fixture
async def stage(house: House, tmp_path: Path, database_place: tuple[str, str]) -> AsyncIterator[Stage]:
    if not FULL and not database_place[0].startswith("sqlite"):
        pytest.skip("what a browser shows is the same: on PostgreSQL with KOMMO_TEST_ROUNDS=full")
    pictures = Path(_PICTURES) if _PICTURES else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    app = product_app(house.url, house.every, house.acme.host)
    with open_socket() as listening:
        async with (
            served(app, listening) as product,
            running_chromium(str(_CHROMIUM), tmp_path / "profile") as browser,
        ):
            (await house.services.app()).app_url = product
            yield Stage(house, product, browser, pictures)


async def test_consent_leads_to_a_connection_and_its_first_snapshot(stage: Stage) -> None:
    house = stage.house
    house.services.first_sync = start_first_sync
    tab = await stage.begin()
    await tab.press(ALLOW)
    assert await tab.address() == f"{stage.product}/manage/acme/ai-agents"
    assert await tab.run("document.getElementById('state').textContent") == "connected"
    await house.services.background.finish(60)
    told = (await house.product.get("/api/v1/orgs/acme/connection", headers=house.signed())).json()
    assert (told["state"], told["last_sync"]["state"]) == ("connected", "completed")
    snapshot = await read_snapshot(house.services.database, "acme", "pipelines")
    assert len(snapshot.items) == len(house.kommo.account("acme").pipelines) > 0


async def test_what_does_not_lead_there_has_a_page_of_its_own_and_stores_nothing(stage: Stage) -> None:
    house = stage.house
    tab = await stage.begin()
    await tab.press(DECLINE)
    await stage.ends(tab, "declined", "You did not allow access", "nothing was stored", "Back to the app")
    assert await tab.run("document.querySelector('a').href") == f"{stage.product}/manage/acme/ai-agents"

    tab = await stage.begin()
    now = house.services.clock
    house.services.clock = _Later()
    await tab.press(ALLOW)
    await stage.ends(tab, "expired", "This took too long", "within 15 minutes", "Nothing was stored")
    house.services.clock = now

    begun_by_globex = await stage.begin("globex")
    state = await begun_by_globex.run("document.querySelector('[name=state]').value")
    stranger = await stage.begin("acme")
    query = urlencode(house.code_query(state))
    await stranger.goto(f"{house.url}{CALLBACK}?{query}")
    await stage.ends(stranger, "elsewhere", "begun somewhere else", "Nothing was stored")

    await stranger.goto(f"{house.url}{CALLBACK}?{urlencode(house.code_query('x' * 32))}")
    await stage.ends(stranger, "unknown", "not known here", "Nothing was stored")
    await stranger.goto(f"{house.url}{CALLBACK}?state={'x' * 32}")
    await stage.ends(stranger, "incomplete", "not complete", "Nothing was stored")

    assert await house.nothing_stored("acme")
    assert await house.nothing_stored("globex")

    query = urlencode(house.code_query(state) | {"code": "def502nonsense"})
    await begun_by_globex.goto(f"{house.url}{CALLBACK}?{query}")
    await stage.ends(begun_by_globex, "refused", "did not accept", "Nothing was connected")
    assert await house.connection("globex") is None
    house.kommo.world.faults.add(kind="502", path="/oauth2/access_token", times=1)
    tab = await stage.begin()
    await tab.press(ALLOW)
    await stage.ends(tab, "unreachable", "Kommo did not answer", "Wait some minutes")
    assert await house.connection() is None


async def test_a_link_that_was_used_and_another_account_change_nothing(stage: Stage) -> None:
    house = stage.house
    tab = await stage.begin()
    state = await tab.run("document.querySelector('[name=state]').value")
    callback = f"{house.url}{CALLBACK}?{urlencode(house.code_query(state))}"
    await tab.goto(callback)
    assert await tab.address() == f"{stage.product}/manage/acme/ai-agents"
    before = await house.connection()
    assert before is not None
    await tab.goto(callback)
    await stage.ends(tab, "used", "used before", "changes nothing")
    tab = await stage.begin()
    other = house.globex.subdomain
    await tab.run(f"document.querySelector('[name=account]').value = '{other}'")
    await tab.press(ALLOW)
    await stage.ends(tab, "wrong-account", "different Kommo account", "goes on as it was")
    assert await house.connection() == before


async def test_in_a_window_of_the_product_the_page_tells_its_opener_and_closes(stage: Stage) -> None:
    house = stage.house
    tab = await stage.browser.new_tab()
    await tab.goto(f"{stage.product}/home/acme")
    await tab.run("document.getElementById('popup').click()")
    window = await stage.browser.opened(lambda url: "/oauth?" in url)
    await window.until("document.querySelector('button[value=allow]') !== null")
    # The page may close before it is looked at: what it does last is to close itself.
    await window.run("document.querySelector('button[value=allow]').click()")
    await tab.until("document.getElementById('told').textContent.includes('kommo-oauth')")
    [told] = await tab.run("JSON.parse(document.getElementById('told').textContent)")
    assert told == {
        "origin": house.url,
        "data": {
            "type": "kommo-oauth",
            "status": "connected",
            "org": "acme",
            "provider": "kommo",
            "account_id": house.acme.account_id,
            "host": house.acme.host,
        },
    }
    await tab.until("window.other.closed")
    connection = await house.connection()
    assert connection is not None
    assert connection.state == "connected"


async def test_a_window_that_a_stranger_opened_tells_that_stranger_nothing(stage: Stage) -> None:
    tab = await stage.browser.new_tab()
    # The same product under another name is another origin, and not the one that is configured.
    await tab.goto(f"{stage.product.replace('127.0.0.1', 'localhost')}/home/acme")
    await tab.run(
        f"void (window.other = window.open('{stage.product}/connect/acme?mode=post_message', 'w', 'popup'))"
    )
    window = await stage.browser.opened(lambda url: "/oauth?" in url)
    await window.until("document.querySelector('button[value=allow]') !== null")
    state = await window.run("document.querySelector('[name=state]').value")
    query = urlencode(stage.house.code_query(state) | {"code": "def502nonsense"})
    await window.goto(f"{stage.house.url}{CALLBACK}?{query}")
    await stage.ends(window, "window-refused", "did not accept")
    assert await tab.run("document.getElementById('told').textContent") == "nothing yet"


async def test_without_an_address_of_the_product_the_person_sees_that_it_worked(stage: Stage) -> None:
    tab = await stage.begin()
    (await stage.house.services.app()).app_url = ""
    await tab.press(ALLOW)
    text = await stage.ends(tab, "connected", "Kommo is connected", stage.house.acme.host)
    assert "quote" not in text


class _Later(SystemClock):
    """The real clock, after the quarter of an hour that a state is good for."""

    def now(self) -> datetime:
        return super().now() + timedelta(minutes=16)
