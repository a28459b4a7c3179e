"""The control API under /_sandbox/: steer the stand-in and look into it. Only from loopback; never counted or logged.

Bodies and answers are JSON; `account` is a subdomain or id and defaults to the first one. A wrong body is answered 400
`{"error": "<sentence>"}`.

    GET    accounts?first=                   hosts and long-lived tokens, of the first so many
    GET    state?account=&include=leads,…    everything the API would show
    POST   change        {account, change, …}            see sandbox.changes
    POST   faults        {kind, rate, times, …} or a list   see sandbox.faults.Rule; GET lists, DELETE clears
    POST   clock         {advance: seconds} | {at: unix seconds} | {reset: true}
    POST   limits        {per_ip, per_account, retry_after, html, block_after, block_window}
    POST   block, unblock   {ip}
    POST   plan          {account, paid, chats_tariff, chats_quota}
    POST   tokens        {account, user_id, scopes, seconds}   another access token
    POST   revoke        {account | accounts, client_id, token}   without token: everything
    POST   rename        {account, subdomain}
    POST   integrations  {client_id, client_secret, redirect_uri, scopes, disable_hook}; GET lists
    POST   authorize     {account, client_id, state, user_id}   what Allow leads to, without a browser
    POST   pairs         {accounts: [...] | number | "all", client_id, age}   token pairs without any consent, fast
    GET    oauth?account=                    calls of the token endpoint, also per account and per token; DELETE clears
    POST   alive         {fingerprints: [...]} | {accounts: [...] | number | "all"}   refresh tokens that would be taken
    POST   refresh_mode  {mode: grace | dead}
    POST   widget        {account, client_id}            server-side call of the redirect URI
    POST   uninstall     {account, client_id}            revoke, then the signed disable hook
    GET    requests, windows; DELETE requests            the log and its one-second maxima
    GET    webhooks?account=&state=&after=&limit=        hooks, counts, every delivery with its attempts; DELETE clears
    POST   webhooks/settings  {duplicates, shuffle, …}   see sandbox.config.WebhookSettings; GET shows them
    POST   webhooks/settle    {seconds}                  wait until nothing is due
    POST   webhooks/advance   {seconds}                  clock put forward, each repetition at its own moment
    POST   webhooks/send      {account, nested | raw, destination, repeats}   a body put together by hand
    POST   webhooks/stage     {account, lead_id, action, old_status_id, destination}   the automation of a stage
    POST   load          {accounts, entity, changes, records, kinds, rate, user_id, background}   very many changes
"""

import json
import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any

from sandbox import changes, render
from sandbox.control_oauth import Action, OAuthControl, card_of
from sandbox.control_webhooks import WebhookControl
from sandbox.state import FIELD_ENTITIES, Account, Record
from sandbox.wire import JSON, Answer, Request, Response, dumps
from sandbox.world import World

_WRONG = (LookupError, TypeError, ValueError, AttributeError)  # what a wrong body leads to
_ALL = frozenset({"contacts", "leads", "customers", "loss_reason", "role", "group"})


class Control:
    """The control API.

    Args:
        world: What it steers.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._actions: dict[tuple[str, str], Action] = {
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
            **OAuthControl(world).actions,
            **WebhookControl(world).actions,
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
        except _WRONG as error:
            return _refused(error)
        if isinstance(result, Coroutine):
            return _later(result)
        return _json({"ok": True} if result is None or result is True else result)

    def _account(self, body: Record) -> Account:
        return self._world.accounts.built(card_of(self._world, body))

    def _accounts(self, body: Record) -> list[Record]:
        tokens = self._world.long_lived
        return [
            {
                "subdomain": card.subdomain,
                "host": card.host,
                "account_id": card.id,
                "flavour": card.flavour,
                "admin_token": tokens[card.id]["admin"],
                "plain_token": tokens[card.id]["plain"],
            }
            for card in self._world.accounts.cards[: int(body["first"]) if "first" in body else None]
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
        world = self._world
        if "at" in body:
            world.move_clock(float(body["at"]))
        else:
            world.move_clock(time.time() if body.get("reset") else world.clock() + float(body["advance"]))
        return {"now": world.now(), "offset": world.clock_offset}

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
    try:
        return _json(await result)
    except _WRONG as error:
        return _refused(error)


def _refused(error: Exception) -> Response:
    return _json({"error": f"{type(error).__name__}: {error}"}, 400)
