"""What an operator has set: the integration, the keys, where webhooks come in and events go out."""

from urllib.parse import urlsplit

from prefect.exceptions import ObjectNotFound

from blocks.connection import KommoConnection
from store.api_keys import list_keys
from store.checkup import (
    connections_in,
    keys_that_count,
    newest_sealed,
    some_connections,
    subscriptions_wanting,
)
from store.errors import SealBrokenError, SealKeyError
from tasks.delivery_trial import try_endpoint
from tasks.doctor.checks import Check, Finding, SkippedError, fault, ok, warning
from tasks.doctor.probe import addresses_of, is_private, probe
from tasks.doctor.surroundings import Surroundings
from tasks.endpoint import parse_endpoint
from tasks.errors import DataPlaneError, EventsSetupError
from tasks.signing import Signer
from tasks.subscription import HOOK_PATH, door_of

GROUP = "Settings"
_OTHER_KEY = "InvalidToken"
_LOOKED_AT = 3


async def _app_block(around: Surroundings) -> list[Finding]:
    await around.prefect()
    answer = await around.app_answer()
    if answer.error is None:
        return ok("The Kommo App block can be read.")
    if isinstance(answer.error, SkippedError):
        raise answer.error
    return _unreadable("The Kommo App block", answer.error)


def _unreadable(what: str, error: Exception) -> list[Finding]:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 500 or _OTHER_KEY in str(error):
        return fault(
            f"{what} cannot be opened: Prefect's server has another encryption key than when it was saved.",
            "restart the server with the PREFECT_SERVER_ENCRYPTION_KEY it had before; if it is lost: kommo setup, "
            "then connect the orgs again",
        )
    return fault(
        f"{what} cannot be read ({type(error).__name__}).",
        "prefect block register -m blocks.collection, then kommo setup",
    )


async def _connection_blocks(around: Surroundings) -> list[Finding]:
    client, database = await around.prefect(), await around.database()
    some = await some_connections(database, _LOOKED_AT)
    for org, _, name in some:
        try:
            await KommoConnection.aload(name, client=client)
        except (ValueError, ObjectNotFound) as error:
            if "Unable to find block document" in str(error) or isinstance(error, ObjectNotFound):
                return fault(
                    f"'{org}' is connected, and its block '{name}' is not on Prefect's server: is it another server?",
                    f"set PREFECT_API_URL to the server it was connected with, or: kommo connect {org} --domain HOST",
                )
            return _unreadable(f"The block of '{org}'", error)
        except Exception as error:  # noqa: BLE001 - Prefect's client has many
            return _unreadable(f"The block of '{org}'", error)
    return ok(f"{len(some)} blocks of connections were opened." if some else "No org is connected yet.")


async def _integration(around: Surroundings) -> list[Finding]:
    app = await around.app()
    missing = [
        name
        for name, value in (
            ("KOMMO_CLIENT_ID", app.client_id),
            ("KOMMO_CLIENT_SECRET", app.client_secret.get_secret_value()),
            ("APP_URL or KOMMO_REDIRECT_URI", app.redirect_uri),
        )
        if not value
    ]
    if len(missing) == 3:
        return warning(
            "No integration is set: accounts can be connected with long-lived tokens only.", "kommo setup"
        )
    if missing:
        return fault(f"The integration is not complete: {', '.join(missing)} missing.", "kommo setup")
    if not app.redirect_uri.startswith("https://") and not app.allow_loopback:
        return fault(
            "The redirect URI does not begin with https://, and Kommo sends people to no other.",
            "export KOMMO_REDIRECT_URI=https://…, the same as in the integration's settings at Kommo",
        )
    ours = {urlsplit(url).netloc for url in (app.app_url, around.settings.webhook_url) if url}
    if ours and urlsplit(app.redirect_uri).netloc not in ours:
        return warning(
            "The redirect URI is neither under APP_URL nor where webhooks come in: does it lead to the gateway?",
            "see that it leads to the gateway; else export KOMMO_REDIRECT_URI to one that does",
        )
    return ok("Client id, secret and redirect URI are set.")


async def _sealing(around: Surroundings) -> list[Finding]:
    app = await around.app()
    database = await around.database()
    rows = await newest_sealed(database)
    try:
        sealer = app.sealer()
    except SealKeyError as error:
        if not rows and not app.sealing_keys.get_secret_value():
            return ok("There is no key yet, and nothing sealed.")
        return fault(str(error), "put KOMMO_SEALING_KEYS (or the client secret) back to what it was")
    broken = 0
    for sealed in rows:
        try:
            sealer.open(sealed)
        except SealBrokenError:
            broken += 1
    if broken:
        return fault(
            f"{broken} of the {len(rows)} newest token pairs cannot be opened: they were sealed with another key.",
            "put the old key behind the new one in KOMMO_SEALING_KEYS (new,old), restart, then: kommo keys rotate",
        )
    return ok(f"The newest {len(rows)} sealed pairs can be opened." if rows else "Nothing is sealed yet.")


