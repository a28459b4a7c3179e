"""OAuth as Kommo does it (fact sheet 1): codes, rotating pairs, and error bodies that are not RFC 6749.

Chosen where nothing is documented: in "grace" mode a used refresh token ends when the access token of the newer pair
is used for a call or its refresh token for a refresh; asking again with the old token makes a third pair and kills
the refresh token of the unused second one. Access tokens live on until their own expiry [I].
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NoReturn

from sandbox.config import SCOPES
from sandbox.errors import Problem
from sandbox.state import Account, Record
from sandbox.tokens import ACCESS_SECONDS, AccessToken, TokenBook
from sandbox.wire import PROBLEM, Response, dumps

CODE_SECONDS = 20 * 60  # [D]
REFRESH_SECONDS = 90 * 86_400  # three months [D]
_TYPE = "https://developers.amocrm.ru/v3/errors/OAuthProblemJson"


@dataclass
class Integration:
    """An integration (what other providers call an app).

    Args:
        client_id: Integration id, a uuid.
        client_secret: 64 characters.
        redirect_uri: Must be repeated byte for byte in every token request.
        scopes: What its tokens may do.
        disable_hook: URL told of an uninstall, or empty.
    """

    client_id: str
    client_secret: str
    redirect_uri: str
    scopes: tuple[str, ...] = SCOPES
    disable_hook: str = ""

    @classmethod
    def seeded(cls, seed: int, redirect_uri: str) -> "Integration":
        """The default integration of a seed."""
        dice = Random(f"integration:{seed}")  # noqa: S311 - not a real secret
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        client_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        return cls(client_id, "".join(dice.choice(letters) for _ in range(64)), redirect_uri)


@dataclass
class _Code:
    account_id: int
    user_id: int
    client_id: str
    redirect_uri: str
    expires_at: int
    used: bool = False


@dataclass(eq=False)
class RefreshToken:
    """A refresh token and where it stands in its chain.

    Args:
        value: What the client holds.
        account_id: Account.
        user_id: User.
        client_id: Integration.
        expires_at: Unix seconds.
        state: "good", "grace" (used, but the newer pair is not yet used), "dead".
        newer: Pairs made from it.
    """

    value: str
    account_id: int
    user_id: int
    client_id: str
    expires_at: int
    state: Literal["good", "grace", "dead"] = "good"
    parent: "RefreshToken | None" = None
    newer: list["RefreshToken"] = field(default_factory=list)


def refuse(hint: str, status: int = 400) -> NoReturn:
    """Raise the OAuth error document; decide by status and hint [C R#24867027442, G#123, G#315]."""
    body = {
        "hint": hint,
        "title": "Некорректный запрос",
        "type": _TYPE,
        "status": status,
        "detail": "В запросе отсутствует ряд параметров или параметры невалидны",  # noqa: RUF001 - Cyrillic is meant
    }
    raise Problem(Response(status, dumps(body), PROBLEM))


class OAuth:
    """Integrations, codes and refresh tokens.

    Args:
        tokens: Book of access tokens.
        now: Unix seconds.
        seed: For codes and tokens.
        mode: What happens to a used refresh token.
    """

    def __init__(
        self, tokens: TokenBook, now: Callable[[], int], seed: int, mode: Literal["grace", "dead"]
    ) -> None:
        self.tokens = tokens
        self.mode = mode
        self.integrations: dict[str, Integration] = {}
        self.refreshes = 0
        self._now = now
        self._dice = Random(f"oauth:{seed}")  # noqa: S311 - not real secrets
        self._codes: dict[str, _Code] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._by_access: dict[str, RefreshToken] = {}

    def add_integration(self, integration: Integration) -> Integration:
        """Register or replace an integration."""
        self.integrations[integration.client_id] = integration
        return integration

    def new_code(self, account: Account, integration: Integration, user_id: int) -> str:
        """An authorization code: 20 minutes, once, tied to account, client and redirect URI [D]."""
        value = self._opaque(420)
        expires = self._now() + CODE_SECONDS
        self._codes[value] = _Code(
            account.id, user_id, integration.client_id, integration.redirect_uri, expires
        )
        return value

    def _opaque(self, half_length: int) -> str:
        return f"def502{self._dice.getrandbits(8 * half_length):0{2 * half_length}x}"

    def answer(self, form: Record, account: Account | None, accounts: list[Account]) -> Record:
        """The token endpoint [D K/get-token, A/oauth].

        Args:
            form: The fields of the request, JSON or form.
            account: Account of the host; None if the host names none.
            accounts: All accounts.

        Returns:
            The body of the 200 answer.

        Raises:
            Problem: With Kommo's OAuth error document.
        """
        fields = {
            key: str(value) for key, value in form.items() if isinstance(value, str | int) and value != ""
        }
        integration = self.integrations.get(fields.get("client_id", ""))
        if integration is None:
            refuse("Check the `client_id` parameter")
        if fields.get("client_secret") != integration.client_secret:
            refuse("Check the `client_secret` parameter")
        if "redirect_uri" not in fields:
            refuse("Check the `redirect_uri` parameter")
        if fields["redirect_uri"] != integration.redirect_uri:
            refuse("Redirect URI is not associated with client")
        if fields.get("grant_type") == "authorization_code":
            account_id, user_id = self._spend_code(fields, integration, account)
            old = None
        elif fields.get("grant_type") == "refresh_token":
            old = self._spend_refresh(fields, integration, account)
            account_id, user_id = old.account_id, old.user_id
        else:
            refuse("Check the `grant_type` parameter")
        owner = next(known for known in accounts if known.id == account_id)
        return self._pair(owner, user_id, integration, old)

    def _spend_code(
        self, fields: dict[str, str], integration: Integration, account: Account | None
    ) -> tuple[int, int]:
        if "code" not in fields:
            refuse("Check the `code` parameter")
        code = self._codes.get(fields["code"])
        if code is None or code.client_id != integration.client_id:
            refuse("Cannot decrypt the authorization code")
        if code.used:
            refuse("Authorization code has been revoked")
        if code.expires_at <= self._now():
            refuse("Authorization code has expired")
        if code.redirect_uri != integration.redirect_uri:
            refuse("Redirect URI is not associated with client")
        if account is not None and account.id != code.account_id:
            refuse("Invalid account")
        code.used = True
        return code.account_id, code.user_id

    def _spend_refresh(
        self, fields: dict[str, str], integration: Integration, account: Account | None
    ) -> RefreshToken:
        value = fields.get("refresh_token")
        if value is None:
            refuse("Check the `refresh_token` parameter")
        token = self._refresh.get(value)
        if token is None:
            refuse(
                "Invalid refresh token" if value.startswith("def502") else "Cannot decrypt the refresh token",
                401,
            )
        if token.client_id != integration.client_id:
            refuse("Token is not linked to client", 401)
        if account is not None and account.id != token.account_id:
            refuse("Invalid account")
        if token.state == "dead":
            refuse("Token has been revoked", 401)
        if token.expires_at <= self._now():
            refuse("Token has expired", 401)
        return token

    def _pair(
        self, account: Account, user_id: int, integration: Integration, old: RefreshToken | None
    ) -> Record:
        expires = self._now() + REFRESH_SECONDS
        fresh = RefreshToken(
            self._opaque(360), account.id, user_id, integration.client_id, expires, parent=old
        )
        self._refresh[fresh.value] = fresh
        if old is not None:
            self.refreshes += 1
            self._used(old)
            for unused in old.newer:
                unused.state = "dead"
            old.newer.append(fresh)
            old.state = "grace" if self.mode == "grace" else "dead"
        access = self.tokens.issue(account, user_id, integration.client_id, integration.scopes)
        self._by_access[access.value] = fresh
        return {
            "token_type": "Bearer",
            "expires_in": ACCESS_SECONDS,
            "server_time": self._now(),
            "access_token": access.value,
            "refresh_token": fresh.value,
        }

    def _used(self, token: RefreshToken) -> None:
        """The pair of this refresh token is in use, so the one before it ends."""
        if token.parent is not None:
            token.parent.state = "dead"
            token.parent = None

    def access_used(self, token: AccessToken) -> None:
        """Told of every accepted call, because that ends the grace of the pair before."""
        owner = self._by_access.get(token.value)
        if owner is not None and owner.parent is not None:
            self._used(owner)

    def by_refresh_token(self, value: str) -> RefreshToken | None:
        """A refresh token that would still be taken."""
        token = self._refresh.get(value)
        return (
            token if token is not None and token.state != "dead" and token.expires_at > self._now() else None
        )

    def revoke(self, account_id: int, client_id: str | None = None, value: str | None = None) -> int:
        """Withdraw access: of a client, of all clients, or one single token (access or refresh).

        Returns:
            How many tokens were good until now.
        """
        count = self.tokens.revoke(
            lambda token: (
                token.account_id == account_id
                and client_id in {None, token.client_id}
                and value in {None, token.value}
            )
        )
        for token in self._refresh.values():
            fits = token.account_id == account_id and client_id in {None, token.client_id}
            if fits and value in {None, token.value} and token.state != "dead":
                token.state = "dead"
                count += 1
        return count
