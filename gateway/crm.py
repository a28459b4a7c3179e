"""The doors that the product knew before: start of OAuth and its callback.

Paths, answers and words are those of product-contract.md, doors 1 and 2, so that a proxy can send the product's traffic
here.
"""

import asyncio
import logging
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field, SecretStr

from blocks.app import CALLBACK_PATH, KommoApp
from gateway.access import Caller, NamedOrg, authorized_org, org_on_whose_behalf
from gateway.answers import Refusal, seed_errors
from gateway.callback import answer
from gateway.hooks import take_install
from gateway.middleware import reference_of
from gateway.services import NOT_SET_UP, Services, app_of, services_of
from kommo.errors import HostNotAllowed
from tasks.authorize import (
    STATE_TTL,
    Begun,
    Bringer,
    Callback,
    Ending,
    Mode,
    Outcome,
    RedirectRefusedError,
    begin_authorization,
    finish_authorization,
    is_secure,
)

_ONCE = ("code", "state", "referer", "client_id", "error", "from_widget")

_log = logging.getLogger("gateway")

router = APIRouter(tags=["Connecting"])


class Started(BaseModel):
    """Where to send the person."""

    url: str = Field(
        description="Kommo's consent page. Good for 15 minutes and one use.",
        examples=["https://www.kommo.com/oauth?client_id=…&state=…&mode=popup"],
    )


class Connected(BaseModel):
    """The org is connected."""

    org: str = Field(examples=["acme"])
    status: Literal["connected"] = "connected"


@router.get(
    "/api/v1/crm/kommo/oauth",
    summary="Begin to connect an account",
    status_code=302,
    response_class=RedirectResponse,
    responses={
        302: {
            "description": "To Kommo's consent page. The cookie makes sure that the same browser comes back. "
            "A product that calls this door on its server must hand the cookie on, or bring the callback with its key.",
            "headers": {
                "Location": {"schema": {"type": "string"}, "description": "Kommo's consent page."},
                "Set-Cookie": {
                    "schema": {"type": "string"},
                    "description": "HttpOnly, SameSite=Lax, 15 minutes.",
                },
            },
        },
        200: {"model": Started, "description": "The same as JSON, where that was asked for."},
        **seed_errors(
            bad=(
                400,
                "Something is missing or not allowed; the sentence says what.",
                [
                    "Domain is required",
                    "This is not the address of a Kommo account. Give the account's own address, such as …",
                    "This redirect_uri is not allowed: it must be …",
                ],
            ),
            nobody=(401, "No key, or not a good one.", ["Unauthorized"]),
            other=(403, "The key is for other orgs.", ["This key may not act for that org."]),
            setup=(503, "The integration is not set up, or the database is away.", [NOT_SET_UP]),
        ),
    },
)
async def start(
    *,
    request: Request,
    caller: Caller,
    org: NamedOrg,
    domain: Annotated[
        str | None,
        Query(
            description="The account's address, as a person writes it.", examples=["acme.kommo.com", "acme"]
        ),
    ] = None,
    redirect_uri: Annotated[
        str | None,
        Query(
            description="Where the person goes in the end, under the product's address; or the integration's redirect "
            "URI. By default {APP_URL}/manage/{org}/ai-agents.",
            examples=["https://app.example.com/settings/integrations"],
        ),
    ] = None,
    mode: Annotated[
        Mode,
        Query(
            description="`popup`: the callback ends with a redirect. `post_message`: with a page that tells its opener "
            "`{type: 'kommo-oauth', status, org}` and closes."
        ),
    ] = "popup",
    wanted: Annotated[
        Literal["json"] | None, Query(alias="format", description="`json`: answer with the address.")
    ] = None,
) -> Response:
    """Send a person to Kommo's consent page, for an org that the key may act for.

    The answer is a redirect, or JSON with `format=json` or `Accept: application/json`.
    """
    if not domain:
        raise Refusal(400, "Domain is required")
    org = authorized_org(caller, org)
    app, services = await app_of(request), services_of(request)
    try:
        begun = await begin_authorization(
            services.database,
            app,
            org=org,
            domain=domain,
            redirect_uri=redirect_uri,
            mode=mode,
            clock=services.clock,
        )
    except (HostNotAllowed, RedirectRefusedError) as error:
        raise Refusal(400, str(error)) from None
    as_json = wanted == "json" or "application/json" in request.headers.get("accept", "")
    response = JSONResponse({"url": begun.url}) if as_json else RedirectResponse(begun.url, 302)
    _remember(response, begun, app)
    return response


