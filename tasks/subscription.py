"""Where Kommo is to send an org's webhooks: subscribing, looking after it, ending it.

The destination holds a key that nobody can guess, because account webhooks are not signed (kommo-api.md §6.1). It is
kept nowhere here: the store has its hash, and Kommo gives the destination back when it is asked.

A destination that still stands is kept: Kommo may have deliveries to it that wait to be repeated.
"""

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from blocks.app import KommoApp
from blocks.settings import Settings
from kommo.budget import Lane
from kommo.client import KommoClient, StaticToken
from kommo.clock import Clock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import parse_host
from kommo.subscriptions import EVENTS, NOT_EVERYWHERE, list_subscriptions, subscribe, unsubscribe
from kommo.subscriptions import Subscription as AtKommo
from store.connections import ConnectionRecord, still_stands
from store.database import Database
from store.subscriptions import Subscription, SubscriptionState, get_subscription, save_subscription
from store.webhook_keys import add_key, find_key, hash_of_key, is_good, list_keys, revoke_keys
from tasks.backlog_clients import open_clients
from tasks.errors import DataPlaneError, NotConnectedError
from tasks.installation import budget_of

HOOK_PATH = "/api/webhooks/kommo"
"""Where the gateway takes deliveries in, followed by the key."""
_KEY_BYTES = 32
_TRIES = 3
"""How often it is begun anew because another process has done the same at the same time."""
KEY_KNOWN_SECONDS = 5.0
"""Seconds for which a gateway may take in what comes with a key after it was revoked."""
_PATIENCE = 8.0
"""Seconds for which somebody who connects or disconnects waits for this at most."""
_REFUSALS = frozenset(
    {ErrorKind.FORBIDDEN, ErrorKind.PAYMENT_REQUIRED, ErrorKind.VALIDATION, ErrorKind.LIMIT}
)

_log = logging.getLogger(__name__)


class Found(StrEnum):
    """How a subscription was found."""

    GOOD = "good"
    DISABLED = "disabled"
    MISSING = "missing"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Door:
    """Where deliveries are to go.

    Attributes:
        base: The destination without its key; None if there is no public address.
        why: Why there is none.
    """

    base: str | None
    why: str | None = None


