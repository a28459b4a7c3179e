"""What Kommo's own servers call: the install by a widget, and the disable hook. Answered fast, and not believed."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, SecretStr

from blocks.app import KommoApp
from gateway.answers import Refusal, seed_errors
from gateway.services import NOT_SET_UP, Services, app_of, services_of
from kommo.auth import disable_signature_matches
from kommo.errors import HostNotAllowed, KommoError
from kommo.hosts import parse_host
from tasks.errors import WrongAccountError
from tasks.installs import check_uninstalled, reconnect_installed

HOOK_SECONDS = 2.0
"""Kommo waits 3 s for an install's answer and never repeats it [D K/authorization-public]; longer work goes on."""

REFUSED_INSTALLS = 5
REFUSED_SECONDS = 600.0
"""After so many installs of an account that Kommo refused within so many seconds no more are tried for a while: nobody
has to prove anything to send one, and each costs a request to Kommo and tells the product of an error."""

_log = logging.getLogger("gateway")

router = APIRouter(tags=["Kommo's calls"])


class Received(BaseModel):
    """The call was taken in."""

    received: bool = True


@router.get(
    "/api/v1/crm/kommo/disabled",
    summary="Hear of an uninstall",
    response_model=Received,
    response_description="Signed by Kommo, and being looked into.",
    responses=seed_errors(
        bad=(400, "A parameter is missing.", ["Invalid request"]),
        forged=(401, "The signature does not fit.", ["Invalid signature"]),
        setup=(503, "The integration is not set up, or the database is away.", [NOT_SET_UP]),
    ),
)
async def disabled(
    request: Request,
    client_uuid: Annotated[str | None, Query(description="Id of the integration.")] = None,
    account_id: Annotated[
        str | None, Query(description="Kommo's id of the account.", examples=["31234567"])
    ] = None,
    signature: Annotated[
        str | None,
        Query(description="hex HMAC-SHA256 of `client_id|account_id` with the client secret."),
    ] = None,
) -> Response:
    """Kommo's disable hook. It can be replayed, so it is believed only after Kommo has refused the org's token."""
    if not client_uuid or not account_id or not signature or not _is_id(account_id):
        raise Refusal(400, "Invalid request")
    app, services = await app_of(request), services_of(request)
    if not disable_signature_matches(
        app.oauth(), client_uuid=client_uuid, account_id=account_id, signature=signature
    ):
        raise Refusal(401, "Invalid signature")
    work = check_uninstalled(
        int(account_id), services.settings, database=services.database, clock=services.clock
    )
    await _within(services, f"uninstall {account_id}", f"the uninstall of account {account_id}", work)
    return JSONResponse({"received": True})


async def take_install(
    services: Services, app: KommoApp, *, code: str | None, referer: str | None, client_id: str | None
) -> Response:
    """Take in an install by a widget, which comes to the callback without a state.

    Args:
        services: What the doors work with.
        app: The integration.
        code: The authorization code.
        referer: Host of the account.
        client_id: Must be ours.

    Raises:
        Refusal: Something is missing or not ours.
    """
    try:
        host = parse_host(referer or "", allow_loopback=app.allow_loopback)
    except HostNotAllowed:
        raise Refusal(400, "Invalid request") from None
    if not code or client_id != app.client_id:
        raise Refusal(400, "Invalid request")

    refused = services.refused_installs.get(host.name) or deque[float]()
    if len(refused) == REFUSED_INSTALLS and services.clock.monotonic() - refused[0] < REFUSED_SECONDS:
        _log.warning("an install by a widget is not tried: too many of %s were refused", host.name)
        return JSONResponse({"received": True})

    async def reconnect() -> None:
        try:
            connection = await reconnect_installed(
                host,
                SecretStr(code),
                database=services.database,
                app=app,
                settings=services.settings,
                clock=services.clock,
            )
        except (KommoError, WrongAccountError):
            # Only of accounts that an org is connected to, so that nobody can fill the memory.
            noted = services.refused_installs.setdefault(host.name, deque(maxlen=REFUSED_INSTALLS))
            noted.append(services.clock.monotonic())
            raise
        if connection is not None:
            services.connected(connection)

    await _within(services, f"install {host.name}", "an install by a widget", reconnect())
    return JSONResponse({"received": True})


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19  # it fits the database's 64 bits


async def _within(services: Services, key: str, what: str, work: Coroutine[object, object, object]) -> None:
    """Do work for as long as Kommo waits; what is left goes on after the answer."""
    task = services.background.start(key, what, work)
    if task is not None:
        await asyncio.wait({task}, timeout=HOOK_SECONDS)
