"""T5 at the gateway: client secret, tokens, code, state, cookie and key are nowhere outside their homes."""

import asyncio
import logging
import traceback
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL
from sqlalchemy import select, text

from blocks.connection import KommoConnection
from blocks.names import block_name
from flows.full_sync import full_crm_sync
from flows.token_refresh import token_refresh
from store.database import Database
from store.tables.base import metadata
from tasks.errors import DataPlaneError
from tasks.scopes import SyncScope
from tests.everywhere import bytes_under, prefect_database, said_by_prefect
from tests.gateway.support import AS_BROWSER, CALLBACK, CLIENT_SECRET, START, House


class _Everything(logging.Handler):
    """Every line of every logger, as a careless operator would have them."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def everything() -> Iterator[_Everything]:
    handler = _Everything()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


@pytest.mark.one_database
@pytest.mark.seconds(5)
async def test_t5_no_secret_leaves_its_home(
    house: House, everything: _Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the consent to the death of the connection: connect, refresh, and a refresh and a sync that fail."""
    pages: list[httpx.Response] = []
    connected = await house.start()
    query = house.code_query(connected.state)
    pages.append(await house.come_back(connected, query))
    pages.append(await house.come_back(connected, query, headers=AS_BROWSER))
    refused, declined, stranger = [await house.start(mode="post_message") for _ in range(3)]
    bad = house.code_query(refused.state) | {"code": "def502canary-code"}
    pages.append(await house.come_back(refused, bad, headers=AS_BROWSER))
    pages.append(
        await house.come_back(
            declined, {"error": "access_denied", "state": declined.state}, headers=AS_BROWSER
        )
    )
    pages.append(await house.come_back(None, house.code_query(stranger.state), headers=AS_BROWSER))
    pages.append(
        await house.product.get("/api/v1/orgs/acme/connection", headers=house.signed("acme", house.key))
    )
    pages.append(await house.product.get(START, headers=house.signed()))
    pages.append(await house.product.get(f"/wrong{CALLBACK}", params=query))
    events = _heard(monkeypatch)
    first = await _block()
    said = await _refreshed_and_failed(house)
    block = await _block()
    pages.append(
        await house.product.get("/api/v1/orgs/acme/connection", headers=house.signed("acme", house.key))
    )
    assert pages[-1].json()["state"] == "reauthorization_required"
    secrets = {
        "client secret": CLIENT_SECRET,
        "first access token": first.access_token.get_secret_value(),
        "first refresh token": first.refresh_token.get_secret_value(),
        "access token": block.access_token.get_secret_value(),
        "refresh token": block.refresh_token.get_secret_value(),
        "code": query["code"],
        "refused code": "def502canary-code",
        "key": house.key,
        "other key": house.every,
    }
    for consent in (connected, refused, declined, stranger):
        secrets |= {f"state {consent.state}": consent.state, f"cookie {consent.secret}": consent.secret}
    assert all(secrets.values())
    logged = "\n".join(line for line in everything.lines if not _of_the_test(line))
    kept = await _database_text(house.services.database)
    shown = "\n".join(answer.text + repr(answer.headers) for answer in pages)
    memory = repr(house.services) + repr(await house.services.app()) + repr(block)
    assert len(set(secrets.values())) == len(secrets)
    await asyncio.to_thread(APILogWorker.drain_all)
    prefect = await asyncio.to_thread(_prefect_text)
    told = repr(events)
    for name, secret in secrets.items():
        assert secret not in prefect, f"{name} on the Prefect server"
        assert secret not in told, f"{name} in an event"
        assert secret not in said, f"{name} in a report or an error"
        assert secret not in logged, f"{name} in the log"
        assert secret not in kept, f"{name} in the database"
        assert secret not in shown, f"{name} in an answer"
        assert secret not in memory, f"{name} in a repr"
    assert "gateway.access" in logged
    assert block_name("acme") in kept
    # The search would have found them: what is said beside them is there.
    found = ("kommo-token-refresh", "Kommo refused the refresh token", "The sync of 'acme' failed")
    for beside in (block_name("acme"), *found):
        assert beside in prefect, beside
    assert "kommo.connection.refreshed" in told


def test_t5_what_goes_through_the_gateway_shows_nothing_of_itself() -> None:
    from pydantic import SecretStr

    from tasks.authorize import Begun, Bringer, Callback

    held = [
        Begun("https://k/oauth?state=canary", "canary", SecretStr("canary"), 900),
        Callback(SecretStr("canary"), SecretStr("canary"), "canary", "canary", "canary"),
        Bringer({"a": "canary"}, "acme"),
    ]
    assert "canary" not in repr(held)


async def _block() -> KommoConnection:
    return cast("KommoConnection", await KommoConnection.aload(block_name("acme")))


def _heard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every Prefect event that is emitted from now on, with all that is in it."""
    heard: list[Any] = []
    monkeypatch.setattr("tasks.events.emit_event", lambda *given, **more: heard.append((given, more)))
    return heard


async def _refreshed_and_failed(house: House) -> str:
    """A refresh, then at Kommo an end to it all, by which a refresh and a sync fail; gives all that was said."""
    said: list[object] = [await token_refresh("6h", "acme"), await full_crm_sync("acme", SyncScope.FUNNELS)]
    house.kommo.world.oauth.revoke(house.acme.account_id)
    for failing in (token_refresh("6h", "acme"), full_crm_sync("acme", SyncScope.FUNNELS)):
        with pytest.raises(DataPlaneError) as failed:
            await failing
        said += [str(failed.value), "".join(traceback.format_exception(failed.value)), vars(failed.value)]
    return repr(said) + "".join(str(one) for one in said)


def _prefect_text() -> str:
    """All that the Prefect server has, in its files and by its API; block documents are encrypted in the one."""
    files = bytes_under(prefect_database().parent).decode("latin-1")
    return files + said_by_prefect(str(PREFECT_API_URL.value()))


def _of_the_test(line: str) -> bool:
    """A line in which the test's own client tells what it was told to send to the gateway."""
    return line.startswith(("httpx ", "httpcore.")) and ("127.0.0.1" in line or "kommo/" in line)


async def _database_text(database: Database) -> str:
    """All that our database holds, as text."""
    parts: list[str] = []
    async with database.read() as connection:
        for table in metadata.sorted_tables:
            rows = await connection.execute(select(table))
            parts += [f"{table.name} {dict(row)}" for row in rows.mappings()]
        view = "crm_connections"
        if database.dialect == "postgresql":
            view = f'"{database.address.schema}".{view}'
        parts += [repr(row) for row in await connection.execute(text(f"select * from {view}"))]  # noqa: S608 - ours
    return "\n".join(parts)
