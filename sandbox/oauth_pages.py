"""The browser side of OAuth: the consent page on www, the redirect back, and the lookup of a renamed account."""

import json
from html import escape
from urllib.parse import urlencode

from sandbox import errors
from sandbox.oauth import Integration
from sandbox.state import Account
from sandbox.wire import JSON, Request, Response, dumps
from sandbox.world import World


def consent(world: World, request: Request) -> Response:
    """GET /oauth on the www host [D K/oauth-20].

    Query: client_id, state, mode as documented; `decision=allow|decline` is what the buttons send, `auto=` the same for
    scripts; `account=` names the account, the first one if absent.
    """
    integration = world.oauth.integrations.get(request.first("client_id"))
    if integration is None:
        return errors.html_page("Error", "<h1>Integration not found</h1>", 404)
    state = request.first("state")
    decision = request.first("decision") or request.first("auto")
    account = world.account_named(request.first("account") or world.accounts[0].subdomain)
    if account is None:
        return errors.html_page("Error", "<h1>Account not found</h1>", 404)
    if decision == "allow":
        return _redirect(callback_url(world, integration, account, state))
    if decision == "decline":
        query = {"error": "access_denied", "client_id": integration.client_id}
        return _redirect(_joined(integration.redirect_uri, query | ({"state": state} if state else {})))
    return errors.html_page("Authorization", _form(world, integration, state))


def callback_url(
    world: World, integration: Integration, account: Account, state: str, *, widget: bool = False
) -> str:
    """The redirect URI with a fresh code (fact sheet 1.3).

    Args:
        world: Where codes are kept.
        integration: Whose redirect URI.
        account: Account that allowed it.
        state: Sent back if not empty; never on the widget path.
        widget: The call comes from a widget install.
    """
    code = world.oauth.new_code(account, integration, account.admin_id)
    query = {"code": code}
    if state and not widget:
        query["state"] = state
    query |= {"referer": account.host, "client_id": integration.client_id, "platform": "2"}
    if account.flavour == "amo":
        query["platform"] = "1"
    if widget:
        query["from_widget"] = "1"
    return _joined(integration.redirect_uri, query)


def token(world: World, request: Request, account: Account | None, form: dict[str, str]) -> Response:
    """POST /oauth2/access_token, JSON or form.

    Args:
        world: The state.
        request: The request, for a JSON body.
        account: Account of the host, if it names one.
        form: The body read as a form.
    """
    fields: dict[str, object] = dict(form)
    if "json" in request.headers.get("content-type", "json"):
        try:
            loaded = json.loads(request.body or b"{}")
        except ValueError:
            loaded = {}
        fields = loaded if isinstance(loaded, dict) else {}
    return Response(200, dumps(world.oauth.answer(fields, account, world.accounts)), JSON)


def current_subdomain(world: World, request: Request) -> Response:
    """GET /oauth2/account/current/subdomain with X-Refresh-Token [D A/account-subdomain-info]."""
    if request.method != "GET":
        return errors.method_not_allowed()
    found = world.oauth.by_refresh_token(request.headers.get("x-refresh-token", ""))
    account = world.account_with_id(found.account_id) if found else None
    if account is None:
        return errors.unauthorized()
    body = {
        "id": account.id,
        "subdomain": account.subdomain,
        "domain": account.host,
        "top_level_domain": account.top_domain,
    }
    return Response(200, dumps(body), JSON)


def _redirect(url: str) -> Response:
    return Response(302, headers={"Location": url})


def _joined(url: str, query: dict[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def _form(world: World, integration: Integration, state: str) -> str:
    options = "".join(
        f'<option value="{escape(known.subdomain)}">{escape(str(known.profile["name"]))}</option>'
        for known in world.accounts
    )
    return (
        "<h1>Allow access?</h1><p>The integration asks for: "
        f'{escape(", ".join(integration.scopes))}</p><form action="/oauth" method="get">'
        f'<input type="hidden" name="client_id" value="{escape(integration.client_id)}">'
        f'<input type="hidden" name="state" value="{escape(state)}">'
        f'<label>Account <select name="account">{options}</select></label> '
        '<button name="decision" value="allow">Allow</button> '
        '<button name="decision" value="decline">Decline</button></form>'
    )