async def _api_keys(around: Surroundings) -> list[Finding]:
    database = await around.database()
    count = await keys_that_count(database)
    if count:
        return ok(f"{count} keys of the gateway's callers.")
    had = bool(await list_keys(database))
    return fault(
        f"There is no key with which the product could come to the gateway{' any more' if had else ''}.",
        "kommo keys api create product --all-orgs",
    )


async def _webhook_address(around: Surroundings) -> list[Finding]:
    door = door_of(around.settings, await around.app())
    if door.base is None:
        unset = "No public address" in (door.why or "")
        level = warning if unset else fault
        return level(
            door.why or "", "export KOMMO_WEBHOOK_URL=https://hooks.example (the gateway's public address)"
        )
    host = urlsplit(door.base).hostname or ""
    found = await addresses_of(host)
    if not found:
        return fault(
            f"{host} has no address in the DNS: Kommo cannot send webhooks there.",
            f"make a DNS record for {host}, or correct KOMMO_WEBHOOK_URL",
        )
    if all(is_private(one, loopback_is_fine=around.settings.sandbox) for one in found):
        return fault(
            f"{host} is a private address: Kommo cannot reach it from outside.",
            "export KOMMO_WEBHOOK_URL=https://… to an address that can be reached from the internet",
        )
    return ok(f"Kommo is told to send webhooks to {host}.")


async def _gateway(around: Surroundings) -> list[Finding]:
    door = door_of(around.settings, await around.app())
    if door.base is None:
        raise SkippedError("No address for webhooks is set.")
    base = door.base.removesuffix(HOOK_PATH)
    host = urlsplit(base).hostname or ""
    found = await addresses_of(host)
    if all(is_private(one, loopback_is_fine=around.settings.sandbox) for one in found):
        raise SkippedError("The address for webhooks is at fault.")
    answer = await probe(f"{base}/healthz")
    start = "kommo gateway --port 8020, behind a proxy with https that leads to it"
    if answer.error == "SSLCertVerificationError":
        return fault(
            f"The certificate of {host} is not one that Kommo would trust.",
            f"renew the certificate of {host}",
        )
    if answer.error is not None:
        return fault(f"The gateway cannot be reached at {host} ({answer.error}).", start)
    if answer.status != 200 or not isinstance(answer.body, dict) or answer.body.get("status") != "ok":
        return fault(f"What answers at {host}/healthz is not the gateway (HTTP {answer.status}).", start)
    return ok(f"The gateway answers at {host}.")


async def _subscriptions(around: Surroundings) -> list[Finding]:
    some = await subscriptions_wanting(await around.database())
    if some.count:
        return fault(
            f"Kommo sends no webhooks for {some.count} connected orgs ({', '.join(some.orgs)}): switched off or gone.",
            "kommo webhooks health",
        )
    return ok("No subscription is known to be switched off.")


async def _events(around: Surroundings) -> list[Finding]:
    app = await around.app()
    if not app.events_url.get_secret_value():
        return warning(
            "No address for events is set: the product is told nothing, what happens waits in the outbox.",
            "export KOMMO_EVENTS_URL=https://… and KOMMO_EVENTS_SECRET=whsec_…, for everything that runs",
        )
    fix = "export KOMMO_EVENTS_URL=https://… and KOMMO_EVENTS_SECRET=whsec_…, then: kommo events test"
    try:
        endpoint = parse_endpoint(app.events_url, allow_loopback=app.allow_loopback)
        signer = Signer(app.events_secret)
        if not around.ping:
            host = urlsplit(endpoint.url.get_secret_value()).hostname or ""
            if not await addresses_of(host):
                return fault(f"{host}, which is to take events, has no address in the DNS.", fix)
            return ok(f"Events go to {endpoint.host}; --ping tries it.")
        trial = await try_endpoint(await around.database(), endpoint, signer, around.clock)
    except (EventsSetupError, DataPlaneError) as error:
        return fault(str(error), fix)
    if trial.taken:
        return ok(f"{trial.host} took a signed test event in {trial.seconds:.2f} s.")
    return fault(f"{trial.host} did not take a signed test event: {trial.reason}", "kommo events test")


async def _people(around: Surroundings) -> list[Finding]:
    some = await connections_in(await around.database(), "reauthorization_required")
    if some.count:
        first = some.orgs[0]
        return fault(
            f"{some.count} connections need a person: {', '.join(some.orgs)}{' …' if some.count > 5 else ''}.",
            f"kommo status {first}; then have its owner connect again: kommo connect {first} --domain HOST",
        )
    return ok("No connection needs a person.")


CHECKS = (
    Check("app-block", GROUP, "the Kommo App block", _app_block),
    Check("integration", GROUP, "the integration", _integration),
    Check("connection-blocks", GROUP, "the connections' blocks", _connection_blocks),
    Check("sealing-keys", GROUP, "the keys of the token journal", _sealing),
    Check("gateway-keys", GROUP, "the product's keys", _api_keys),
    Check("webhook-address", GROUP, "where webhooks are sent to", _webhook_address),
    Check("gateway", GROUP, "the gateway", _gateway),
    Check("subscriptions", GROUP, "webhook subscriptions", _subscriptions),
    Check("events", GROUP, "where events go", _events),
    Check("connections", GROUP, "connections that need a person", _people),
)
