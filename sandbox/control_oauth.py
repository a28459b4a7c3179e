"""The part of the control API that is about integrations, codes and tokens (see `sandbox.control`)."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sandbox import oauth_pages, outbound
from sandbox.accounts import Card
from sandbox.config import SCOPES
from sandbox.integrations import Integration
from sandbox.state import Record
from sandbox.world import World

Action = Callable[[Any], object]

_SECONDS = 3.0  # what Kommo waits for an answer to its own calls [D K/authorization-public]
_AGENT = "amoService-oAuth-Code-Sender/1.0"


def card_of(world: World, body: Record) -> Card:
    """The account that a control call means, by default the first one.

    Raises:
        LookupError: There is no such account.
    """
    return _named(world, body.get("account") or world.accounts.cards[0].subdomain)


def cards_of(world: World, which: object) -> list[Card]:
    """The accounts that a control call means: a list of them, the first so many, or all.

    Raises:
        LookupError: One of them does not exist.
        ValueError: It is none of these.
    """
    if which == "all":
        return world.accounts.cards
    if isinstance(which, int) and not isinstance(which, bool):
        return world.accounts.cards[:which]
    if isinstance(which, list):
        return [_named(world, name) for name in which]
    raise ValueError('accounts must be a list of subdomains or ids, a number, or "all"')


def _named(world: World, name: object) -> Card:
    found = world.accounts.named(str(name))
    if found is None:
        raise LookupError(f"no account {name!r}")
    return found


class OAuthControl:
    """Actions on integrations, codes and tokens.

    Args:
        world: What they steer.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.actions: dict[tuple[str, str], Action] = {
            ("POST", "tokens"): self._issue,
            ("POST", "pairs"): self._pairs,
            ("POST", "alive"): self._alive,
            ("GET", "oauth"): lambda body: world.oauth.log.shown(body.get("account")),
            ("DELETE", "oauth"): lambda _: world.oauth.log.calls.clear(),
            ("POST", "revoke"): self._revoke,
            ("POST", "rename"): lambda body: world.rename(card_of(world, body), str(body["subdomain"])),
            ("GET", "integrations"): lambda _: [asdict(known) for known in world.oauth.integrations.values()],
            ("POST", "integrations"): self._integrate,
            ("POST", "authorize"): self._authorize,
            ("POST", "refresh_mode"): self._refresh_mode,
            ("POST", "widget"): self._widget,
            ("POST", "uninstall"): self._uninstall,
        }

    def _integration(self, body: Record) -> Integration:
        client_id = body.get("client_id") or self._world.integration.client_id
        return self._world.oauth.integrations[client_id]

    def _issue(self, body: Record) -> Record:
        card = card_of(self._world, body)
        token = self._world.tokens.issue(
            card,
            int(body.get("user_id", card.admin_id)),
            self._integration(body).client_id,
            body.get("scopes", SCOPES),
            seconds=int(body.get("seconds", 86_400)),
        )
        return {"access_token": token.value, "expires_at": token.expires_at}

    def _pairs(self, body: Record) -> list[Record]:
        """Pairs as if each account had been authorized `age` seconds ago."""
        integration, age = self._integration(body), int(body.get("age", 0))
        pairs: list[Record] = []
        for card in cards_of(self._world, body.get("accounts", "all")):
            self._world.oauth.installed.add((card.id, integration.client_id))
            pair = self._world.oauth.pair(
                card, card.admin_id, integration.client_id, integration.scopes, age=age, unsigned=True
            )
            pairs.append({"subdomain": card.subdomain, "host": card.host, "account_id": card.id} | pair)
        return pairs

    def _alive(self, body: Record) -> Record:
        """Which refresh tokens would still be taken, by fingerprint or by account."""
        oauth, fingerprints = self._world.oauth, body.get("fingerprints")
        if fingerprints is None:
            which = [body["account"]] if "account" in body else body.get("accounts", "all")
            found = oauth.alive(account_ids=[card.id for card in cards_of(self._world, which)])
        else:
            found = oauth.alive(fingerprints=fingerprints)
        return {
            "alive": [
                {
                    "fingerprint": token.fingerprint,
                    "account_id": token.account_id,
                    "state": token.state,
                    "expires_at": token.expires_at,
                }
                for token in found
            ]
        }

    def _revoke(self, body: Record) -> Record:
        cards = (
            cards_of(self._world, body["accounts"]) if "accounts" in body else [card_of(self._world, body)]
        )
        revoke = self._world.oauth.revoke
        return {"revoked": sum(revoke(card.id, body.get("client_id"), body.get("token")) for card in cards)}

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
        card, integration = card_of(self._world, body), self._integration(body)
        url = oauth_pages.callback_url(
            self._world, integration, card, str(body.get("state", "")), user_id=body.get("user_id")
        )
        return {
            "callback_url": url,
            "code": url.partition("code=")[2].partition("&")[0],
            "host": card.host,
        }

    def _refresh_mode(self, body: Record) -> Record:
        if body["mode"] not in {"grace", "dead"}:
            raise ValueError("mode must be grace or dead")
        self._world.oauth.mode = body["mode"]
        return {"mode": self._world.oauth.mode}

    async def _widget(self, body: Record) -> Record:
        """A widget install: the server itself calls the redirect URI, 3 s, answer not looked at [D]."""
        url = oauth_pages.callback_url(
            self._world, self._integration(body), card_of(self._world, body), None, widget=True
        )
        return {"callback_url": url, "status": await outbound.get(url, _SECONDS)}

    async def _uninstall(self, body: Record) -> Record:
        """Revoke everything of the integration and call its disable hook, signed [D K/oauth-20]."""
        card, integration = card_of(self._world, body), self._integration(body)
        self._world.oauth.revoke(card.id, integration.client_id)
        url = integration.hook(card.id)
        return {"hook_url": url, "status": await outbound.get(url, _SECONDS, _AGENT) if url else None}
