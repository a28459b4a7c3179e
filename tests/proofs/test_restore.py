"""Backup, total loss, restore on fresh databases: every connection works, and nothing acknowledged is missing.

A refresh token is good once, so a backup is old as soon as a connection is refreshed. What that means is shown for a
connection that was refreshed between the two dumps, one that was after both, and one whose new pair was used as well.
"""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import select

from blocks.settings import Settings
from flows.full_sync import full_crm_sync
from flows.token_refresh import token_refresh
from flows.webhook_backlog import webhook_backlog
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from sandbox import Sandbox, running_sandbox
from sandbox.oauth_pages import callback_url
from store.connections import get_connection
from store.database import Database
from store.inbox import EVENTS, save_deliveries
from store.outbox import list_outbox
from store.tables import metadata
from tasks.app import find_app, require_app
from tasks.connect import connect_with_code, connect_with_token
from tasks.credentials import PrefectBlocks
from tasks.installation import open_database
from tasks.vault import HeldPair, Vault
from tests.prefect_server import prefect_on
from tests.proofs.restoring import POSTGRES_URL, Keeper, PostgresKeeper, Rows, SqliteKeeper
from tests.proofs.support import FULL
from tests.store.hooks import change, delivery
from tests.syncing import quiet_config
from tests.tokens.support import works

pytestmark = [
    pytest.mark.proof,
    pytest.mark.seconds(60),
    pytest.mark.skipif(not FULL, reason="two Prefect servers for each case: KOMMO_TEST_ROUNDS=full"),
]

BETWEEN, AFTER, USED = "globex", "initech", "umbrella"
ORGS = ("acme", BETWEEN, AFTER, USED)


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES_URL else ["sqlite"])
async def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Keeper]:
    made: Keeper = SqliteKeeper(tmp_path) if request.param == "sqlite" else PostgresKeeper(tmp_path)
    await made.prepare()
    yield made
    await made.end()


@pytest.fixture
async def kommo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox with an account for each org, and the environment of the installation."""
    async with running_sandbox(
        quiet_config(accounts=len(ORGS) + 1, leads=1, contacts=1, companies=1)
    ) as sandbox:
        known = sandbox.world.integration
        environment = {
            "KOMMO_HOME": str(tmp_path / "home"),
            "KOMMO_SANDBOX": "1",
            "KOMMO_REQUESTS_PER_SECOND": "50",
            "KOMMO_CLIENT_ID": known.client_id,
            "KOMMO_CLIENT_SECRET": known.client_secret,
            "KOMMO_REDIRECT_URI": known.redirect_uri,
            # Kept apart from the databases, as the page says, and given to the new servers by hand.
            "KOMMO_SEALING_KEYS": Fernet.generate_key().decode(),
            "PREFECT_SERVER_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield sandbox


async def _connect(kommo: Sandbox, database: Database) -> None:
    settings = Settings()
    for org, access in zip(ORGS, kommo.accounts, strict=False):
        url = callback_url(kommo.world, kommo.world.integration, kommo.account(access.subdomain), "")
        code = SecretStr(url.partition("code=")[2].partition("&")[0])
        host = parse_host(access.host, allow_loopback=True)
        app = await require_app(settings)
        await connect_with_code(org, host, code, settings, database=database, app=app)
    last = kommo.accounts[len(ORGS)]
    await connect_with_token("plain", last.host, SecretStr(last.admin_token), settings)


async def _acknowledge(database: Database, key: str) -> str:
    """A delivery of an org's lead as the gateway commits it before it answers."""
    unique = f"{key}-{uuid.uuid4().hex}"
    await save_deliveries(database, [delivery(change(unique, "1", action="delete"))])
    return unique


async def _held(database: Database, org: str) -> HeldPair:
    app = await find_app(Settings())
    async with PrefectBlocks() as blocks:
        vault = Vault(database=database, blocks=blocks, sealer=app.sealer(), clock=SystemClock())
        return await vault.held(await get_connection(database, org))


async def _rows(database: Database) -> Rows:
    """Everything in our tables."""
    async with database.read() as connection:
        return {
            table.name: sorted(map(tuple, (await connection.execute(select(table))).all()), key=repr)
            for table in metadata.sorted_tables
        }


@pytest.mark.parametrize("order", [("prefect", "store"), ("store", "prefect")], ids="-then-".join)
async def test_after_a_total_loss_every_connection_works_and_nothing_acknowledged_is_missing(
    keeper: Keeper, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    monkeypatch.setenv("KOMMO_DATABASE_URL", keeper.url("store"))
    with prefect_on(keeper.url("prefect")):
        async with open_database(Settings()) as database:
            await _connect(kommo, database)
            await full_crm_sync("acme")
            acknowledged = {await _acknowledge(database, "early")}
            saved: Rows = {}
            for number, what in enumerate(order):
                if what == "store":
                    saved = await _rows(database)
                await keeper.dump(what)
                if number == 0:  # life goes on between the dumps
                    assert (await token_refresh(org=BETWEEN)).refreshed == 1
                    if order[1] == "store":
                        acknowledged.add(await _acknowledge(database, "between"))
            for org in (AFTER, USED):  # and after them
                assert (await token_refresh(org=org)).refreshed == 1
            used = await _held(database, USED)
            token = kommo.world.tokens.find(used.access_token.get_secret_value())
            assert token is not None
            kommo.world.oauth.access_used(token)
    await keeper.lose()

    for what in ("store", "prefect"):
        await keeper.restore(what)
    monkeypatch.setenv("KOMMO_DATABASE_URL", keeper.url("store", new=True))
    with prefect_on(keeper.url("prefect", new=True)):
        async with open_database(Settings()) as database:
            assert await _rows(database) == saved
            report = await token_refresh("2d")
            lost = {failure.org: failure.outcome for failure in report.failures}
            assert lost == {USED: "reauthorization_required"}
            assert report.due == len(ORGS)
            for org in ("acme", BETWEEN, AFTER):
                assert works(kommo, await _held(database, org)), org
                assert (await get_connection(database, org)).state == "connected"
            for org in (BETWEEN, "plain"):
                assert (await full_crm_sync(org)).state == "completed"
            # The product is told, once, which customer has to consent anew.
            told = [
                one.org for one in await list_outbox(database, limit=1000) if one.type == "integration_error"
            ]
            assert told == [USED]
            await webhook_backlog(linger="0s")
            async with database.read() as connection:
                states = dict((await connection.execute(select(EVENTS.c.unique_key, EVENTS.c.state))).all())
    assert states == dict.fromkeys(acknowledged, "done")
