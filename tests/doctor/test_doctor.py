"""Each mis-set-up is made for real; the doctor finds it, says what to type, and finds no other fault for it."""

# ruff: noqa: ARG001 - all mistakes are made by functions that are called alike

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.fernet import Fernet
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from sqlalchemy import text

from blocks.app import KommoApp
from blocks.collection import KommoConnection, KommoDatabase
from blocks.settings import Settings
from deployments.apply import apply, read_ours
from deployments.doctor import ALL_CHECKS
from deployments.plan import make_plan
from kommo.clock import SystemClock
from store.connections import put_connection, set_state
from store.database import Database
from store.sealing import new_key
from store.subscriptions import Subscription, save_subscription
from store.token_journal import append_pair
from tasks.api_keys import make_api_key
from tasks.doctor import Check, Row, open_surroundings, run_checks
from tasks.doctor.surroundings import Surroundings
from tasks.installation import budget_of
from tests.everywhere import prefect_database
from tests.proofs.support import FULL


class _Kommo(BaseHTTPRequestHandler):
    """Stands in for Kommo and for the gateway alike."""

    def do_GET(self) -> None:
        body = json.dumps({"status": "ok"}).encode()
        known = {"/healthz": 200, "/api/v4/account": 401, "/closed/admin/version": 401}
        self.send_response(known.get(self.path, 404))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def elsewhere() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Kommo)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
async def client(
    prefect_api: str, installation: Settings, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PrefectClient]:
    """An installation in which all is well."""
    sealing = new_key().get_secret_value()
    for name, value in {
        "KOMMO_CLIENT_ID": "id",
        "KOMMO_CLIENT_SECRET": "secret",
        "APP_URL": f"http://{elsewhere}",
        "KOMMO_WEBHOOK_URL": f"http://{elsewhere}",
        "KOMMO_EVENTS_URL": f"http://{elsewhere}/events",
        "KOMMO_EVENTS_SECRET": "whsec_" + "QUFB" * 11,
        "KOMMO_SEALING_KEYS": sealing,
        "KOMMO_AUTHORIZE_BASE": f"http://{elsewhere}",
    }.items():
        monkeypatch.setenv(name, value)
    async with get_client() as client:
        if _RIGHT["at Prefect"] != prefect_api:
            # What one test has put wrong is put right for the next; to make it all anew takes four times as long.
            await KommoDatabase.register_type_and_schema(client=client)
            await apply(make_plan())
            _RIGHT["at Prefect"] = prefect_api
        queue = await client.read_work_queue_by_name("steady", work_pool_name="kommo")
        if queue.is_paused:
            await client.update_work_queue(queue.id, is_paused=False)
        await client.send_worker_heartbeat("kommo", "one", 30)
        await KommoConnection(org="acme", host=elsewhere, access_token=SecretStr("t")).asave(
            "org-acme", overwrite=True
        )
        async with _open() as database:
            await make_api_key(database, "product", None)
            clock = SystemClock()
            await put_connection(
                database, org="acme", block_name="org-acme", host=elsewhere, account_id=1,
                token_kind="long_lived", now=clock.now(),
            )  # fmt: skip
        yield client


@pytest.fixture(scope="module", autouse=True)
def _left_as_it_was(prefect_api: str) -> Iterator[None]:
    """The server is the session's: with deployments on it, the gateway would leave its runs to a worker."""
    del prefect_api

    async def prepare() -> None:
        async with get_client() as client:
            for block in (KommoApp, KommoConnection, KommoDatabase):
                await block.register_type_and_schema(client=client)

    async def clear() -> None:
        async with get_client() as client:
            for there in (await read_ours(client)).values():
                await client.delete_deployment(there.id)
            with contextlib.suppress(ObjectNotFound):
                await client.delete_work_pool("kommo")
        _RIGHT["at Prefect"] = ""

    asyncio.run(prepare())
    yield
    asyncio.run(clear())


_RIGHT = {"at Prefect": ""}
"""The server on which all is well, as long as no test has put anything wrong there."""


def _is_postgres() -> bool:
    url = Settings().database_url
    return url is not None and url.get_secret_value().startswith("postgresql")


@pytest.fixture(autouse=True)
def _where_it_matters(request: pytest.FixtureRequest) -> None:
    """What has nothing to do with our database is put wrong beside one of them only, unless all rounds are wanted."""
    given = getattr(request.node, "callspec", None)
    params = given.params if given else {}
    if (
        not FULL
        and params.get("database_place") == "postgresql"
        and params.get("mistake", OURS[0]) not in OURS
    ):
        pytest.skip("on SQLite always, on PostgreSQL with KOMMO_TEST_ROUNDS=full")


def _open() -> Any:
    settings = Settings()
    assert settings.database_url is not None
    return Database.open(settings.database_url.get_secret_value(), schema=settings.database_schema)