def door_of(settings: Settings, app: KommoApp | None = None) -> Door:
    """The public address of this installation's intake.

    Args:
        settings: This installation; `KOMMO_WEBHOOK_URL` comes first.
        app: The integration, which knows the product's address.
    """
    url = settings.webhook_url or settings.app_url or (app.app_url if app is not None else "")
    if not url:
        return Door(
            None,
            "No public address for webhooks is set: set KOMMO_WEBHOOK_URL (or APP_URL) to the gateway's.",
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.query or parts.fragment or parts.username is not None:
        return Door(None, "KOMMO_WEBHOOK_URL (or APP_URL) is not an address such as https://app.example.com.")
    if parts.scheme != "https" and not (settings.sandbox and parts.scheme == "http"):
        return Door(None, "Kommo sends webhooks to https only: correct KOMMO_WEBHOOK_URL (or APP_URL).")
    return Door(url.rstrip("/") + HOOK_PATH)


async def setup_webhook(
    client: KommoClient, connection: ConnectionRecord, door: Door, *, database: Database, clock: Clock
) -> tuple[Subscription, Found | None]:
    """Have Kommo send the account's webhooks here; safe to repeat (product-contract.md, row 10).

    What stands well is left alone; one that Kommo has switched off is switched on; what is left over from former keys
    and addresses is removed. A refusal of Kommo is no failure of the connection: the state says why.

    Args:
        client: The account's client.
        connection: Whose account.
        door: Where to.
        database: The store.
        clock: Source of time.

    Returns:
        How it stands now, and how it was found; None where it could not be looked at.

    Raises:
        NotConnectedError: the connection was ended meanwhile; nothing is left of this.
        DataPlaneError: others do the same again and again.
    """
    org, before = connection.org, await get_subscription(database, connection.org)
    if door.base is None:
        state = SubscriptionState.OFF if before is None else before.state
        return await _save(database, connection, _as(before, org, state, door.why, clock)), None
    first: Found | None = None
    for _ in range(_TRIES):
        try:
            standing, found = await _subscribed(client, connection, door.base, database, clock)
        except KommoError as error:
            known = SubscriptionState.MISSING if before is None else before.state
            state = SubscriptionState.OFF if error.kind in _REFUSALS else known
            return await _save(database, connection, _as(before, org, state, str(error), clock)), None
        first = first or found
        subscription = _seen(org, standing, found, clock.now())
        try:
            if await _settled(database, connection, subscription):
                return subscription, first
        except NotConnectedError:
            with contextlib.suppress(KommoError):
                await unsubscribe(client, standing.destination)
            raise
    raise DataPlaneError(
        f"The webhooks of '{org}' are being set up by other processes again and again; look for what runs twice."
    )


def _seen(org: str, standing: AtKommo, found: Found, now: datetime) -> Subscription:
    """How a subscription stands at Kommo, as it is written down."""
    return Subscription(
        org=org,
        key_hash=_hash_of(standing),
        destination_host=urlsplit(standing.destination).hostname,
        settings=standing.settings,
        state=SubscriptionState.DISABLED if standing.disabled else SubscriptionState.ON,
        reason="Kommo does not switch it on again; do it in the account's settings."
        if standing.disabled
        else None,
        checked_at=now,
        disabled_seen_at=now if found is Found.DISABLED else None,
    )


async def _settled(database: Database, connection: ConnectionRecord, subscription: Subscription) -> bool:
    """Write down how it stands, and end all other keys; False if another process was quicker and has ended this one.

    Raises:
        NotConnectedError: the connection was ended meanwhile.
    """
    async with database.begin() as transaction:
        await _check(transaction, connection)
        if not await is_good(transaction, subscription.key_hash):
            return False
        await revoke_keys(
            transaction, connection.org, except_hash=subscription.key_hash, now=subscription.checked_at
        )
        await save_subscription(transaction, subscription)
    return True


async def _check(transaction: AsyncConnection, connection: ConnectionRecord) -> None:
    if not await still_stands(transaction, connection.org, connection.account_id):
        raise NotConnectedError(
            f"'{connection.org}' was disconnected, or connected to another account, while its webhooks were set up."
        )


async def remove_webhook(client: KommoClient, org: str, door: Door, *, database: Database) -> int:
    """Have Kommo send nothing more for an org.

    Returns:
        How many subscriptions there were.

    Raises:
        KommoError: Kommo does not say that they are gone.
    """
    hashes = {key.key_hash for key in await list_keys(database, org)}
    removed = 0
    for one in await list_subscriptions(client):
        if _hash_of(one) in hashes or await _is_left_over(database, one, door.base):
            removed += await unsubscribe(client, one.destination)
    return removed


async def forget_webhook(transaction: AsyncConnection, org: str, reason: str, now: datetime) -> None:
    """End an org's keys, inside another transaction: whatever still comes with them is not taken in."""
    await revoke_keys(transaction, org, now=now)
    await save_subscription(
        transaction, Subscription(org, None, None, (), SubscriptionState.OFF, reason, checked_at=now)
    )


async def subscribe_connected(
    connection: ConnectionRecord,
    token: SecretStr,
    settings: Settings,
    *,
    database: Database,
    app: KommoApp | None,
    clock: Clock,
) -> None:
    """Subscribe an account that has just been connected; whatever comes of it, the connection stands.

    Args:
        connection: The new connection.
        token: A good access token.
        settings: This installation.
        database: The store.
        app: The integration, where it is known.
        clock: Source of time.
    """
    client = KommoClient(
        parse_host(connection.host, allow_loopback=settings.sandbox),
        StaticToken(token),
        budget=budget_of(database, settings),
        account_key=f"account:{connection.account_id or connection.host}",
        egress_key=f"egress:{settings.egress}",
        lane=Lane.ACTION,
        clock=clock,
        attempts=2,
    )
    async with client:
        try:
            async with asyncio.timeout(_PATIENCE):
                await setup_webhook(
                    client, connection, door_of(settings, app), database=database, clock=clock
                )
        except (DataPlaneError, TimeoutError) as error:
            _log.warning("The webhooks of %s are not set up yet: %s", connection.org, type(error).__name__)


async def unsubscribe_leaving(
    connection: ConnectionRecord, settings: Settings, *, database: Database, clock: Clock
) -> None:
    """Unsubscribe an account that is being disconnected, while its tokens are there; if it fails, that stops nothing.

    Args:
        connection: The connection that ends.
        settings: This installation.
        database: The store.
        clock: Source of time.
    """
    known = await get_subscription(database, connection.org)
    if known is None or known.key_hash is None:
        return
    try:
        async with (
            asyncio.timeout(_PATIENCE),
            open_clients(database, settings, clock, lane=Lane.ACTION) as clients,
            clients.use(connection) as client,
        ):
            await remove_webhook(client, connection.org, door_of(settings), database=database)
    except (KommoError, DataPlaneError, TimeoutError) as error:
        _log.warning(
            "Kommo may go on sending webhooks of %s, which are turned away: %s",
            connection.org,
            type(error).__name__,
        )


async def _subscribed(
    client: KommoClient, connection: ConnectionRecord, base: str, database: Database, clock: Clock
) -> tuple[AtKommo, Found]:
    keys = {key.key_hash: key for key in await list_keys(database, connection.org)}
    good = {
        name
        for name, key in keys.items()
        if key.revoked_at is None and key.account_id in {None, connection.account_id}
    }
    known = await list_subscriptions(client)
    current = next((one for one in known if _is_under(one.destination, base) and _hash_of(one) in good), None)
    if current is None:
        key = secrets.token_urlsafe(_KEY_BYTES)
        # Before Kommo knows it: the first delivery may be quicker than the answer.
        async with database.begin() as transaction:
            await _check(transaction, connection)
            await add_key(
                transaction, connection.org, connection.account_id, hash_of_key(key), now=clock.now()
            )
        standing, found = await subscribe(client, f"{base}/{key}"), Found.MISSING
    elif current.disabled:
        standing, found = await _switched_on(client, current), Found.DISABLED
    elif not (set(EVENTS) - NOT_EVERYWHERE) <= set(current.settings):
        standing, found = await subscribe(client, current.destination), Found.INCOMPLETE
    else:
        standing, found = current, Found.GOOD
    for one in known:
        if one.destination != standing.destination and (
            _hash_of(one) in keys or await _is_left_over(database, one, base)
        ):
            await unsubscribe(client, one.destination)
    return standing, found


async def _switched_on(client: KommoClient, current: AtKommo) -> AtKommo:
    """Subscribing again switches a subscription on [I]; if it does not, ending it and subscribing anew does."""
    again = await subscribe(client, current.destination)
    if not again.disabled:
        return again
    await unsubscribe(client, current.destination)
    return await subscribe(client, current.destination)


async def _is_left_over(database: Database, one: AtKommo, base: str | None) -> bool:
    """Whether it leads here with a key that nobody has any more: each of its deliveries would be turned away."""
    return (
        base is not None
        and _is_under(one.destination, base)
        and await find_key(database, _hash_of(one)) is None
    )


def _is_under(destination: str, base: str) -> bool:
    return destination.startswith(f"{base}/")


def _hash_of(one: AtKommo) -> str:
    return hash_of_key(urlsplit(one.destination).path.rpartition("/")[2])


def _as(before: Subscription | None, org: str, state: str, reason: str | None, clock: Clock) -> Subscription:
    if before is None:
        return Subscription(org, None, None, (), state, reason, checked_at=clock.now())
    return replace(before, state=state, reason=reason, checked_at=clock.now(), disabled_seen_at=None)


async def _save(database: Database, connection: ConnectionRecord, subscription: Subscription) -> Subscription:
    async with database.begin() as transaction:
        await _check(transaction, connection)
        await save_subscription(transaction, subscription)
    return subscription
