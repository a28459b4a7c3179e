"""Connecting an account through a browser: from the product's wish to Kommo's consent page, and back with a code.

What leaves here towards Kommo is a state: random, good for 15 minutes and for one use, bound to the org that asked, to
where the person goes afterwards, and to the browser. Facts: kommo-api.md §1.2 (authorize), §1.3 (callback, whose
`referer` is under an attacker's control).
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from pydantic import SecretStr

from blocks.app import KommoApp
from blocks.names import block_name
from blocks.settings import Settings
from kommo.auth import Verdict, authorize_url, verdict_on_refresh
from kommo.clock import Clock, SystemClock
from kommo.errors import ErrorKind, HostNotAllowed, KommoError
from kommo.hosts import parse_host
from store.connections import ConnectionRecord
from store.database import Database
from store.oauth_states import StateProblem, TakenState, peek_state, prune_states, put_state, take_state
from store.outbox import add_events
from tasks.connect import connect_with_code
from tasks.errors import DataPlaneError, WrongAccountError
from tasks.outbox import integration_error
from tasks.redirects import is_allowed_redirect

Mode = Literal["popup", "post_message"]

STATE_TTL = timedelta(minutes=15)
_KEPT = timedelta(days=1)
_STATE_BYTES = 24  # 32 characters, as the product's table of states has it
_LONGEST_STATE = 256
_LONGEST_CODE = 8192


class RedirectRefusedError(DataPlaneError):
    """The address to send the person back to is not one of the product's."""


class Ending(StrEnum):
    """How an authorization ended; the words are stable: the product is told them."""

    CONNECTED = "connected"
    DECLINED = "declined"
    INVALID = "invalid_request"
    UNKNOWN = "unknown_state"
    EXPIRED = "expired_state"
    USED = "used_state"
    ELSEWHERE = "started_elsewhere"
    WRONG_HOST = "host_not_allowed"
    WRONG_ACCOUNT = "wrong_account"
    REFUSED = "exchange_refused"
    MISCONFIGURED = "misconfigured"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Begun:
    """A consent that has begun.

    Attributes:
        url: Kommo's consent page; holds the state.
        cookie: Name of the cookie by which the browser is known again.
        secret: Value of that cookie.
        seconds: For so long both are good.
    """

    url: str = field(repr=False)
    cookie: str = field(repr=False)
    secret: SecretStr
    seconds: int


