"""`kommo gateway`: the HTTP door, as a server of its own."""

from __future__ import annotations

import asyncio

from deployments.cli.output import err, print_json, say
from deployments.cli.run import WrongUseError

_PREFECT_SECONDS = 10.0


_HIGHEST_PORT = 65535


async def gateway(*, host: str = "127.0.0.1", port: int = 8020, json: bool = False) -> None:
    """Serve the HTTP door until interrupted: accounts are connected by OAuth, and webhooks taken in.

    It needs KOMMO_CLIENT_ID, KOMMO_CLIENT_SECRET and APP_URL (or the Kommo App block), and a key for the product:
    `kommo keys api create`. Put a proxy with https before it; it speaks plain HTTP.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        json: Print the ready line as JSON.
    """
    from kommo import tracing
    from tasks.logs import flow_run

    # Before the flows are imported, which would take this process for one of theirs.
    tracing.begin("kommo-gateway", at_work=flow_run)

    from blocks.app import KommoApp
    from blocks.settings import Settings
    from gateway.serve import serve
    from tasks.app import require_app
    from tasks.errors import AppIncompleteError

    if not 0 <= port <= _HIGHEST_PORT:
        raise WrongUseError(f"--port is a number from 0 to {_HIGHEST_PORT}.")
    settings = Settings()
    app = KommoApp.from_environment(settings)
    if not app.is_complete:
        try:
            async with asyncio.timeout(_PREFECT_SECONDS):
                app = await require_app(settings)
        except (AppIncompleteError, TimeoutError) as error:
            if isinstance(error, AppIncompleteError) and not error.block_unread:
                raise
            # Webhooks come all the same, and none may be lost because Prefect is away (W4).
            err.print(
                "Prefect does not answer. Webhooks are taken in; accounts can be connected when it is back."
            )

    def ready(url: str) -> None:
        if json:
            print_json({"url": url, "redirect_uri": app.redirect_uri})
        else:
            names = f"The integration at Kommo must name this redirect URI: {app.redirect_uri} . "
            say(
                f"The gateway listens on {url} (its API: {url}/openapi.json). "
                f"{names if app.redirect_uri else ''}Ctrl-C stops it."
            )

    try:
        await serve(host, port, settings, ready=ready)
    except OSError as error:
        raise WrongUseError(
            f"Port {port} on {host} cannot be used: {error.strerror}. Choose another one with --port."
        ) from None
