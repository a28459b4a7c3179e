"""What `kommo setup` does, step by step. Each step is whole or not done, and finds what an earlier call has done."""

import base64
import secrets
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import cast

from prefect.client.orchestration import get_client
from pydantic import SecretStr

from blocks.app import CALLBACK_PATH, KommoApp
from blocks.collection import KommoConnection, KommoDatabase
from blocks.settings import Settings
from deployments.apply import apply
from deployments.plan import make_plan
from store.checkup import keys_that_count
from store.database import Database
from store.sealing import derived_key, new_key
from tasks.api_keys import make_api_key
from tasks.app import DEFAULT_NAME
from tasks.signing import PREFIX

KEY_NAME = "product"


_NONE = SecretStr("")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody has said; what is empty stays as it is."""

    client_id: str = ""
    client_secret: SecretStr = _NONE
    app_url: str = ""
    redirect_uri: str = ""
    events_url: SecretStr = _NONE


@dataclass(frozen=True, slots=True)
class Done:
    """What a step came to. `secret` is shown once, by whoever asked."""

    sentence: str
    changed: bool = True
    secret: SecretStr | None = None


async def migrate(database: Database) -> Done:
    """The tables, of this version."""
    if (await database.state()).name == "current":
        return Done(f"{database.address.shown}: the tables are of this version.", changed=False)
    await database.upgrade()
    return Done(f"{database.address.shown}: the tables were made, or brought to this version.")


async def register_blocks() -> Done:
    """Our block types on Prefect's server."""
    async with get_client() as client:
        for block in (KommoApp, KommoConnection, KommoDatabase):
            await cast("Awaitable[None]", block.register_type_and_schema(client=client))
    return Done("The block types are registered.", changed=False)


async def known_app() -> KommoApp | None:
    """The block that is there; None if there is none.

    Raises:
        ValueError: there is one, and it cannot be read: it must not be saved over.
    """
    try:
        return cast("KommoApp", await KommoApp.aload(DEFAULT_NAME, validate=False))
    except ValueError as error:
        if "Unable to find block document" not in str(error):
            raise
        return None


async def save_app(wishes: Wishes, settings: Settings) -> Done:
    """The Kommo App block: what was said put over what was there, secrets that nobody gave made.

    It is saved once, as a whole.
    """
    known = await known_app()
    # A block that is there seals by what it says; a new key is put in only where nothing was ever sealed.
    app = (known or KommoApp()).filled_from(settings)
    before = (known or KommoApp()).model_dump_json(context={"include_secrets": True})
    callback = f"{wishes.app_url.rstrip('/')}{CALLBACK_PATH}" if wishes.app_url else ""
    said: dict[str, object] = {
        "client_id": wishes.client_id or app.client_id,
        "client_secret": _or(wishes.client_secret, app.client_secret),
        "app_url": wishes.app_url or app.app_url,
        "redirect_uri": wishes.redirect_uri or app.redirect_uri or callback,
        "events_url": _or(wishes.events_url, app.events_url),
        "webhook_secret": _or(app.webhook_secret, SecretStr(secrets.token_urlsafe(32))),
        "events_secret": _or(
            app.events_secret, SecretStr(PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())
        ),
        "sealing_keys": _or(app.sealing_keys, _first_keys(known)),
    }
    app = app.model_copy(update=said)
    if known is not None and before == app.model_dump_json(context={"include_secrets": True}):
        return Done(f"The Kommo App block '{DEFAULT_NAME}' is as it should be.", changed=False)
    await app.asave(DEFAULT_NAME, overwrite=True)
    return Done(
        f"The Kommo App block '{DEFAULT_NAME}' was {'brought up to date' if known else 'made'}; its secrets for "
        "webhooks, events and sealing are in it (Prefect's UI, Blocks)."
    )


def _first_keys(known: KommoApp | None) -> SecretStr:
    """A new key, and behind it the one that was derived so far: the client secret may be about to change."""
    keys = [new_key()]
    if known is not None and known.client_secret.get_secret_value():
        keys.append(derived_key(known.client_secret))
    return SecretStr(",".join(key.get_secret_value() for key in keys))


def _or(first: SecretStr, second: SecretStr) -> SecretStr:
    return first if first.get_secret_value() else second


async def ensure_key(database: Database) -> Done:
    """A key with which the product comes to the gateway."""
    if count := await keys_that_count(database):
        return Done(f"The product has a key already ({count}).", changed=False)
    key, secret = await make_api_key(database, KEY_NAME, None)
    return Done(f"The key {key.key_id} was made, for every org.", secret=secret)


async def deploy_all() -> Done:
    """The work pool, its queues and all deployments."""
    outcome = await apply(make_plan(), keep_schedules=True)
    if outcome.current:
        return Done("The deployments are as they should be.", changed=False)
    return Done(f"{len(outcome.steps)} deployments and queues were made or brought up to date.")
