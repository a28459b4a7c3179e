"""OAuth as Kommo does it (fact sheet 1): codes, rotating pairs, and error bodies that are not RFC 6749.

Chosen where nothing is documented: in "grace" mode a used refresh token ends when the access token of the newer pair
is used for a call or its refresh token for a refresh; asking again with the old token makes a third pair and kills
the refresh token of the unused second one. Access tokens live on until their own expiry [I]. A token keeps the scopes
of its authorization: a changed list needs a new one (fact sheet 1.7).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from secrets import token_hex
from typing import Literal, NoReturn

from sandbox.accounts import Card
from sandbox.errors import Problem
from sandbox.integrations import Integration
from sandbox.oauth_log import OAuthLog, fingerprint
from sandbox.state import Account, Record
from sandbox.tokens import ACCESS_SECONDS, AccessToken, TokenBook
from sandbox.wire import PROBLEM, Response, dumps

CODE_SECONDS = 20 * 60  # [D]
REFRESH_SECONDS = 90 * 86_400  # three months [D]
_TYPE = "https://developers.amocrm.ru/v3/errors/OAuthProblemJson"


@dataclass
class _Code:
    account_id: int
    user_id: int
    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
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
        scopes: What the authorization granted.
        expires_at: Unix seconds.
        state: "good", "grace" (used, but the newer pair is not yet used), "dead".
        newer: Pairs made from it.
    """

    value: str
    account_id: int
    user_id: int
    client_id: str
    scopes: tuple[str, ...]
    expires_at: int
    state: Literal["good", "grace", "dead"] = "good"
    parent: "RefreshToken | None" = None
    newer: list["RefreshToken"] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the value, in hex."""
        return fingerprint(self.value)


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
        self.log = OAuthLog()
        self.newest: RefreshToken | None = None
        self.installed: set[tuple[int, str]] = set()
        self._now = now
        # New at each start: a code or token of the life before must not come again as that of somebody else.
        self._dice = Random(f"oauth:{seed}:{token_hex()}")  # noqa: S311 - not real secrets
        self._codes: dict[str, _Code] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._by_fingerprint: dict[str, RefreshToken] = {}
        self._by_account: defaultdict[int, list[RefreshToken]] = defaultdict(list)
        self._by_access: dict[str, RefreshToken] = {}

    def add_integration(self, integration: Integration) -> Integration:
        """Register or replace an integration."""
        self.integrations[integration.client_id] = integration
        return integration

    def may_allow(self, account: Card, integration: Integration, user: Record) -> bool:
        """Whether this user may authorize the integration: the first time only an administrator may [D K/oauth-20].

        Args:
            account: Where.
            integration: Which one.
            user: Who presses Allow.
        """
        return bool(user["rights"]["is_admin"]) or (account.id, integration.client_id) in self.installed

    def new_code(self, account: Account | Card, integration: Integration, user_id: int) -> str:
        """An authorization code: 20 minutes, once, tied to account, client and redirect URI [D]."""
        value = self._opaque(420)
        self._codes[value] = _Code(
            account.id,
            user_id,
            integration.client_id,
            integration.redirect_uri,
            integration.scopes,
            self._now() + CODE_SECONDS,
        )
        self.installed.add((account.id, integration.client_id))
        return value

    def _opaque(self, half_length: int) -> str:
        return f"def502{self._dice.getrandbits(8 * half_length):0{2 * half_length}x}"

    def answer(self, form: Record, account: Card | None, owner_of: Callable[[int], Card | None]) -> Record:
        """The token endpoint [D K/get-token, A/oauth].

        Args:
            form: The fields of the request, JSON or form.
            account: Account of the host; None if the host names none.
            owner_of: Finds an account by its id.

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
            code = self._spend_code(fields, integration, account)
            account_id, user_id, scopes, old = code.account_id, code.user_id, code.scopes, None
        elif fields.get("grant_type") == "refresh_token":
            old = self._spend_refresh(fields, integration, account)
            account_id, user_id, scopes = old.account_id, old.user_id, old.scopes
        else:
            refuse("Check the `grant_type` parameter")
        owner = owner_of(account_id)
        if owner is None:
            refuse("Invalid account")
        return self.pair(owner, user_id, integration.client_id, scopes, old=old)

    def _spend_code(self, fields: dict[str, str], integration: Integration, account: Card | None) -> _Code:
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
        return code

    def _spend_refresh(
        self, fields: dict[str, str], integration: Integration, account: Card | None
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

    def pair(
        self,
        account: Card,
        user_id: int,
        client_id: str,
        scopes: tuple[str, ...],
        *,
        old: RefreshToken | None = None,
        age: int = 0,
        unsigned: bool = False,
    ) -> Record:
        """A new pair, as the token endpoint answers it.

        Args:
            account: Whose data.
            user_id: Whose rights.
            client_id: Integration.
            scopes: What it may do.
            old: The refresh token that is used up for it.
            age: Seconds for which it has been around already.
            unsigned: See `TokenBook.issue`.
        """
        made_at = self._now() - age
        fresh = RefreshToken(
            self._opaque(360), account.id, user_id, client_id, scopes, made_at + REFRESH_SECONDS, parent=old
        )
        self._refresh[fresh.value] = self._by_fingerprint[fingerprint(fresh.value)] = self.newest = fresh
        self._by_account[account.id].append(fresh)
        if old is not None:
            self.refreshes += 1
            self._used(old)
            for unused in old.newer:
                unused.state = "dead"
            old.newer.append(fresh)
            old.state = "grace" if self.mode == "grace" else "dead"
        access = self.tokens.issue(account, user_id, client_id, scopes, age=age, unsigned=unsigned)
        self._by_access[access.value] = fresh
        return {
            "token_type": "Bearer",
            "expires_in": ACCESS_SECONDS,
            "server_time": made_at,
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
        return token if token is not None and self._alive(token) else None

    def alive(
        self, fingerprints: Iterable[str] | None = None, account_ids: Iterable[int] | None = None
    ) -> list[RefreshToken]:
        """The refresh tokens that would still be taken.

        Args:
            fingerprints: Only these; unknown ones are left out.
            account_ids: Only those of these accounts; with neither, all.
        """
        if fingerprints is not None:
            found = [self._by_fingerprint[name] for name in fingerprints if name in self._by_fingerprint]
        elif account_ids is not None:
            found = [token for account_id in account_ids for token in self._by_account.get(account_id, [])]
        else:
            found = list(self._refresh.values())
        return [token for token in found if self._alive(token)]

    def _alive(self, token: RefreshToken) -> bool:
        return token.state != "dead" and token.expires_at > self._now()

    def brought(self, form: Record) -> tuple[str | None, int | None]:
        """What a token request brings: its fingerprint as `TokenCall.used` has it, and whose it is.

        Args:
            form: The fields of the request.
        """
        value, code = form.get("refresh_token"), form.get("code")
        if isinstance(value, str) and value:
            token = self._refresh.get(value)
            return fingerprint(value), token.account_id if token else None
        if isinstance(code, str) and code:
            known = self._codes.get(code)
            return f"code:{fingerprint(code)}", known.account_id if known else None
        return None, None

    def revoke(self, account_id: int, client_id: str | None = None, value: str | None = None) -> int:
        """Withdraw access: of a client, of all clients, or one single token (access or refresh).

        Without a single token, codes that were not yet used are withdrawn, too.

        Returns:
            How many tokens were good until now.
        """
        count = self.tokens.revoke(
            account_id,
            lambda token: client_id in {None, token.client_id} and value in {None, token.value},
        )
        for token in self._by_account.get(account_id, []):
            fits = client_id in {None, token.client_id} and value in {None, token.value}
            if fits and token.state != "dead":
                token.state = "dead"
                count += 1
        if value is None:
            for code in self._codes.values():
                if code.account_id == account_id and client_id in {None, code.client_id}:
                    code.used = True
            self.installed = {
                (owner, client)
                for owner, client in self.installed
                if owner != account_id or client_id not in {None, client}
            }
        return count
