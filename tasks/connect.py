"""Connecting an org, with a long-lived token or an authorization code: prove it, keep it, remember what it belongs to.

Neither flows nor tasks: a token or a code must never be a parameter of one, because Prefect stores parameters (T5).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from blocks.app import KommoApp
from blocks.connection import LONG_LIVED, PAIR, KommoConnection
from blocks.names import block_name
from blocks.settings import Settings
from kommo.auth import OAuthClient
from kommo.budget import Lane
from kommo.claims import read_claims
from kommo.client import KommoClient, StaticToken
from kommo.clock import Clock, SystemClock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import Host, parse_host
from kommo.models import Account
from store.claims import release, take_claim
from store.connections import ConnectionRecord, get_connection, put_connection
from store.database import Database
from store.errors import UnknownConnectionError
from store.token_journal import forget
from tasks.credentials import PrefectBlocks
from tasks.errors import RefreshFailedError, WrongAccountError
from tasks.installation import budget_of, open_database
from tasks.outbox import integration_connected, integration_error
from tasks.readers import read_account
from tasks.refresh import CLAIM_SECONDS, WAIT_SECONDS
from tasks.session import process_name
from tasks.subscription import subscribe_connected
from tasks.vault import Vault

_HOW_ONE_LOOKS = (
    "what was given does not look like a token: one begins with eyJ and is a thousand characters without a space; copy "
    "the whole of it from the integration's «Keys and scopes» page"
)


async def connect_with_token(
    org: str,
    domain: str,
    token: SecretStr,
    settings: Settings,
    *,
    replace: bool = False,
    clock: Clock | None = None,
) -> ConnectionRecord:
    """Connect an org with a long-lived token, after one call to Kommo has proved it.

    The block is saved before the row: a crash between the two leaves credentials that nobody uses yet, not a
    connection without credentials.

    Args:
        org: the product's tenant.
        domain: the account's host as a person writes it.
        token: a long-lived token [D K/long-lived-token].
        settings: this installation.
        replace: let the org move to another Kommo account.
        clock: source of time.

    Returns:
        The connection as the store now knows it.

    Raises:
        KommoError: the host is not Kommo's, or Kommo refused or could not be reached. For an org that was not connected
            before, the attempt is kept with its reason, so that `kommo status` shows it.
        WrongAccountError: the org belongs to another account already.
        RefreshFailedError: a refresh of its former tokens did not end.
    """
    clock = clock or SystemClock()
    name = block_name(org)
    async with open_database(settings) as database:
        before = await _connection_before(database, org)
        try:
            block, account = await _prove(org, domain, token, settings, database)
        except KommoError as error:
            if before is None or before.account_id is None:
                await _remember_failure(database, org, domain, error, clock)
            raise
        _same_account(org, before, account, block.host, replace=replace)
        async with _no_refresh(database, org, before, clock), PrefectBlocks() as blocks:
            # Not over the block of a pair: only a new one is safe from a refresh that was stopped before its save.
            replaces_pair = before is not None and before.token_kind == PAIR
            await (blocks.put_anew if replaces_pair else blocks.save)(org, block)
            connection = await put_connection(
                database,
                org=org,
                block_name=name,
                host=block.host,
                account_id=account.id,
                account_name=account.name,
                subdomain=account.subdomain,
                token_kind=block.token_kind,
                expires_at=block.expires_at,
                scopes=block.scopes,
                state="connected",
                events=[integration_connected(org, account.id, account.name)],
                now=clock.now(),
            )
        await subscribe_connected(connection, token, settings, database=database, app=None, clock=clock)
        return connection


async def connect_with_code(
    org: str,
    host: Host,
    code: SecretStr,
    settings: Settings,
    *,
    database: Database,
    app: KommoApp,
    replace: bool = False,
    clock: Clock | None = None,
) -> ConnectionRecord:
    """Connect an org with an authorization code, as the OAuth callback brings it [D K/oauth-20].

    The pair is in the journal before it is used for the call that proves it (T2). The block comes last: if Prefect is
    down, the journal has the pair, and the next reader brings the block level.

    Args:
        org: the product's tenant.
        host: the account's host, checked.
        code: good for 20 minutes, once.
        settings: this installation.
        database: an open database.
        app: the integration that the code belongs to.
        replace: let the org move to another Kommo account.
        clock: source of time.

    Raises:
        KommoError: Kommo refused the code, or could not be reached.
        WrongAccountError: the org belongs to another account already.
    """
    clock = clock or SystemClock()
    budget, egress = budget_of(database, settings), f"egress:{settings.egress}"
    before = await _connection_before(database, org)
    async with (
        OAuthClient(app.oauth(), budget=budget, egress_key=egress, clock=clock) as oauth,
        PrefectBlocks() as blocks,
    ):
        vault = Vault(database=database, blocks=blocks, sealer=app.sealer(), clock=clock)
        pair = await oauth.exchange_code(host, code)
        held = await vault.keep_first(org, pair, host.name)
        client = KommoClient(
            host,
            StaticToken(pair.access_token),
            budget=budget,
            account_key=held.account_key,
            egress_key=egress,
            lane=Lane.ACTION,
            clock=clock,
        )
        async with client:
            account = await read_account(client)
        try:
            _same_account(org, before, account, host.name, replace=replace)
        except WrongAccountError:
            await forget(database, org, pair.fingerprint)  # nobody asked for it, and nobody is to have it
            raise
        connection = await put_connection(
            database,
            org=org,
            block_name=block_name(org),
            host=host.name,
            account_id=account.id,
            account_name=account.name,
            subdomain=account.subdomain,
            token_kind=PAIR,
            token_fingerprint=pair.fingerprint,
            expires_at=pair.expires_at,
            scopes=pair.scopes,
            state="connected",
            events=[integration_connected(org, account.id, account.name)],
            now=clock.now(),
        )
        await vault.settle(connection, held)
        await subscribe_connected(
            connection, pair.access_token, settings, database=database, app=app, clock=clock
        )
    return connection


@asynccontextmanager
async def _no_refresh(
    database: Database, org: str, before: ConnectionRecord | None, clock: Clock
) -> AsyncIterator[None]:
    """Keep a refresh of the org's pair from saving it over a long-lived token, which only the block has."""
    if before is None or before.token_kind != PAIR:
        yield
        return
    until, owner = clock.monotonic() + WAIT_SECONDS, process_name()
    while (claim := await take_claim(database, org, owner, CLAIM_SECONDS)) is None:
        if clock.monotonic() >= until:
            raise RefreshFailedError(
                f"Another process is refreshing the former tokens of '{org}' and does not end. Nothing was changed; "
                "look for a worker that hangs, and try again."
            )
        await clock.sleep(0.2)
    try:
        yield
    finally:
        await release(database, claim)


