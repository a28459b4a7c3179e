"""Fixtures of the tests of the gateway."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blocks.app import KommoApp
from blocks.settings import Settings
from sandbox import running_sandbox
from store.database import Database
from tests.gateway.doors import Doors, running_doors
from tests.gateway.hooks import SECRET, Hooks, running_hooks
from tests.gateway.support import (
    APP_URL,
    CALLBACK,
    CLIENT_SECRET,
    House,
    forget_blocks,
    open_socket,
    running_house,
)
from tests.store.conftest import db, migrated_place
from tests.syncing import quiet_config

__all__ = ["db", "migrated_place"]  # fixtures: a database that is migrated once and emptied for each test


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


@pytest.fixture
def hook_settings(
    db: Database,
    migrated_place: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """An installation for the webhooks' doors. Prefect is down, and they must not mind (W4)."""
    del db  # it is empty now

    async def down(*_: object, **__: object) -> KommoApp:
        raise ConnectionError

    monkeypatch.setattr(KommoApp, "aload", down)
    url, schema = migrated_place
    for name, value in {
        "KOMMO_HOME": str(tmp_path / "home"),
        "KOMMO_DATABASE_URL": url,
        "KOMMO_DATABASE_SCHEMA": schema,
        "KOMMO_WEBHOOK_SECRET": SECRET,
    }.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.fixture
async def hooks(hook_settings: Settings) -> AsyncIterator[Hooks]:
    """A gateway with a hook key of the org acme."""
    async with running_hooks(hook_settings) as running:
        yield running


@pytest.fixture
async def doors(hook_settings: Settings) -> AsyncIterator[Doors]:
    """A gateway with keys of the product; nothing stands in for Prefect or Kommo."""
    async with running_doors(hook_settings) as running:
        yield running
