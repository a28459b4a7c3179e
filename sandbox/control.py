"""The control API under /_sandbox/: steer the stand-in and look into it. Only from loopback; never counted or logged.

Bodies and answers are JSON; `account` is a subdomain or id and defaults to the first one. A wrong body is answered 400
`{"error": "<sentence>"}`.

    GET    accounts                          hosts and long-lived tokens
    GET    state?account=&include=leads,…    everything the API would show
    POST   change        {account, change, …}            see sandbox.changes
    POST   faults        {kind, rate, times, …} or a list   see sandbox.faults.Rule; GET lists, DELETE clears
    POST   clock         {advance: seconds} | {reset: true}
    POST   limits        {per_ip, per_account, retry_after, html, block_after, block_window}
    POST   block, unblock   {ip}
    POST   plan          {account, paid, chats_tariff, chats_quota}
    POST   tokens        {account, user_id, scopes, seconds}   another access token
    POST   revoke        {account, client_id, token}     without token: everything
    POST   rename        {account, subdomain}
    POST   integrations  {client_id, client_secret, redirect_uri, scopes, disable_hook}; GET lists
    POST   authorize     {account, client_id, state}     what Allow leads to, without a browser
    POST   refresh_mode  {mode: grace | dead}
    POST   widget        {account, client_id}            server-side call of the redirect URI
    POST   uninstall     {account, client_id}            revoke, then the signed disable hook
    GET    requests, windows; DELETE requests            the log and its one-second maxima
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from sandbox import changes, oauth_pages, outbound, render
from sandbox.config import SCOPES
from sandbox.oauth import Integration
from sandbox.state import FIELD_ENTITIES, Account, Record
from sandbox.wire import JSON, Answer, Request, Response, dumps
from sandbox.world import World

_ALL = frozenset({"contacts", "leads", "customers", "loss_reason", "role", "group"})
_WIDGET_SECONDS = 3.0  # [D K/authorization-public]
_Action = Callable[[Any], object]


class Control:
    """The control API.

    Args:
        world: What it steers.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._actions: dict[tuple[str, str], _Action] = {
            ("GET", "accounts"): self._accounts,
            ("GET", "state"): self._state,
            ("POST", "change"): self._change,
            ("GET", "faults"): lambda _: [asdict(rule) for rule in world.faults.rules],
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): lambda _: world.faults.rules.clear(),
            ("POST", "clock"): self._clock,
            ("POST", "limits"): self._limits,
            ("POST", "block"): lambda body: world.limiter.blocked.add(body.get("ip", "127.0.0.1")),
            ("POST", "unblock"): lambda body: world.limiter.unblock(body.get("ip", "127.0.0.1")),
            ("POST", "plan"): self._plan,
            ("POST", "tokens"): self._issue,
            ("POST", "revoke"): self._revoke,
            ("POST", "rename"): lambda body: world.rename(self._account(body), str(body["subdomain"])),
            ("GET", "integrations"): lambda _: [asdict(known) for known in world.oauth.integrations.values()],
            ("POST", "integrations"): self._integrate,
            ("POST", "authorize"): self._authorize,
            ("POST", "refresh_mode"): self._refresh_mode,
            ("POST", "widget"): self._widget,
            ("POST", "uninstall"): self._uninstall,
            ("GET", "requests"): lambda _: world.log.shown(),
            ("DELETE", "requests"): lambda _: world.log.entries.clear(),
            ("GET", "windows"): lambda _: world.log.windows(),
        }

    def handle(self, request: Request) -> Answer:
        """Answer one control call."""
        name = request.path.removeprefix("/_sandbox/").strip("/")
        action = self._actions.get((request.method, name))
        if action is None:
            known = ", ".join(f"{method} {path}" for method, path in self._actions)
            return _json({"error": f"No such control call. Known: {known}"}, 404)
        try:
            result = action(json.loads(request.body) if request.body else dict(request.query))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            return _json({"error": f"{type(error).__name__}: {error}"}, 400)
        if isinstance(result, Coroutine):
            return _later(result)
        return _json({"ok": True} if result is None or result is True else result)

    def _account(self, body: Record) -> Account:
        name = str(body.get("account") or self._world.accounts[0].subdomain)
        found = self._world.account_named(name)
        if found is None:
            raise LookupError(f"no account {name!r}")
        return found

    def _integration(self, body: Record) -> Integration:
        client_id = body.get("client_id") or self._world.integration.client_id
        return self._world.oauth.integrations[client_id]

    def _accounts(self, body: Record) -> list[Record]:
        del body
        tokens = self._world.long_lived
        return [
            {
                "subdomain": account.subdomain,
                "host": account.host,
                "account_id": account.id,
                "flavour": account.flavour,
                "admin_token": tokens[account.id]["admin"],
                "plain_token": tokens[account.id]["plain"],
            }
            for account in self._world.accounts
        ]

    def _state(self, body: Record) -> Record:
        """Everything as the API would show it; records only when asked for with `include=leads,contacts,…`."""
        account = self._account(body)
        state: Record = {
            "account": account.profile | account.hidden,
            "pipelines": [render.pipeline(account, known) for known in account.pipelines],
            "users": [render.user(account, known, _ALL) for known in account.users],
            "task_types": account.hidden["task_types"],
            "loss_reasons": [render.loss_reason(account, known) for known in account.loss_reasons],
            "sources": [render.source(account, known) for known in account.sources],
            "talks": [render.talk(account, known, listed=True) for known in account.talks],
            "webhooks": list(account.webhooks),
            "paid": account.paid,
            "chats_quota": account.chats_quota,
            "refreshes": self._world.oauth.refreshes,
        }
        for entity in FIELD_ENTITIES:
            held = account.fields[entity]
            state[f"{entity}_fields"] = [render.custom_field(account, entity, known) for known in held]
        state["counts"] = {entity: len(held) for entity, held in account.entities.items()}
        for name in str(body.get("include", "")).split(","):
            state |= _records(account, name)
        return state

    def _change(self, body: Record) -> Record:
        arguments = {key: value for key, value in body.items() if key not in {"account", "change"}}
        return changes.apply(self._world, self._account(body), str(body["change"]), arguments)

    def _add_faults(self, body: Record | list[Record]) -> list[Record]:
        rules = body if isinstance(body, list) else [body]
        for values in rules:
            if "seed" in values:
                self._world.faults.reseed(int(values["seed"]))
            if "kind" in values:
                self._world.faults.add(**{key: value for key, value in values.items() if key != "seed"})
        return [asdict(rule) for rule in self._world.faults.rules]

    def _clock(self, body: Record) -> Record:
        self._world.clock_offset = (
            0.0 if body.get("reset") else self._world.clock_offset + float(body["advance"])
        )
        return {"now": self._world.now(), "offset": self._world.clock_offset}

    def _limits(self, body: Record) -> Record:
        self._world.limiter.configure(**body)
        return asdict(self._world.limiter.settings)

    def _plan(self, body: Record) -> Record:
        account = self._account(body)
        account.paid = bool(body.get("paid", account.paid))
        account.chats_tariff = bool(body.get("chats_tariff", account.chats_tariff))
        account.chats_quota = int(body.get("chats_quota", account.chats_quota))
        return {
            "paid": account.paid,
            "chats_tariff": account.chats_tariff,
            "chats_quota": account.chats_quota,
        }

    def _issue(self, body: Record) -> Record:
        account = self._account(body)
        token = self._world.tokens.issue(
            account,
            int(body.get("user_id", account.admin_id)),
            self._integration(body).client_id,
            body.get("scopes", SCOPES),
            seconds=int(body.get("seconds", 86_400)),
        )
        return {"access_token": token.value, "expires_at": token.expires_at}

    def _revoke(self, body: Record) -> Record:
        account = self._account(body)
        return {"revoked": self._world.oauth.revoke(account.id, body.get("client_id"), body.get("token"))}

    def _integrate(self, body: Record) -> Record:
        known = self._world.oauth.integrations.get(
            str(body.get("client_id") or self._world.integration.client_id)
        )
        base = asdict(known) if known else asdict(self._world.integration)
        made = Integration(**(base | body | {"scopes": tuple(body.get("scopes", base["scopes"]))}))
        if made.client_id == self._world.integration.client_id:
            self._world.integration = made
        return asdict(self._world.oauth.add_integration(made))

    def _authorize(self, body: Record) -> Record:
        """What pressing Allow would lead to, without a browser."""
        account, integration = self._account(body), self._integration(body)
        url = oauth_pages.callback_url(self._world, integration, account, str(body.get("state", "")))
        return {
            "callback_url": url,
            "code": url.partition("code=")[2].partition("&")[0],
            "host": account.host,
        }

    def _refresh_mode(self, body: Record) -> Record:
        if body["mode"] not in {"grace", "dead"}:
            raise ValueError("mode must be grace or dead")
        self._world.oauth.mode = body["mode"]
        return {"mode": self._world.oauth.mode}

    async def _widget(self, body: Record) -> Record:
        """A widget install: the server itself calls the redirect URI, 3 s, answer not looked at [D]."""
        url = oauth_pages.callback_url(
            self._world, self._integration(body), self._account(body), "", widget=True
        )
        return {"callback_url": url, "status": await outbound.get(url, _WIDGET_SECONDS)}

    async def _uninstall(self, body: Record) -> Record:
        """Revoke everything of the integration and call its disable hook, signed [D K/oauth-20]."""
        account, integration = self._account(body), self._integration(body)
        self._world.oauth.revoke(account.id, integration.client_id)
        message = f"{integration.client_id}|{account.id}".encode()
        signature = hmac.new(integration.client_secret.encode(), message, hashlib.sha256).hexdigest()
        query = {"client_uuid": integration.client_id, "account_id": account.id, "signature": signature}
        url = f"{integration.disable_hook}?{urlencode(query)}" if integration.disable_hook else ""
        agent = "amoService-oAuth-Code-Sender/1.0"
        return {"hook_url": url, "status": await outbound.get(url, _WIDGET_SECONDS, agent) if url else None}


def _records(account: Account, name: str) -> Record:
    if name in account.entities:
        held = account.entities[name]
        return {name: [render.entity(account, name, known, _ALL) for known in held]}
    if name == "tasks":
        return {name: [render.task(account, known) for known in account.tasks]}
    if name == "notes":
        return {name: [render.note(account, known) for known in account.notes]}
    if name == "events":
        return {name: [render.event(account, known) for known in account.events]}
    return {}


def _json(value: object, status: int = 200) -> Response:
    return Response(status, dumps(value), JSON)


async def _later(result: Coroutine[Any, Any, object]) -> Response:
    return _json(await result)