@router.get(
    CALLBACK_PATH,
    summary="Come back from Kommo",
    status_code=302,
    response_class=RedirectResponse,
    responses={
        302: {
            "description": "Connected; to the product, or to where the start asked for.",
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        200: {
            "model": Connected,
            "description": "Connected, for `mode=post_message` or where the product's address is not known: a page for "
            "browsers. For an install by a widget: taken in.",
        },
        **seed_errors(
            bad=(
                400,
                "Nothing was connected. Browsers get a page that says what to do.",
                ["Invalid request", "Invalid or expired state", "Failed to get tokens", "Access denied"],
            ),
            account=(409, "The org belongs to another Kommo account.", ["Connected to another account"]),
            kommo=(502, "Kommo did not answer, or asks for fewer requests.", ["Failed to get tokens"]),
            setup=(503, "The integration is not set up, or the database is away.", [NOT_SET_UP]),
        ),
    },
)
async def callback(
    *,
    request: Request,
    caller: Caller,
    org: NamedOrg,
    code: Annotated[str | None, Query(description="Kommo's authorization code: 20 minutes, one use.")] = None,
    state: Annotated[str | None, Query(description="What the start gave Kommo.")] = None,
    referer: Annotated[
        str | None, Query(description="Host of the account.", examples=["acme.kommo.com"])
    ] = None,
    client_id: Annotated[str | None, Query(description="Id of the integration.")] = None,
    error: Annotated[str | None, Query(description="`access_denied`: the person declined.")] = None,
    from_widget: Annotated[
        str | None, Query(description="`1`: Kommo tells of an install by a widget.")
    ] = None,
) -> Response:
    """Take the code that Kommo sends through the browser, connect the org, start its first sync.

    Accepted from the browser in which it was begun (by cookie), or from the product with its key and the org. A browser
    gets a page of its own for every ending; programs get JSON.
    """
    app, services = await app_of(request), services_of(request)
    if any(len(request.query_params.getlist(name)) > 1 for name in _ONCE):
        return answer(request, Outcome(Ending.INVALID), app)
    if from_widget == "1" and not state:
        return await take_install(services, app, code=code, referer=referer, client_id=client_id)
    brought = Callback(
        state=SecretStr(state or ""),
        code=SecretStr(code) if code else None,
        referer=referer,
        client_id=client_id,
        error=error or None,
    )
    bringer = Bringer(cookies=request.cookies, org=org_on_whose_behalf(caller, org))
    # Whoever goes away, and a gateway that is being stopped, must not break off between the code and the pair.
    work = asyncio.ensure_future(_finished(services, brought, bringer, app))
    services.background.adopt(work)
    outcome = await asyncio.shield(work)
    _log.info(
        "%s: connecting %s ended: %s%s",
        reference_of(request.scope),
        outcome.org or "an unknown org",
        outcome.ending.value,
        f". {outcome.message}" if outcome.message else "",
    )
    return answer(request, outcome, app)


async def _finished(services: Services, brought: Callback, bringer: Bringer, app: KommoApp) -> Outcome:
    outcome = await finish_authorization(
        brought,
        bringer,
        database=services.database,
        app=app,
        settings=services.settings,
        clock=services.clock,
    )
    if outcome.connection is not None:
        services.connected(outcome.connection)
    return outcome


def _remember(response: Response, begun: Begun, app: KommoApp) -> None:
    response.set_cookie(
        begun.cookie,
        begun.secret.get_secret_value(),
        max_age=int(STATE_TTL.total_seconds()),
        path="/",
        secure=is_secure(app),
        httponly=True,
        samesite="lax",
    )
