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
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
def database_place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """(URL, schema) of an empty database of each dialect; on PostgreSQL a schema of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'store.db'}", "kommo"
        return
    schema = f"test_{uuid.uuid4().hex[:12]}"
    yield POSTGRES_URL, schema
    asyncio.run(_drop_schema(schema))
