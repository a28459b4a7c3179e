"""What the doctor says of addresses that are as the docs set them up."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.app import KommoApp
from kommo.clock import SystemClock
from sandbox import running_sandbox
from store.errors import DatabaseUnavailableError
from tasks.doctor.configuration import _integration
from tasks.doctor.kommo import _reachable
from tests.syncing import quiet_config


def _around(app: KommoApp, **settings: Any) -> Any:
    async def own() -> KommoApp:
        return app

    async def away() -> Any:
        return SimpleNamespace(error=DatabaseUnavailableError("away"))

    return SimpleNamespace(
        app=own, clock=SystemClock(), database_answer=away, settings=SimpleNamespace(**settings)
    )


@pytest.mark.parametrize(
    ("redirect", "level"),
    [
        ("https://app.example.com/api/v1/crm/kommo/callback", "ok"),
        ("https://kommo.example.com/api/v1/crm/kommo/callback", "ok"),
        ("https://elsewhere.example.com/callback", "warning"),
    ],
)
async def test_people_may_come_back_to_the_product_or_to_the_gateway(redirect: str, level: str) -> None:
    app = KommoApp(
        client_id="id",
        client_secret=SecretStr("secret"),
        redirect_uri=redirect,
        app_url="https://app.example.com",
    )
    [found] = await _integration(_around(app, webhook_url="https://kommo.example.com"))
    assert found.level == level


async def test_a_sandbox_is_asked_where_it_is_before_any_org_is_connected() -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        base = f"http://www.localhost:{kommo.accounts[0].host.rpartition(':')[2]}"
        around = _around(KommoApp(authorize_base=base, allow_loopback=True), sandbox=True)
        answer = await _reachable(around)
    assert [one.level for one in answer] == ["ok"]
    [gone] = await _reachable(around)
    assert (gone.level, gone.fix) == ("fault", "kommo sandbox")