async def _examine(change: Callable[[Surroundings], object] = lambda _: None) -> list[Row]:
    async with open_surroundings(Settings()) as around:
        change(around)
        return await run_checks(ALL_CHECKS, around)


def _faults(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows if row.level == "fault"}


Injected = Callable[[pytest.MonkeyPatch, PrefectClient, Path], Awaitable[Any]]


async def _no_server(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    return temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})


async def _not_prefect(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    return temporary_settings({PREFECT_API_URL: os.environ["APP_URL"] + "/healthz"})


async def _wrong_password(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    return temporary_settings({PREFECT_API_URL: os.environ["APP_URL"] + "/closed"})


async def _same_file(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    patch.setenv("KOMMO_DATABASE_URL", f"sqlite:///{prefect_database()}")


async def _other_encryption_key(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    return _sealed_by_another_key()


@contextlib.contextmanager
def _sealed_by_another_key() -> Iterator[None]:
    """What the server finds when it is started with another key than the one a block was saved with."""
    with contextlib.closing(sqlite3.connect(prefect_database(), timeout=10)) as connection:
        [before] = connection.execute("select data from block_document where name = 'org-acme'").fetchone()
        other = Fernet(Fernet.generate_key()).encrypt(b"{}").decode()
        known = json.loads(before)
        sealed = json.dumps(dict.fromkeys(known, other) if isinstance(known, dict) else other)
        change = "update block_document set data = ? where name = 'org-acme'"
        connection.execute(change, (sealed,))
        connection.commit()
        try:
            yield
        finally:
            connection.execute(change, (before,))
            connection.commit()


async def _missing_block(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    await KommoConnection.adelete("org-acme")


async def _old_block_type(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    block = await client.read_block_type_by_slug("kommo-database")
    await client.delete_block_type(block.id)


async def _behind(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    file = place / "old.db"
    patch.setenv("KOMMO_DATABASE_URL", f"sqlite:///{file}")
    async with _open() as database:
        await database.upgrade("0001")


async def _ahead(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    file = place / "new.db"
    patch.setenv("KOMMO_DATABASE_URL", f"sqlite:///{file}")
    async with _open() as database:
        await database.ensure()
        async with database.begin() as connection:
            await connection.execute(text("update alembic_version set version_num = '9999'"))


async def _no_database(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    patch.setenv("KOMMO_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")


async def _other_sealing_key(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    async with _open() as database:
        sealer = KommoApp.from_environment().sealer()
        await append_pair(
            database, org="acme", used="u", fingerprint="f", sealed=sealer.seal("{}"), host="h",
            account_id=1, expires_at=None, now=SystemClock().now(),
        )  # fmt: skip
    patch.setenv("KOMMO_SEALING_KEYS", new_key().get_secret_value())
    patch.setenv("KOMMO_CLIENT_SECRET", "another")


async def _no_workers(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    await client.request(
        "DELETE",
        "/work_pools/{work_pool_name}/workers/{name}",
        path_params={"work_pool_name": "kommo", "name": "one"},
    )


async def _paused_queue(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    queue = await client.read_work_queue_by_name("steady", work_pool_name="kommo")
    await client.update_work_queue(queue.id, is_paused=True)


async def _schedule_off(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    there = await client.read_deployment_by_name("webhook-backlog/every-minute")
    await client.update_deployment_schedule(there.id, there.schedules[0].id, active=False)


async def _stale(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    there = await client.read_deployment_by_name("token-refresh/every-half-hour")
    await client.update_deployment(there.id, DeploymentUpdate(parameters={"within": "1h"}))


async def _blocked(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    async with _open() as database:
        await budget_of(database, Settings()).block(["egress:other"], 900, "Kommo blocks the address")


async def _private(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    patch.setenv("KOMMO_WEBHOOK_URL", "https://10.0.0.7")


async def _disabled(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    async with _open() as database, database.begin() as connection:
        now = SystemClock().now()
        await save_subscription(connection, Subscription("acme", None, None, (), "disabled", None, now))


async def _no_key(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    async with _open() as database, database.begin() as connection:
        schema = f'"{database.address.schema}".' if database.address.schema else ""
        await connection.execute(text(f"delete from {schema}api_key"))  # noqa: S608 - our names


async def _bad_events(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    patch.setenv("KOMMO_EVENTS_SECRET", "short")


async def _gateway_down(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    patch.setenv("KOMMO_WEBHOOK_URL", "http://127.0.0.1:9")


async def _incomplete(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    patch.delenv("KOMMO_CLIENT_ID")


async def _needs_person(patch: pytest.MonkeyPatch, client: PrefectClient, place: Path) -> Any:
    async with _open() as database:
        await put_connection(
            database, org="beta", block_name="org-beta", host="h", account_id=2,
            token_kind="long_lived", now=SystemClock().now(),
        )  # fmt: skip
        await set_state(database, "beta", "reauthorization_required", "refused", now=SystemClock().now())


MISTAKES: dict[str, tuple[Injected, str, str]] = {
    "Prefect's address leads nowhere": (_no_server, "prefect-api", "prefect server start"),
    "Prefect's address leads elsewhere": (_not_prefect, "prefect-api", "PREFECT_API_URL"),
    "Prefect does not take our password": (_wrong_password, "prefect-api", "PREFECT_API_AUTH_STRING"),
    "Prefect's own file": (_same_file, "database-own", "KOMMO_DATABASE_URL"),
    "another encryption key": (_other_encryption_key, "connection-blocks", "PREFECT_SERVER_ENCRYPTION_KEY"),
    "a connection's block is missing": (_missing_block, "connection-blocks", "PREFECT_API_URL"),
    "a block type is not registered": (_old_block_type, "block-types", "prefect block register"),
    "tables of an older version": (_behind, "database-tables", "kommo db upgrade"),
    "tables of a newer version": (_ahead, "database-tables", "kommo db downgrade"),
    "no database": (_no_database, "database", "KOMMO_DATABASE_URL"),
    "sealing keys swapped": (_other_sealing_key, "sealing-keys", "KOMMO_SEALING_KEYS"),
    "no workers": (_no_workers, "workers", "prefect worker start --pool kommo"),
    "a queue is paused": (_paused_queue, "queues", "prefect work-queue resume steady --pool kommo"),
    "a schedule is off": (_schedule_off, "schedules", "prefect deployment resume"),
    "a deployment is stale": (_stale, "deployments", "kommo deploy"),
    "requests are stopped": (_blocked, "budget-stops", "kommo budget unblock egress:other"),
    "a private address for webhooks": (_private, "webhook-address", "KOMMO_WEBHOOK_URL"),
    "a subscription is switched off": (_disabled, "subscriptions", "kommo webhooks health"),
    "no key for the product": (_no_key, "gateway-keys", "kommo keys api create"),
    "a secret for events that is none": (_bad_events, "events", "KOMMO_EVENTS_SECRET"),
    "the gateway is down": (_gateway_down, "gateway", "kommo gateway"),
    "the integration is not complete": (_incomplete, "integration", "kommo setup"),
    "a connection needs a person": (_needs_person, "connections", "kommo connect beta"),
}

# Checks of what `client` makes at Prefect: after a mistake there it is made anew, which takes a second or two.
AT_PREFECT = frozenset({"block-types", "queues", "schedules", "deployments", "workers"})
OURS = (
    "tables of an older version",
    "tables of a newer version",
    "no database",
    "sealing keys swapped",
    "requests are stopped",
    "a subscription is switched off",
    "no key for the product",
    "a connection needs a person",
)


async def test_where_all_is_well_there_is_no_fault(client: PrefectClient) -> None:
    del client
    rows = await _examine()
    assert not _faults(rows), _faults(rows)
    assert {row.name for row in rows} == {check.name for check in ALL_CHECKS}


@pytest.mark.whole_service
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_found_alone_and_with_its_fix(
    mistake: str, client: PrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject, name, fix = MISTAKES[mistake]
    if name in AT_PREFECT:
        _RIGHT["at Prefect"] = ""
    context = await inject(monkeypatch, client, tmp_path)
    if context is None:
        rows = await _examine()
    else:
        with context:
            rows = await _examine()
    found = _faults(rows)
    assert set(found) == {name}, found
    assert fix in (found[name].fix or "")


@pytest.mark.whole_service
async def test_a_full_disk_and_a_clock_that_is_off(client: PrefectClient) -> None:
    del client

    class Late(SystemClock):
        def now(self) -> Any:
            return super().now() + timedelta(hours=1)

    def full(around: Surroundings) -> None:
        around.free_bytes = lambda _: 1 << 20

    assert set(_faults(await _examine(full))) == {"disk"}

    def wrong_clock(around: Surroundings) -> None:
        around.clock = Late()

    # SQLite has this machine's clock; Kommo tells its own in each answer.
    own = {"database-clock"} if _is_postgres() else set()
    assert set(_faults(await _examine(wrong_clock))) == {"kommo"} | own


async def test_a_check_that_crashes_or_hangs_is_a_fault_of_itself_only(installation: Settings) -> None:
    async def crash(_: Surroundings) -> Any:
        raise ZeroDivisionError("kdp_secret")

    async def hang(_: Surroundings) -> Any:
        await asyncio.sleep(60)

    checks = [Check("one", "g", "one thing", crash), Check("two", "g", "another", hang)]
    async with open_surroundings(installation) as around:
        rows = await run_checks(checks, around, seconds=0.05)
    assert [row.level for row in rows] == ["fault", "fault"]
    assert all(row.fix and f"--only {row.name}" in row.fix for row in rows)
    assert "kdp_secret" not in str(rows)
