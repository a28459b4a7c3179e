"""Fixtures of the tests of the gateway."""

from collections.abc import AsyncIterator

import pytest

from blocks.settings import Settings
from sandbox import running_sandbox
from tests.gateway.support import (
    APP_URL,
    CALLBACK,
    CLIENT_SECRET,
    House,
    forget_blocks,
    open_socket,
    running_house,
)
from tests.syncing import quiet_config


@pytest.fixture
async def house(
    installation: Settings, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    """A gateway, a sandbox with two accounts, and a product that reaches both."""
    del installation, prefect_api  # they are in the environment
    with open_socket() as listening:
        redirect_uri = f"http://127.0.0.1:{listening.getsockname()[1]}{CALLBACK}"
        config = quiet_config(
            accounts=2, leads=2, contacts=2, companies=1, talks=2, redirect_uri=redirect_uri
        )
        async with running_sandbox(config) as kommo:
            integration = kommo.world.integration
            integration.client_secret = CLIENT_SECRET
            for name, value in {
                "KOMMO_CLIENT_ID": integration.client_id,
                "KOMMO_CLIENT_SECRET": CLIENT_SECRET,
                "KOMMO_REDIRECT_URI": redirect_uri,
                "KOMMO_AUTHORIZE_BASE": kommo.url,
                "APP_URL": APP_URL,
            }.items():
                monkeypatch.setenv(name, value)
            await forget_blocks("acme", "globex")
            async with running_house(Settings(), kommo, listening) as running:
                yield running
