"""What tests of readings share: an org whose records are read from a sandbox, and comparing the two."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from kommo.budget import InProcessBudget
from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from kommo.recordkinds import RECORD_KINDS
from sandbox import Sandbox, SandboxConfig, running_sandbox
from store.connections import ConnectionRecord, get_connection, put_connection
from store.database import Database
from store.mirror import record_states
from store.record_sync import RecordMode
from tasks.record_reading import KindReader
from tasks.record_reports import KindCount
from tasks.record_session import session_of


@dataclass
class Archive:
    """One org and its sandbox."""

    database: Database
    sandbox: Sandbox
    connection: ConnectionRecord
    client: KommoClient

    async def read(self, kind: str, mode: RecordMode = RecordMode.INCREMENTAL) -> KindCount:
        session = await session_of(self.connection, self.client, self.database, SystemClock())
        return await KindReader(session, RECORD_KINDS[kind], mode).read()

    def change(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        return self.sandbox.change("acme", name, **arguments)

    def held(self, kind: str) -> dict[int, dict[str, Any]]:
        """What the sandbox's lists show now, by id."""
        account = self.sandbox.account("acme")
        records = account.tasks if kind == "tasks" else account.entities[kind]
        return {
            record["id"]: record
            for record in records
            if not record.get("is_deleted") and not record.get("is_unsorted")
        }

    async def assert_mirrored(self, kind: str) -> None:
        """The mirror has exactly what Kommo has, each with its newest time."""
        states = await record_states(self.database, "acme", kind)
        there = {
            number: int(facts.updated_at.timestamp()) if facts.updated_at else None
            for number, facts in states.items()
            if facts.state == "present"
        }
        wanted = {number: record["updated_at"] for number, record in self.held(kind).items()}
        assert there == wanted


@asynccontextmanager
async def client_of(host: str, token: str) -> AsyncIterator[KommoClient]:
    clock = SystemClock()
    async with KommoClient(
        parse_host(host, allow_loopback=True),
        StaticToken(SecretStr(token)),
        budget=InProcessBudget({"account": 5_000, "egress": 5_000}, clock),
        account_key="account:1",
        clock=clock,
    ) as client:
        yield client


@asynccontextmanager
async def reading_of(
    database: Database, host: str, token: str
) -> AsyncIterator[Callable[[str, str], Awaitable[KindCount]]]:
    """Reading by an org that is connected already."""
    async with client_of(host, token) as client:
        connection = await get_connection(database, "acme")

        async def read(kind: str, mode: str) -> KindCount:
            session = await session_of(connection, client, database, SystemClock())
            return await KindReader(session, RECORD_KINDS[kind], RecordMode(mode)).read()

        yield read


@asynccontextmanager
async def archive(database: Database, config: SandboxConfig) -> AsyncIterator[Archive]:
    async with running_sandbox(config) as kommo:
        access = kommo.accounts[0]
        connection = await put_connection(
            database,
            org="acme",
            block_name="acme",
            host=access.host,
            account_id=access.account_id,
            account_name="Acme",
            subdomain=access.subdomain,
            token_kind="long_lived",
            now=SystemClock().now(),
        )
        async with client_of(access.host, access.admin_token) as client:
            yield Archive(database, kommo, connection, client)
