"""From a request to an answer: host, block, faults, limits, token, plan, rights, route. And the log of it all.

Order of the checks, as far as it can be seen from outside: what a gateway does comes first (block of the address,
limits), then the token (401), the plan (402), the path (404, 405), the rights (403), the body (400).
"""

import re
import time
import traceback

from sandbox import consent_page, errors, oauth_pages
from sandbox.accounts import Card
from sandbox.call import Call, Quirks
from sandbox.control import Control
from sandbox.faults import GATEWAY, Rule, damaged, gateway_answer, quirks_of
from sandbox.oauth_pages import TOKEN_PATH
from sandbox.requestlog import Entry
from sandbox.router import resolve
from sandbox.state import Account, Record
from sandbox.tokens import AccessToken
from sandbox.unrest import stir
from sandbox.wire import Answer, Request, Response
from sandbox.world import World

_LOOPBACK = ("127.", "::1", "::ffff:127.")
_NO_ACCOUNT = {"", "www"}
_KNOWS_ADDRESSES = re.compile(r"api-[a-z]")


class App:
    """Answers requests.

    Args:
        world: The state behind.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.control = Control(world)

    def handle(self, request: Request) -> Answer:
        """The answer to one request."""
        if request.path.startswith("/_sandbox/"):
            if not request.client.startswith(_LOOPBACK):
                return errors.forbidden()
            return self.control.handle(request)
        started = time.perf_counter()
        label = _label(request)
        account = self.world.accounts.named(label) if label else self._by_token(request)
        self.world.oauth.newest = None
        response, fault, counted = self._answer(request, label, account)
        if request.path == TOKEN_PATH and request.method == "POST":
            oauth_pages.write_down(self.world, request, account, response, fault)
        self.world.log.entries.append(
            Entry(
                arrived=request.arrived,
                client=request.client,
                account=account.subdomain if account else None,
                method=request.method,
                path=request.path,
                query=request.raw_query,
                status=response.status,
                fault=fault,
                counted=counted,
                duration=time.perf_counter() - started,
            )
        )
        return response

    def _answer(
        self, request: Request, label: str, account: Card | None
    ) -> tuple[Response, str | None, bool]:
        """Answer, kind of the fault that struck, and whether the request took a place in the rate window."""
        limiter = self.world.limiter
        if request.client in limiter.blocked:
            return errors.ip_blocked(), None, False
        name = account.subdomain if account else None
        rules = self.world.faults.strike(request, name) if self.world.faults.rules else []
        fault = "+".join(rule.kind for rule in rules) or None
        if rules and rules[0].kind in GATEWAY:
            return gateway_answer(rules[0], limiter.settings.retry_after), fault, False
        if not limiter.admit(request.client, name, request.arrived):
            answer = errors.too_many_requests(limiter.settings.retry_after, html=limiter.settings.html)
            return answer, None, False
        try:
            response = self._serve(request, label, account, rules)
        except errors.Problem as problem:
            response = problem.response
        except Exception:  # noqa: BLE001 - a bug of the sandbox must look like one, and not like a dead connection
            traceback.print_exc()
            response = errors.internal_error()
        return damaged(response, rules), fault, True

    def _serve(self, request: Request, label: str, account: Card | None, rules: list[Rule]) -> Response:
        known_host = account is not None or not label
        if request.path.startswith("/oauth"):
            answer = self._oauth(request, label, account)
            if answer is not None:
                return answer
        if not request.path.startswith("/api/v4/") or not known_host:
            return errors.not_found(request.method, _url(request))
        token = self.world.tokens.find(_bearer(request))
        if token is None or account is None or token.account_id != account.id:
            return errors.unauthorized()
        return self._call(request, self.world.accounts.built(account), token, rules)

    def _oauth(self, request: Request, label: str, account: Card | None) -> Response | None:
        """What is served outside the API, with other hosts and other keys; None = nothing of the kind."""
        path, meant = request.path, account if label else None
        known_host = account is not None or not label
        if path == TOKEN_PATH and known_host:
            return oauth_pages.token(self.world, request, meant)
        if path == "/oauth2/account/current/subdomain" and (known_host or _KNOWS_ADDRESSES.fullmatch(label)):
            return oauth_pages.current_subdomain(self.world, request, meant)
        if path == "/oauth2/account/subdomain" and label in _NO_ACCOUNT:
            return oauth_pages.old_subdomain(request, self._by_token(request))
        if path == "/oauth" and label in _NO_ACCOUNT:
            return consent_page.consent(self.world, request)
        return None

    def _call(self, request: Request, account: Account, token: AccessToken, rules: list[Rule]) -> Response:
        user = _acting_user(account, token, request.headers.get("x-context-user-id"))
        if user is None:
            return errors.unauthorized()
        self.world.oauth.access_used(token)
        if not account.paid:
            return errors.payment_required()
        route, params, known = resolve(request.method, request.path)
        if route is None:
            return errors.method_not_allowed() if known else errors.not_found(request.method, _url(request))
        if "crm" not in token.scopes or (route.admin and not user["rights"]["is_admin"]):
            return errors.forbidden()
        for rule in rules:
            if rule.kind == "unrest" and request.method == "GET":
                stir(self.world, account, request.path, changed=rule.by, dice=self.world.faults.dice)
        quirks = quirks_of(rules, account.top_domain, account.subdomain) if rules else Quirks()
        return route.handler(Call(self.world, account, user, token.scopes, request, params, quirks))

    def _by_token(self, request: Request) -> Card | None:
        token = self.world.tokens.find(_bearer(request))
        return self.world.accounts.with_id(token.account_id) if token else None


def _acting_user(account: Account, token: AccessToken, context: str | None) -> Record | None:
    """The user whose rights count; an administrator may run as another one [D A/scopes]."""
    user = account.users.get(token.user_id)
    if not context or user is None or not user["rights"]["is_admin"]:
        return user
    other = account.users.get(int(context)) if context.isdecimal() else None
    return None if other is None or other["rights"]["is_free"] else other


def _label(request: Request) -> str:
    """The first label of `<label>.localhost`; empty for plain localhost and addresses."""
    host = request.headers.get("host", "").partition(":")[0].lower()
    return host.removesuffix(".localhost") if host.endswith(".localhost") else ""


def _bearer(request: Request) -> str:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _url(request: Request) -> str:
    query = f"?{request.raw_query}" if request.raw_query else ""
    return f"http://{request.headers.get('host', 'localhost')}{request.path}{query}"
