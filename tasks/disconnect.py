"""Ending a connection: because a person says so, or because Kommo says that the integration was removed."""

from pydantic import BaseModel, SecretStr

from blocks.settings import Settings
from kommo.client import KommoClient, StaticToken
from kommo.clock import Clock, SystemClock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import parse_host
from store.audit import AuditNote
from store.connections import PAIR, ConnectionRecord, ConnectionState, change_state, get_connection
from store.database import Database
from store.purge import purge_org
from store.token_journal import forget
from store.webhook_keys import list_keys
from tasks.credentials import PrefectBlocks
from tasks.errors import NotConnectedError, ReauthorizationRequiredError
from tasks.events import emit_org_event
from tasks.installation import budget_of
from tasks.outbox import integration_disconnected
from tasks.readers import read_account
from tasks.session import load_connection, open_refresher
from tasks.subscription import KEY_KNOWN_SECONDS, forget_webhook, unsubscribe_leaving

WRITING_SECONDS = 10.0
"""Seconds that a delivery may take from the door to the disk: the intake gives a transaction up then."""


class DisconnectReport(BaseModel):
    """What ending a connection removed."""

    org: str
    purged: dict[str, int] | None = None
    """Rows removed by table; None when snapshots and history were kept."""


async def disconnect(
    org: str, settings: Settings, *, database: Database, purge: bool = False, clock: Clock | None = None
) -> DisconnectReport:
    """End an org's connection: its tokens are forgotten here; snapshots and history stay unless purged.

    Kommo offers no call to revoke a token: who wants that removes the integration in the account's settings.

    Args:
        org: the product's tenant.
        settings: this installation.
        database: an open database.
        purge: remove the snapshots and the history, too.
        clock: source of time.

    Raises:
        UnknownConnectionError: the org has no connection.
        BlocksUnavailableError: Prefect does not answer; the tokens may still be there, so do it again.
    """
    clock = clock or SystemClock()
    connection = await get_connection(database, org)
    await unsubscribe_leaving(connection, settings, database=database, clock=clock)
    async with PrefectBlocks() as blocks:
        await blocks.delete(org)
        had_keys = any(key.revoked_at is None for key in await list_keys(database, org))
        await _end(database, org, "A person disconnected it.", "disconnected_here", clock)
        await forget(database, org)
        if purge and had_keys:
            # What a gateway takes in yet, and what it is writing at this moment, must not outlive the purge.
            await clock.sleep(KEY_KNOWN_SECONDS + WRITING_SECONDS)
        purged = await purge_org(database, org, now=clock.now()) if purge else None
        # A refresh that was under way may have saved the block again; from now on none does: it sees the state.
        await blocks.delete(org)
    return DisconnectReport(org=org, purged=purged)


async def confirm_uninstall(
    org: str, settings: Settings, *, database: Database, clock: Clock | None = None
) -> bool:
    """Find out whether Kommo still takes the org's token, after its disable hook said that it would not.

    The hook is signed without a time, so that an old one can be replayed [D K/oauth-20]: it is only a reason to ask.

    Args:
        org: the product's tenant.
        settings: this installation.
        database: an open database.
        clock: source of time.

    Returns:
        Whether the connection is disconnected now.

    Raises:
        KommoError: it cannot be told: Kommo does not answer.
        RefreshFailedError: it cannot be told: the token could not be refreshed this time.
    """
    clock = clock or SystemClock()
    connection = await get_connection(database, org)
    if connection.state == ConnectionState.DISCONNECTED:
        return True
    if await _still_works(connection, settings, database, clock):
        return False
    # Of this consent only: somebody may have installed it again while Kommo was asked about the former one.
    return await _end(
        database,
        org,
        "The integration was removed in Kommo.",
        "uninstalled",
        clock,
        serial=connection.token_serial,
    )


async def _still_works(
    connection: ConnectionRecord, settings: Settings, database: Database, clock: Clock
) -> bool:
    if connection.token_kind != PAIR:
        token = (await load_connection(connection.org)).access_token
        return await _is_taken(token, connection, settings, database, clock)
    async with open_refresher(database, settings, clock=clock) as refresher:
        try:
            token = (held := await refresher.held(connection)).access_token
            if held.expires_at > clock.now() and await _is_taken(
                token, connection, settings, database, clock
            ):
                return True
            # That proves nothing: it has ended, or another process has just replaced it. The refresh token tells.
            await refresher.fresh(connection.org, refused=token)
        except (NotConnectedError, ReauthorizationRequiredError):
            return False
    return True


async def _is_taken(
    token: SecretStr, connection: ConnectionRecord, settings: Settings, database: Database, clock: Clock
) -> bool:
    """Whether Kommo takes this access token."""
    client = KommoClient(
        parse_host(connection.host, allow_loopback=settings.sandbox),
        StaticToken(token),
        budget=budget_of(database, settings),
        account_key=f"account:{connection.account_id or connection.host}",
        egress_key=f"egress:{settings.egress}",
        clock=clock,
    )
    async with client:
        try:
            await read_account(client)
        except KommoError as error:
            if error.kind is ErrorKind.UNAUTHORIZED:
                return False
            raise
    return True


async def _end(
    database: Database, org: str, reason: str, code: str, clock: Clock, *, serial: int | None = None
) -> bool:
    """End the connection and its keys at once, or, if its token is another one by now, neither; whether it is ended."""
    now = clock.now()
    async with database.begin() as transaction:
        # The state first: who makes a key looks at it, and comes before this or not at all.
        changed = await change_state(
            transaction,
            org,
            ConnectionState.DISCONNECTED,
            reason,
            reason_code=code,
            serial=serial,
            events=[integration_disconnected(org, code, reason)],
            audit=AuditNote("disconnected", {"reason": code}),
            now=now,
        )
        if changed or serial is None:
            await forget_webhook(transaction, org, reason, now)
    if changed:
        emit_org_event("kommo.connection.disconnected", org, {"reason": code, "message": reason})
    return changed or (await get_connection(database, org)).state == ConnectionState.DISCONNECTED
