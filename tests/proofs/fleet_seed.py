"""A fleet that is there at once: connections, journal and blocks as consents would have made them 23 hours ago."""

import asyncio
import json
import secrets
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.server.database import provide_database_interface
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from blocks.app import KommoApp
from blocks.connection import KommoConnection
from blocks.names import block_name
from kommo.tokenpair import TokenPair
from store.database import Database
from store.shards import slot_of
from store.tables import Connection, TokenJournalRow, table_of

_AT_A_TIME = 500
HOURS_OLD = 23


async def ask(url: str, name: str, method: str = "GET", body: object = None, *, seconds: float = 600) -> Any:
    """Ask the control API of a sandbox process; an answer about ten thousand accounts takes its time."""

    def call() -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{url}/_sandbox/{name}", data=data, method=method)  # noqa: S310 - our loopback
        with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - loopback
            return json.load(answer)

    return await asyncio.to_thread(call)


async def seed_fleet(database: Database, app: KommoApp, pairs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Make a connection for each account that the sandbox gave a pair of.

    Args:
        database: The store, with its tables.
        app: Seals the journal.
        pairs: What the control API's `pairs` answered.

    Returns:
        Org → subdomain of its account.
    """
    fleet, sealer = secrets.token_hex(3), app.sealer()
    named: dict[str, str] = {}
    for start in range(0, len(pairs), _AT_A_TIME):
        some = {f"fleet-{fleet}-{start + n}": one for n, one in enumerate(pairs[start : start + _AT_A_TIME])}
        now = datetime.now(UTC)
        made = {org: _pair(given, now) for org, given in some.items()}
        async with database.begin() as connection:
            await connection.execute(
                table_of(Connection).insert(),
                [_connection(org, some[org], pair, now) for org, pair in made.items()],
            )
            await connection.execute(
                table_of(TokenJournalRow).insert(),
                [
                    {
                        "org": org,
                        "used": pair.used,
                        "fingerprint": pair.fingerprint,
                        "sealed": sealer.seal(pair.to_json()),
                        "host": some[org]["host"],
                        "account_id": pair.account_id,
                        "expires_at": pair.expires_at,
                        "created_at": now,
                        "promoted_at": now,
                    }
                    for org, pair in made.items()
                ],
            )
        await _keep_blocks([_block(org, some[org], pair) for org, pair in made.items()])
        named |= {org: given["subdomain"] for org, given in some.items()}
    return named


def _pair(given: dict[str, Any], now: datetime) -> TokenPair:
    return TokenPair(
        access_token=SecretStr(given["access_token"]),
        refresh_token=SecretStr(given["refresh_token"]),
        expires_at=now + timedelta(hours=24 - HOURS_OLD),
        received_at=now - timedelta(hours=HOURS_OLD),
        used=f"code:{given['account_id']}",
        account_id=given["account_id"],
        scopes=("crm",),
        api_domain=None,
        issued_at=None,
        server_skew=None,
    )


def _connection(org: str, given: dict[str, Any], pair: TokenPair, now: datetime) -> dict[str, Any]:
    return {
        "org": org,
        "slot": slot_of(org),
        "provider": "kommo",
        "block_name": block_name(org),
        "host": given["host"],
        "account_id": given["account_id"],
        "account_name": given["subdomain"],
        "subdomain": given["subdomain"],
        "token_kind": "pair",
        "token_fingerprint": pair.fingerprint,
        "token_serial": 1,
        "expires_at": pair.expires_at,
        "scopes": ["crm"],
        "state": "connected",
        "state_since": now,
        "created_at": now,
        "updated_at": now,
        "refreshed_at": now - timedelta(hours=HOURS_OLD),
        "refresh_attempts": 0,
    }


def _block(org: str, given: dict[str, Any], pair: TokenPair) -> KommoConnection:
    return KommoConnection(
        org=org,
        host=given["host"],
        account_id=given["account_id"],
        token_kind="pair",
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
        used=pair.used,
        expires_at=pair.expires_at,
        scopes=["crm"],
    )


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
