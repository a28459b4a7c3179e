"""OAuth as Kommo does it: the door to all of it, and the client of the token endpoint.

Facts: kommo-api.md §1. Promises: R1 and R2 (calls of the token endpoint wait for their turn like any other), R4
(secrets go to the account's own host), T1 (a call that uses up a token is sent once), T5 (no secret in an error or a
repr).
"""

import math
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from kommo.answers import data_from_body
from kommo.budget import Lane, RateBudget
from kommo.clock import Clock, SystemClock
from kommo.errors import HostNotAllowed, KommoError
from kommo.hosts import Host, parse_host
from kommo.integration import OAuthApp, authorize_url, disable_signature, disable_signature_matches
from kommo.sending import Ask, Sender, data_of, malformed, mark_unknown
from kommo.tokenpair import TokenPair, code_fingerprint, fingerprint, pair_from_answer
from kommo.transport import Gate, RawAnswer, Transport
from kommo.verdicts import Verdict, names_our_settings, verdict_on_refresh

__all__ = [
    "MovedAddress",
    "OAuthApp",
    "OAuthClient",
    "TokenPair",
    "Verdict",
    "authorize_url",
    "disable_signature",
    "disable_signature_matches",
    "fingerprint",
    "verdict_on_refresh",
]

TOKEN_PATH = "/oauth2/access_token"  # noqa: S105  a path
ADDRESS_PATH = "/oauth2/account/current/subdomain"
PERSONS_PATIENCE = 20.0
"""Seconds for which a person who has just consented may be kept waiting for a turn; a code is good for 20 minutes."""
LARGEST_ANSWER = 256 * 1024
"""Bytes of an answer of the token endpoint; about 2 500 are usual."""


@dataclass(frozen=True, slots=True)
class MovedAddress:
    """Where an account lives now [D A/account-subdomain-info].

    Attributes:
        host: Its host, checked.
        subdomain: Its subdomain.
        account_id: Kommo's account id.
    """

    host: Host
    subdomain: str
    account_id: int | None