def _same_account(
    org: str, before: ConnectionRecord | None, account: Account, host: str, *, replace: bool
) -> None:
    if before is not None and before.account_id not in {None, account.id} and not replace:
        raise WrongAccountError(
            f"'{org}' is connected to account {before.account_id} ({before.host}), and these credentials belong to "
            f"account {account.id} ({host}). If the org really moves, say --replace: its history goes on."
        )


async def _connection_before(database: Database, org: str) -> ConnectionRecord | None:
    try:
        return await get_connection(database, org)
    except UnknownConnectionError:
        return None


async def _prove(
    org: str, domain: str, token: SecretStr, settings: Settings, database: Database
) -> tuple[KommoConnection, Account]:
    host = parse_host(domain, allow_loopback=settings.sandbox)
    if not _is_one_word(token):
        raise KommoError(ErrorKind.UNAUTHORIZED, host=host.name, detail=_HOW_ONE_LOOKS)
    claims = read_claims(token)
    block = KommoConnection(
        org=org,
        host=host.name,
        account_id=claims.account_id,
        access_token=token,
        expires_at=claims.expires_at,
        scopes=claims.scopes,
    )
    client = block.get_client(
        budget=budget_of(database, settings), egress=settings.egress, allow_loopback=settings.sandbox
    )
    async with client:
        try:
            account = await read_account(client)
        except KommoError as error:
            if error.kind is ErrorKind.UNAUTHORIZED and claims.account_id is None:
                error.with_detail(_HOW_ONE_LOOKS)
            raise
    return block.model_copy(update={"account_id": account.id}), account


def _is_one_word(token: SecretStr) -> bool:
    text = token.get_secret_value()
    return text.isascii() and text.isprintable() and " " not in text


async def _remember_failure(
    database: Database, org: str, domain: str, error: KommoError, clock: Clock
) -> None:
    # What a person typed as a domain could be anything, a token pasted into the wrong place among it: only something
    # that at least looks like a host is kept.
    looks_like_host = len(domain) <= 100 and all(char.isalnum() or char in ".-:" for char in domain)
    await put_connection(
        database,
        org=org,
        block_name=block_name(org),
        host=domain if looks_like_host and "." in domain else "",
        token_kind=LONG_LIVED,
        state="failed",
        reason=str(error),
        reason_code=error.kind.value,
        events=[integration_error(org, error.kind.value, str(error))],
        now=clock.now(),
    )
