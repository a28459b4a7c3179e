"""T5 at the gateway: client secret, tokens, code, state, cookie and key are nowhere outside their homes."""

import logging
from collections.abc import Iterator
from typing import cast

import httpx
import pytest
from sqlalchemy import select, text

from blocks.connection import KommoConnection
from blocks.names import block_name
from store.database import Database
from store.tables.base import metadata
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


async def test_t5_no_secret_leaves_its_home(house: House, everything: _Everything) -> None:
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
    block = cast("KommoConnection", await KommoConnection.aload(block_name("acme")))
    secrets = {
        "client secret": CLIENT_SECRET,
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
    for name, secret in secrets.items():
        assert secret not in logged, f"{name} in the log"
        assert secret not in kept, f"{name} in the database"
        assert secret not in shown, f"{name} in an answer"
        assert secret not in memory, f"{name} in a repr"
    assert "gateway.access" in logged
    assert block_name("acme") in kept


def test_t5_what_goes_through_the_gateway_shows_nothing_of_itself() -> None:
    from pydantic import SecretStr

    from tasks.authorize import Begun, Bringer, Callback

    held = [
        Begun("https://k/oauth?state=canary", "canary", SecretStr("canary"), 900),
        Callback(SecretStr("canary"), SecretStr("canary"), "canary", "canary", "canary"),
        Bringer({"a": "canary"}, "acme"),
    ]
    assert "canary" not in repr(held)


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
        parts += [repr(row) for row in await connection.execute(text(f"select * from {view}"))]  # noqa: S608
    return "\n".join(parts)
