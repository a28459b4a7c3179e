"""What machines see of OAuth: the token endpoint, the lookup of a renamed account, and the callback with its code."""

import json
from urllib.parse import parse_qsl

from sandbox import errors
from sandbox.accounts import Card
from sandbox.integrations import Integration
from sandbox.oauth_log import TokenCall
from sandbox.state import Account, Record
from sandbox.wire import JSON, Request, Response, dumps
from sandbox.world import World

TOKEN_PATH = "/oauth2/access_token"  # noqa: S105 - a path


def callback_url(
    world: World,
    integration: Integration,
    account: Account | Card,
    state: str | None,
    *,
    user_id: int | None = None,
    widget: bool = False,
) -> str:
    """The redirect URI with a fresh code (fact sheet 1.3).

    Args:
        world: Where codes are kept.
        integration: Whose redirect URI.
        account: Account that allowed it.
        state: Sent back if there is one; never on the widget path.
        user_id: Who allowed it; None = the account's administrator.
        widget: The call comes from a widget install.
    """
    query = {"code": world.oauth.new_code(account, integration, user_id or account.admin_id)}
    if state and not widget:
        query["state"] = state
    platform = "1" if account.flavour == "amo" else "2"
    query |= {"referer": account.host, "client_id": integration.client_id, "platform": platform}
    if widget:
        query["from_widget"] = "1"
    return integration.callback(query)


def token(world: World, request: Request, account: Card | None) -> Response:
    """POST /oauth2/access_token, JSON or form.

    Args:
        world: The state.
        request: The request.
        account: Account of the host, if it names one.
    """
    if request.method != "POST":
        return errors.method_not_allowed()
    answer = world.oauth.answer(_fields(request), account, world.accounts.with_id)
    return Response(200, dumps(answer), JSON)


def _fields(request: Request) -> Record:
    if "json" not in request.headers.get("content-type", "json"):
        return dict(parse_qsl(request.body.decode("latin-1")))
    try:
        loaded = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def write_down(
    world: World, request: Request, account: Card | None, response: Response, fault: str | None
) -> None:
    """Note a call of the token endpoint in its log.

    Args:
        world: The state.
        request: The request.
        account: Account of the host, if it names one.
        response: What is answered.
        fault: Kind of the fault that struck.
    """
    fields = _fields(request)
    used, owner_id = world.oauth.brought(fields)
    owner = world.accounts.with_id(owner_id) if owner_id else None
    newest = world.oauth.newest
    world.oauth.log.calls.append(
        TokenCall(
            arrived=request.arrived,
            host=account.subdomain if account else None,
            account=owner.subdomain if owner else None,
            grant=str(fields.get("grant_type", ""))[:40],
            used=used,
            issued=newest.fingerprint if newest else None,
            status=response.status,
            hint=_hint(response),
            fault=fault,
        )
    )


def _hint(response: Response) -> str | None:
    if response.status not in {400, 401}:
        return None
    try:
        said = json.loads(response.body)
    except ValueError:
        return None
    return said.get("hint") if isinstance(said, dict) else None


def current_subdomain(world: World, request: Request, account: Card | None) -> Response:
    """GET /oauth2/account/current/subdomain with X-Refresh-Token [D A/account-subdomain-info].

    Args:
        world: The state.
        request: The request.
        account: Account of the host, if it names one: then it knows that account only.
    """
    if request.method != "GET":
        return errors.method_not_allowed()
    found = world.oauth.by_refresh_token(request.headers.get("x-refresh-token", ""))
    owner = world.accounts.with_id(found.account_id) if found else None
    if owner is None or account not in {None, owner}:
        return errors.unauthorized()
    return _address(owner)


def old_subdomain(request: Request, owner: Card | None) -> Response:
    """GET /oauth2/account/subdomain on www with a Bearer token: the older form [C PHP].

    Args:
        request: The request.
        owner: Whose token it is.
    """
    if request.method != "GET":
        return errors.method_not_allowed()
    return errors.unauthorized() if owner is None else _address(owner)


def _address(owner: Card) -> Response:
    body = {
        "id": owner.id,
        "subdomain": owner.subdomain,
        "domain": owner.host,
        "top_level_domain": owner.top_domain,
    }
    return Response(200, dumps(body), JSON)