@dataclass(frozen=True)
class Callback:
    """What came back from Kommo, as it came: nothing of it is believed. The repr shows no secret."""

    state: SecretStr
    code: SecretStr | None = None
    referer: str | None = field(default=None, repr=False)
    client_id: str | None = field(default=None, repr=False)
    error: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Bringer:
    """Who brings the callback: a browser with its cookies, or the product with its key and the org it acts for."""

    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    org: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How an authorization ended, and for whom; without secrets.

    Attributes:
        ending: How.
        org: For whom; None where that may not be told.
        mode: How the consent page was opened.
        return_to: Where the person asked to be sent.
        connection: The connection, if there is one now.
        waiting: Seconds after which it may be tried again, where Kommo said so.
        message: Why, as a sentence for whoever runs this.
    """

    ending: Ending
    org: str | None = None
    mode: Mode = "popup"
    return_to: str | None = None
    connection: ConnectionRecord | None = None
    waiting: float | None = None
    message: str | None = None


async def begin_authorization(
    database: Database,
    app: KommoApp,
    *,
    org: str,
    domain: str,
    redirect_uri: str | None = None,
    mode: Mode = "popup",
    clock: Clock | None = None,
) -> Begun:
    """Begin to connect an org.

    Args:
        database: The store.
        app: The integration.
        org: The product's tenant.
        domain: The account's host as a person writes it.
        redirect_uri: Where the person goes in the end; or the integration's own redirect URI, which says nothing.
        mode: How the product opens the consent page [D K/oauth-20].
        clock: Source of time.

    Raises:
        HostNotAllowed: The domain is not an address of a Kommo account.
        RedirectRefusedError: The redirect URI is not one of the product's.
        ValueError: The org is not written as orgs are.
    """
    block_name(org)
    host = parse_host(domain, allow_loopback=app.allow_loopback)
    return_to = None if redirect_uri in {None, "", app.redirect_uri} else redirect_uri
    if return_to is not None and not is_allowed_redirect(
        return_to, [address for address in (app.app_url, *app.allowed_redirects) if address]
    ):
        raise RedirectRefusedError(
            "This redirect_uri is not allowed: it must be the integration's own, or lie under APP_URL or one of the "
            "allowed redirects of the Kommo App block."
        )
    now = (clock or SystemClock()).now()
    state, browser = secrets.token_urlsafe(_STATE_BYTES), secrets.token_urlsafe(32)
    await prune_states(database, now - _KEPT)
    await put_state(
        database,
        state_hash=_hash(state),
        org=org,
        redirect_uri=app.redirect_uri,
        base_domain=host.name,
        mode=mode,
        browser_hash=_hash(browser),
        return_to=return_to,
        expires_at=now + STATE_TTL,
        now=now,
    )
    return Begun(
        url=authorize_url(app.oauth(), state, mode=mode),
        cookie=cookie_name(app, state),
        secret=SecretStr(browser),
        seconds=int(STATE_TTL.total_seconds()),
    )


def is_secure(app: KommoApp) -> bool:
    """Whether browsers reach the callback by https, and so send its cookies nowhere else."""
    return app.redirect_uri.startswith("https://")


def cookie_name(app: KommoApp, state: str) -> str:
    """The cookie of one consent: a browser may have several under way.

    A browser sets a `__Host-` cookie from this very host and by https only, so no neighbour can plant one.
    """
    return f"{'__Host-' if is_secure(app) else ''}kommo-oauth-{_hash(state)[:16]}"


async def finish_authorization(
    callback: Callback,
    bringer: Bringer,
    *,
    database: Database,
    app: KommoApp,
    settings: Settings,
    clock: Clock | None = None,
) -> Outcome:
    """Finish what `begin_authorization` began; every ending is a value, because each is to be expected.

    In this order: is the request complete; who brings it; the state is used up, by one of any number; is the host one
    of Kommo's; only then is anything sent. A stranger does not use a state up.

    Raises:
        StoreError: Our own database failed.
    """
    clock = clock or SystemClock()
    text = callback.state.get_secret_value()
    if not _complete(callback, app):
        return Outcome(Ending.INVALID)
    state_hash = _hash(text)
    begun = await peek_state(database, state_hash)
    if begun is None:
        return Outcome(Ending.UNKNOWN)
    if not _is_same(begun, bringer, cookie_name(app, text)):
        return Outcome(Ending.ELSEWHERE)
    taken = await take_state(database, state_hash, clock.now())
    if isinstance(taken, StateProblem):
        return _outcome(_ENDING_OF_STATE[taken], begun)
    if callback.error is not None:
        return await _ended(database, _outcome(Ending.DECLINED, taken), clock)
    return await _exchanged(callback, taken, database=database, app=app, settings=settings, clock=clock)


async def _exchanged(
    callback: Callback,
    taken: TakenState,
    *,
    database: Database,
    app: KommoApp,
    settings: Settings,
    clock: Clock,
) -> Outcome:
    code = callback.code
    try:
        host = parse_host(callback.referer or "", allow_loopback=app.allow_loopback)
    except HostNotAllowed:
        return await _ended(database, _outcome(Ending.WRONG_HOST, taken), clock)
    if code is None:  # `_complete` has seen to it
        return _outcome(Ending.INVALID, taken)
    try:
        connection = await connect_with_code(
            taken.org, host, code, settings, database=database, app=app, clock=clock
        )
    except WrongAccountError:
        return await _ended(database, _outcome(Ending.WRONG_ACCOUNT, taken), clock)
    except KommoError as error:
        outcome = _outcome(ending_of(error), taken, waiting=error.retry_after)
        return await _ended(database, outcome, clock, message=str(error))
    return _outcome(Ending.CONNECTED, taken, connection=connection)


def ending_of(error: KommoError) -> Ending:
    """What an error on the way from the code to the connection means for the person who waits."""
    if verdict_on_refresh(error) is Verdict.MISCONFIGURED:
        return Ending.MISCONFIGURED
    if error.kind is ErrorKind.HOST_NOT_ALLOWED:
        return Ending.WRONG_HOST
    passing = {ErrorKind.IP_BLOCKED, ErrorKind.BUDGET_BLOCKED, ErrorKind.UNEXPECTED_STATUS}
    return Ending.UNREACHABLE if error.retryable or error.kind in passing else Ending.REFUSED


def _complete(callback: Callback, app: KommoApp) -> bool:
    state, code = callback.state.get_secret_value(), callback.code
    if not state or len(state) > _LONGEST_STATE or callback.client_id not in {None, "", app.client_id}:
        return False
    if callback.error is not None:
        return True
    return bool(code and callback.referer) and len(code.get_secret_value() if code else "") <= _LONGEST_CODE


def _is_same(begun: TakenState, bringer: Bringer, cookie: str) -> bool:
    """Whether it is the browser that began, or the product on behalf of the org that did."""
    shown = bringer.cookies.get(cookie)
    if shown is not None and hmac.compare_digest(_hash(shown), begun.browser_hash or ""):
        return True
    return bringer.org is not None and bringer.org == begun.org


_ENDING_OF_STATE = {
    StateProblem.UNKNOWN: Ending.UNKNOWN,
    StateProblem.EXPIRED: Ending.EXPIRED,
    StateProblem.USED: Ending.USED,
}


_MESSAGES = {
    Ending.DECLINED: "Access was declined on Kommo's consent page.",
    Ending.WRONG_HOST: "What came back did not name an address of Kommo; nothing was sent there.",
    Ending.WRONG_ACCOUNT: "Access was given to another Kommo account than the one that the org is connected to.",
}


def _outcome(
    ending: Ending,
    state: TakenState,
    *,
    connection: ConnectionRecord | None = None,
    waiting: float | None = None,
) -> Outcome:
    mode: Mode = "post_message" if state.mode == "post_message" else "popup"
    return Outcome(ending, state.org, mode, state.return_to, connection, waiting)


async def _ended(
    database: Database, outcome: Outcome, clock: Clock, *, message: str | None = None
) -> Outcome:
    """Tell the product that it came to nothing."""
    outcome = replace(outcome, message=message or _MESSAGES[outcome.ending])
    if outcome.org is not None:
        event = integration_error(outcome.org, outcome.ending.value, outcome.message or "")
        async with database.begin() as connection:
            await add_events(connection, [event], clock.now())
    return outcome


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
