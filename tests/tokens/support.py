"""What the tests of tokens share: a place for blocks without a Prefect server, a connected org, clocks that agree."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from blocks.app import KommoApp
from blocks.connection import KommoConnection
from kommo.auth import OAuthClient
from kommo.budget import InProcessBudget
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from kommo.transport import Transport
from sandbox import Sandbox
from sandbox.oauth_pages import callback_url
from store.connections import ConnectionRecord, get_connection, put_connection
from store.database import Database
from tasks.attempt import Announce, Reached
from tasks.credentials import ConnectionBlocks
from tasks.errors import BlocksUnavailableError
from tasks.refresh import Refresher
from tasks.vault import HeldPair, Vault

DAY = timedelta(hours=25)
"""After this time every access token has ended."""


class OffsetClock(SystemClock):
    """The real clock, put forward; the sandbox's is put forward by the same."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    async def sleep(self, seconds: float) -> None:
        """Backing off need not take its time; whoever waits for a moment looks again."""
        await super().sleep(min(seconds, 0.05))

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.seconds)


class FileBlocks:
    """Blocks in a folder: what Prefect's server is to the product, seen from several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.down = False

    def _file(self, org: str) -> Path:
        if self.down:
            raise BlocksUnavailableError("Prefect is down.")
        return self._folder / f"{org}.json"

    async def load(self, org: str) -> KommoConnection | None:
        try:
            return KommoConnection.model_validate(json.loads(self._file(org).read_text()))
        except FileNotFoundError:
            return None

    async def save(self, org: str, block: KommoConnection) -> None:
        file = self._file(org)
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text(
            json.dumps(
                block.model_dump(
                    mode="json",
                    include=set(KommoConnection.model_fields),
                    context={"include_secrets": True},
                )
            )
        )
        scratch.rename(file)

    async def delete(self, org: str) -> None:
        self._file(org).unlink(missing_ok=True)


def app_of(kommo: Sandbox) -> KommoApp:
    """The integration that the sandbox knows."""
    known = kommo.world.integration
    return KommoApp(
        client_id=known.client_id,
        client_secret=SecretStr(known.client_secret),
        redirect_uri=known.redirect_uri,
        allow_loopback=True,
    )


@dataclass
class Installation:
    """A database, blocks and an integration, from which refreshers are made as a process would."""

    database: Database
    blocks: FileBlocks
    app: KommoApp
    clock: OffsetClock = field(default_factory=OffsetClock)

    def vault_with(self, blocks: ConnectionBlocks) -> Vault:
        return Vault(database=self.database, blocks=blocks, sealer=self.app.sealer(), clock=self.clock)

    @property
    def vault(self) -> Vault:
        return self.vault_with(self.blocks)

    @asynccontextmanager
    async def refresher(
        self,
        *,
        reached: Reached | None = None,
        claim_seconds: float = 60.0,
        announce: Announce | None = None,
        transport: Transport | None = None,
        blocks: ConnectionBlocks | None = None,
    ) -> AsyncIterator[Refresher]:
        oauth = OAuthClient(
            self.app.oauth(),
            budget=InProcessBudget({"account": 1000, "egress": 1000}, self.clock),
            clock=self.clock,
            transport=transport,
        )
        more: dict[str, Any] = {} if reached is None else {"reached": reached}
        async with oauth:
            yield Refresher(
                database=self.database,
                vault=self.vault_with(blocks or self.blocks),
                oauth=oauth,
                clock=self.clock,
                owner=f"test:{os.getpid()}",
                allow_loopback=True,
                claim_seconds=claim_seconds,
                announce=announce,
                **more,
            )

    async def held(self, org: str = "acme") -> HeldPair:
        return await self.vault.held(await get_connection(self.database, org))


async def connected(
    here: Installation, kommo: Sandbox, org: str = "acme", subdomain: str = "acme"
) -> ConnectionRecord:
    """Connect an org by a consent, as the callback does, without a Prefect server."""
    account = kommo.account(subdomain)
    url = callback_url(kommo.world, kommo.world.integration, account, "")
    code = SecretStr(url.partition("code=")[2].partition("&")[0])
    host = parse_host(account.host, allow_loopback=True)
    async with OAuthClient(
        here.app.oauth(), budget=InProcessBudget({"egress": 1000}, here.clock), clock=here.clock
    ) as oauth:
        pair = await oauth.exchange_code(host, code)
    held = await here.vault.keep_first(org, pair, host.name)
    connection = await put_connection(
        here.database,
        org=org,
        block_name=f"org-{org}",
        host=host.name,
        account_id=account.id,
        account_name=str(account.profile["name"]),
        subdomain=subdomain,
        token_kind="pair",
        token_fingerprint=pair.fingerprint,
        expires_at=pair.expires_at,
        scopes=pair.scopes,
        now=here.clock.now(),
    )
    await here.vault.settle(connection, held)
    return await get_connection(here.database, org)


def a_day_passes(kommo: Sandbox, here: Installation) -> None:
    """Both clocks go forward until every access token has ended."""
    kommo.world.clock_offset += DAY.total_seconds()
    here.clock.seconds += DAY.total_seconds()


def token_calls(kommo: Sandbox) -> list[int]:
    """The statuses of the calls of the token endpoint, in order."""
    return [
        entry.status
        for entry in kommo.world.log.entries
        if entry.path == "/oauth2/access_token" and entry.method == "POST"
    ]


def works(kommo: Sandbox, held: HeldPair) -> bool:
    """Whether Kommo would take both tokens of the pair now."""
    refreshable = kommo.world.oauth.by_refresh_token(held.refresh_token.get_secret_value())
    access = kommo.world.tokens.find(held.access_token.get_secret_value())
    return refreshable is not None and access is not None
