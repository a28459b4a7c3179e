"""One run refreshes a whole fleet at the limit of the budget; dead connections and faults do not stop the rest."""

import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.server.database import provide_database_interface
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from blocks.app import KommoApp
from blocks.connection import KommoConnection
from blocks.names import block_name
from blocks.settings import Settings
from flows.token_refresh import token_refresh
from kommo.clock import SystemClock
from kommo.tokenpair import TokenPair
from store.connections import ConnectionRecord, ConnectionState, list_connections, put_connection
from store.database import Database
from tasks.credentials import PrefectBlocks
from tasks.installation import open_database
from tasks.vault import HeldPair, Vault, block_of
from tests.proofs.support import FULL, control, sandbox_process

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("prefect_api")]

FLEET = 1000 if FULL else 20
LIMIT = 7 if FULL else 50


def _pair(given: dict[str, Any]) -> TokenPair:
    now = datetime.now(UTC)
    return TokenPair(
        access_token=SecretStr(given["access_token"]),
        refresh_token=SecretStr(given["refresh_token"]),
        expires_at=now + timedelta(hours=1),
        received_at=now - timedelta(hours=23),
        used=f"code:{given['account_id']}",
        account_id=given["account_id"],
        scopes=("crm",),
        api_domain=None,
        issued_at=None,
        server_skew=None,
    )


async def _seed(database: Database, app: KommoApp, pairs: list[dict[str, Any]]) -> None:
    """Connections as consents would have made them 23 hours ago; their orgs are nobody else's on this server."""
    clock, fleet = SystemClock(), uuid.uuid4().hex[:8]
    async with PrefectBlocks() as none:
        vault = Vault(database=database, blocks=none, sealer=app.sealer(), clock=clock)
        made: list[tuple[ConnectionRecord, HeldPair]] = []
        for number, given in enumerate(pairs):
            org, pair = f"fleet-{fleet}-{number}", _pair(given)
            held = await vault.keep_first(org, pair, given["host"])
            connection = await put_connection(
                database,
                org=org,
                block_name=block_name(org),
                host=given["host"],
                account_id=given["account_id"],
                token_kind="pair",
                token_fingerprint=pair.fingerprint,
                expires_at=pair.expires_at,
                now=clock.now(),
            )
            made.append((connection, replace(held, in_block=True)))
        await _keep_blocks([block_of(connection, held, ("crm",)) for connection, held in made])
        for connection, held in made:
            await vault.settle(connection, held)


@retry(retry=retry_if_exception_type(OperationalError), stop=stop_after_attempt(10), wait=wait_random(0, 0.5))
async def _keep_blocks(blocks: list[KommoConnection]) -> None:
    """Put the blocks into the Prefect server's database in one transaction: its API takes a fifth of a second each.

    Again where the server has written meanwhile: SQLite then refuses a transaction that began before.
    """
    await KommoConnection.aregister_type_and_schema()
    type_id, schema_id = KommoConnection._block_type_id, KommoConnection._block_schema_id
    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        for block in blocks:
            document = db.BlockDocument(
                name=block_name(block.org),
                block_type_id=type_id,
                block_type_name="Kommo Connection",
                block_schema_id=schema_id,
                is_anonymous=False,
            )
            fields = block.model_dump(
                mode="json", include=set(KommoConnection.model_fields), context={"include_secrets": True}
            )
            await document.encrypt_data(session=session, data=fields)
            session.add(document)


@pytest.mark.whole_service
@pytest.mark.seconds(6)
@pytest.mark.one_database
@pytest.mark.parametrize("trouble", [False, True], ids=["untroubled", "dead-and-faulty"])
async def test_one_run_refreshes_a_whole_fleet(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, trouble: bool
) -> None:
    dialect = str(installation.database_url and installation.database_url.get_secret_value()).split(":")[0]
    monkeypatch.setenv("KOMMO_REQUESTS_PER_SECOND", str(LIMIT))
    arguments = ("--accounts", str(FLEET), "--limit", str(LIMIT), "--retry-after", "1")
    async with sandbox_process(*arguments) as kommo, open_database(installation) as database:
        [known] = await control(kommo["url"], "integrations")
        for name, value in (
            ("CLIENT_ID", known["client_id"]),
            ("CLIENT_SECRET", known["client_secret"]),
            ("REDIRECT_URI", known["redirect_uri"]),
        ):
            monkeypatch.setenv(f"KOMMO_{name}", value)
        pairs = await control(kommo["url"], "pairs", "POST", {"accounts": "all", "age": 23 * 3600})
        await _seed(database, KommoApp.from_environment(), pairs)
        dead = [given["account_id"] for given in pairs[:: 20 if trouble else FLEET + 1]][int(not trouble) :]
        if trouble:
            await control(kommo["url"], "revoke", "POST", {"accounts": [str(number) for number in dead]})
            for kind in ("500", "reset"):
                fault = {"kind": kind, "rate": 0.05, "path": "/oauth2/access_token"}
                await control(kommo["url"], "faults", "POST", fault)
        await control(kommo["url"], "requests", "DELETE")
        begun = time.monotonic()
        report = await token_refresh("6h")
        wall = time.monotonic() - begun
        windows = await control(kommo["url"], "windows")
        states = [
            record
            for record in (await list_connections(database, limit=2 * FLEET)).items
            if record.state != ConnectionState.CONNECTED
        ]
    ideal = windows["total"] / LIMIT
    print(  # noqa: T201 - the figures that this proof is about; shown with -s
        f"\n{dialect}: {report.summary()}; {windows['total']} calls, the whole run {wall:.1f} s, "
        f"{report.seconds / ideal:.3f} "
        f"of the shortest possible time; fullest second {max(windows['max_per_ip'].values())}"
    )
    unlucky = [one for one in report.failures if one.outcome != "reauthorization_required"]
    assert not unlucky, unlucky[:3]
    assert (report.due, report.refreshed) == (FLEET, FLEET - len(dead))
    assert {failure.outcome for failure in report.failures} == (
        {"reauthorization_required"} if dead else set()
    )
    assert sorted(record.account_id or 0 for record in states) == sorted(dead)
    assert max(windows["max_per_ip"].values()) <= LIMIT
    assert not FULL or report.seconds <= 1.05 * ideal
