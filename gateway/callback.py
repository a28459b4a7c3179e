"""How the outcome of an authorization is answered: a redirect, a page, or JSON, as the caller understands it."""

import secrets
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from blocks.app import KommoApp
from gateway.endings import ENDINGS
from gateway.middleware import reference_of
from gateway.pages import Message, page
from tasks.authorize import Ending, Outcome
from tasks.redirects import origin_of

MESSAGE_TYPE = "kommo-oauth"


def wants_page(request: Request) -> bool:
    """Whether a person is looking: browsers ask for HTML by name, programs do not."""
    return "text/html" in request.headers.get("accept", "")


def answer(request: Request, outcome: Outcome, app: KommoApp) -> Response:
    """Answer a callback.

    Args:
        request: The callback.
        outcome: How it ended.
        app: The integration, which knows the product's address.
    """
    told = ENDINGS[outcome.ending]
    back = back_to(outcome, app)
    if outcome.ending is Ending.CONNECTED and outcome.mode == "popup" and back is not None:
        return RedirectResponse(back, 302)
    if not wants_page(request):
        if outcome.ending is Ending.CONNECTED:
            return JSONResponse({"org": outcome.org, "status": "connected"})
        headers = {} if outcome.waiting is None else {"Retry-After": str(int(outcome.waiting) + 1)}
        return JSONResponse({"error": told.error}, told.status, headers)
    connection = outcome.connection
    return page(
        told,
        nonce=secrets.token_urlsafe(16),
        reference=reference_of(request.scope),
        who=None
        if connection is None
        else f"{connection.account_name or connection.host} · {connection.host}",
        # A window that the product opened has the app behind it.
        back=back if outcome.mode == "popup" else None,
        message=_message(outcome, app),
    )


def back_to(outcome: Outcome, app: KommoApp) -> str | None:
    """Where in the product the person goes; None where nobody knows the product's address."""
    if outcome.return_to is not None:
        return outcome.return_to
    if not app.app_url:
        return None
    base = app.app_url.rstrip("/")
    return base if outcome.org is None else f"{base}/manage/{quote(outcome.org, safe='')}/ai-agents"


def _message(outcome: Outcome, app: KommoApp) -> Message | None:
    """What the opener is told, and only the product's own window; without its address nobody is told."""
    target = origin_of(app.app_url)
    if outcome.mode != "post_message" or target is None:
        return None
    body: dict[str, object] = {
        "type": MESSAGE_TYPE,
        "status": outcome.ending.value,
        "org": outcome.org,
        "provider": "kommo",
    }
    if outcome.connection is not None:
        body |= {"account_id": outcome.connection.account_id, "host": outcome.connection.host}
    return Message(body, target)
