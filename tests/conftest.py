"""Fixtures that every test may use. Prefect's environment is set here, before Prefect is imported."""

import os

# Fewer server services make a flow run in the harness six times faster; nothing here asserts on them.
os.environ.update(
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED="false",
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED="false",
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED="false",
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    PREFECT_CLI_PROMPT="false",
)

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.settings import Settings

POSTGRES_URL = os.environ.get("KOMMO_TEST_POSTGRES_URL", "")


def _databases() -> list[str]:
    return ["sqlite", "postgresql"] if POSTGRES_URL else ["sqlite"]


async def _drop_schema(schema: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(POSTGRES_URL.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        await connection.execute(f'drop schema if exists "{schema}" cascade')
    finally:
        await connection.close()


@pytest.fixture(params=_databases())
def database_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(URL, schema) of an empty database of each dialect; on PostgreSQL a schema of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'store.db'}", "kommo"
        return
    schema = f"test_{uuid.uuid4().hex[:12]}"
    yield POSTGRES_URL, schema
    asyncio.run(_drop_schema(schema))


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """A Prefect server of the test session's own; gives its API address. Ask for it only where a flow really runs."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def installation(
    database_place: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """An installation that may talk to a sandbox, with an empty database, in this process's environment."""
    url, schema = database_place
    for name in [name for name in os.environ if name.startswith("KOMMO_")]:
        monkeypatch.delenv(name)
    environment = {
        "KOMMO_HOME": str(tmp_path / "home"),
        "KOMMO_DATABASE_URL": url,
        "KOMMO_DATABASE_SCHEMA": schema,
        "KOMMO_SANDBOX": "1",
        # The sandbox of most tests does not throttle, so that they need not wait for a budget that others test.
        "KOMMO_REQUESTS_PER_SECOND": "50",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()