class OAuthClient:
    """The token endpoint of one integration. An async context manager; many tasks may use it at once.

    A call that uses up a code or a refresh token is sent once: after any trouble it is for the caller to decide whether
    to repeat it. ``KommoError.outcome_unknown`` says that Kommo may have made a new pair that nobody has seen.

    Args:
        app: The integration.
        budget: The request budget, shared with everybody who calls from this address.
        egress_key: Key of our outgoing address in the budget.
        lane: How urgent the calls are.
        clock: Time, waiting and chance.
        transport: A transport to share; without one the client makes its own and closes it.
        loose: Seconds by which a request may be late, see ``Sender``.
    """

    def __init__(
        self,
        app: OAuthApp,
        *,
        budget: RateBudget,
        egress_key: str = "egress:default",
        lane: Lane = Lane.ACTION,
        clock: Clock | None = None,
        transport: Transport | None = None,
        loose: float = 0.0,
    ) -> None:
        self.app = app
        self._clock = clock or SystemClock()
        self._own = transport is None
        self._transport = transport or Transport(largest_body=LARGEST_ANSWER)
        self._sender = Sender(
            self._transport, budget=budget, egress_key=egress_key, lane=lane, clock=self._clock, loose=loose
        )

    @property
    def requests_sent(self) -> int:
        """How many requests have gone onto the wire."""
        return self._sender.sent

    def __repr__(self) -> str:
        return f"OAuthClient({self.app.client_id!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless the transport is shared."""
        if self._own:
            await self._transport.aclose()

    async def exchange_code(
        self, host: Host, code: SecretStr, *, account_key: str | None = None, gate: Gate | None = None
    ) -> TokenPair:
        """Turn an authorization code into the first pair: within 20 minutes, once [D K/oauth-20].

        Args:
            host: The account's host, as the callback's ``referer`` names it.
            code: The code.
            account_key: Key of the account in the budget, if the account is known already.
            gate: Awaited in the turn, right before the first byte; what it raises goes through, and nothing was sent.

        Raises:
            KommoError: ``oauth_refused`` with Kommo's hint, or what else came in between.
        """
        fields = {"grant_type": "authorization_code", "code": code}
        return await self._pair(
            host, fields, code_fingerprint(code), account_key, gate, patience=PERSONS_PATIENCE
        )

    async def refresh(
        self,
        host: Host,
        refresh_token: SecretStr,
        *,
        account_key: str | None = None,
        gate: Gate | None = None,
    ) -> TokenPair:
        """Turn a refresh token into the next pair; see ``verdict_on_refresh`` for what a failure means.

        Args:
            host: The account's host.
            refresh_token: Is used up by this.
            account_key: Key of the account in the budget, such as ``account:31234567``, if it is known.
            gate: Awaited in the turn, right before the first byte; what it raises goes through, and nothing was sent.

        Raises:
            KommoError: There is no new pair, or (``outcome_unknown``) nobody knows whether there is one.
        """
        fields = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self._pair(host, fields, fingerprint(refresh_token), account_key, gate)

    async def current_address(
        self,
        host: Host,
        refresh_token: SecretStr,
        *,
        allow_loopback: bool = False,
        account_key: str | None = None,
    ) -> MovedAddress:
        """Ask where an account lives now; its refresh token is shown, and not used up.

        Args:
            host: The host in ``TokenPair.api_domain``, or, lacking one, the account's host.
            refresh_token: Of the account.
            allow_loopback: Accept an answer that names this machine, if the question went there, too.
            account_key: Key of the account in the budget, if it is known.

        Raises:
            KommoError: Nobody there knows it (401, 404), the answer is not to be believed (``malformed``), or what
                else came in between.
        """
        ask = Ask("GET", host, ADDRESS_PATH, headers={"X-Refresh-Token": refresh_token})
        raw = await self._sender.send(ask, account_key)
        if not 200 <= raw.status < 300:
            raise await self._sender.error_of(ask, raw, account_key)
        address = _address(data_of(ask, raw), allow_loopback=allow_loopback and host.loopback)
        if isinstance(address, str):
            raise malformed(ask, raw, address)
        return address

    async def _pair(
        self,
        host: Host,
        fields: dict[str, Any],
        used: str,
        account_key: str | None,
        gate: Gate | None,
        *,
        patience: float = math.inf,
    ) -> TokenPair:
        ask = Ask("POST", host, TOKEN_PATH, json=self._identity() | fields)
        sent_at = self._clock.now()

        async def note_the_time() -> None:
            nonlocal sent_at
            if gate is not None:
                await gate()
            sent_at = self._clock.now()

        try:
            raw = await self._sender.send(ask, account_key, note_the_time, patience=patience)
            if not 200 <= raw.status < 300:
                raise await self._refusal(ask, raw, account_key)
            pair = _read_pair(raw, used, sent_at, self._clock.now())
            if isinstance(pair, str):
                raise malformed(ask, raw, pair)
        except KommoError as error:
            mark_unknown(error)
            raise
        return pair

    def _identity(self) -> dict[str, Any]:
        return {
            "client_id": self.app.client_id,
            "client_secret": self.app.client_secret,
            "redirect_uri": self.app.redirect_uri,
        }

    async def _refusal(self, ask: Ask, raw: RawAnswer, account_key: str | None) -> KommoError:
        error = await self._sender.error_of(ask, raw, account_key)
        if names_our_settings(error.hint):
            error.with_detail(
                "it is our own settings that it does not accept: compare integration ID, secret key and redirect URI "
                f"with those at Kommo; the redirect URI that was sent is {self.app.redirect_uri.partition('?')[0]}"
            )
        return error.as_no_account()


def _read_pair(raw: RawAnswer, used: str, sent_at: datetime, received_at: datetime) -> TokenPair | str:
    """The pair, or what is wrong with the answer: an error raised here would carry the tokens in its traceback."""
    try:
        data = data_from_body(raw.body)
    except ValueError as error:
        return str(error)
    return pair_from_answer(data, used=used, sent_at=sent_at, received_at=received_at)


def _address(data: Any, *, allow_loopback: bool) -> MovedAddress | str:  # noqa: ANN401  whatever Kommo sent
    """The address, or what is wrong with the answer: a refresh token will be sent there."""
    domain = data.get("domain") if isinstance(data, dict) else None
    if not isinstance(domain, str):
        return "it names no domain"
    try:
        host = parse_host(domain, allow_loopback=allow_loopback)
    except HostNotAllowed:
        host = None
    if host is None or host.name != domain.strip().lower():  # a bare name would be guessed to be at kommo.com
        return "it names a domain that no account has"
    account_id = data.get("id")
    known = isinstance(account_id, int) and not isinstance(account_id, bool) and 0 < account_id < 2**63
    return MovedAddress(host, host.name.partition(".")[0], account_id if known else None)
