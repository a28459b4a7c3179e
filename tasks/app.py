"""Which integration this installation speaks for."""

import logging
from typing import cast

from blocks.app import KommoApp
from blocks.settings import Settings
from tasks.errors import AppIncompleteError

DEFAULT_NAME = "default"

_log = logging.getLogger(__name__)


async def find_app(settings: Settings) -> KommoApp:
    """The `KommoApp` block named `default`, with what the environment sets put over it.

    Without a Prefect server, or without the block, it is what the environment says: a refresh must not fail because the
    server is down while everything that it needs is at hand.
    """
    return (await _read_block() or KommoApp()).filled_from(settings)


async def _read_block() -> KommoApp | None:
    """The block, an empty one if there is none; None if Prefect does not say."""
    try:
        return cast("KommoApp", await KommoApp.aload(DEFAULT_NAME, validate=False))
    except ValueError:
        return KommoApp()
    except Exception as error:  # noqa: BLE001 - whatever keeps us from Prefect, the environment may be enough
        _log.warning(
            "The KommoApp block could not be read (%s); the environment has to do.", type(error).__name__
        )
        return None


async def require_app(settings: Settings) -> KommoApp:
    """The integration, complete enough to authorize accounts and refresh tokens.

    Raises:
        AppIncompleteError: the id, the secret or the redirect URI is missing.
    """
    block = await _read_block()
    app = (block or KommoApp()).filled_from(settings)
    missing = [
        label
        for label, value in (
            ("KOMMO_CLIENT_ID", app.client_id),
            ("KOMMO_CLIENT_SECRET", app.client_secret.get_secret_value()),
            ("APP_URL or KOMMO_REDIRECT_URI", app.redirect_uri),
        )
        if not value
    ]
    if missing:
        error = AppIncompleteError(
            f"The Kommo integration is not complete: {', '.join(missing)} missing. Set them in the environment, or "
            f"fill the Kommo App block '{DEFAULT_NAME}' in Prefect, from the integration's «Keys and scopes» page."
        )
        error.block_unread = block is None
        raise error
    return app
