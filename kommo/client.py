"""The client of one account: every request waits for its turn, reads are retried, writes are sent once.

Facts: kommo-api.md §2.2 (204 and empty bodies), §2.3 (errors), §2.4 (limits). Promises: R1 and R2 (with
``kommo.budget``), R3 (retries), R4 (the token goes to the account's host only).
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from kommo import paging
from kommo.answers import Answer
from kommo.budget import Lane, RateBudget
from kommo.catalogue import CATALOGUE, Resource
from kommo.clock import Clock, SystemClock
from kommo.errors import KommoError
from kommo.hosts import Host
from kommo.sending import Ask, Sender, data_of, mark_unknown
from kommo.transport import Gate, Json, RawAnswer, Transport

ATTEMPTS = 8
"""How often a read is tried in all; with 30 % of the answers broken, 1 read in 15 000 fails."""
BACKOFF_BASE = 0.25
"""Seconds up to which the first retry waits; doubled each time, with full jitter."""
BACKOFF_CAP = 8.0
"""Seconds up to which any retry waits."""


class TokenSource(Protocol):
    """Where a client gets its access token."""

    async def current(self) -> SecretStr:
        """Return the token to use now."""
        ...

    async def refused(self, token: SecretStr) -> SecretStr | None:
        """Kommo answered 401 to this token: return a newer one, to be tried once, or ``None``."""
        ...


class StaticToken:
    """A long-lived token: the same until a person replaces it [D K/long-lived-token].

    Args:
        token: The token.
    """

    def __init__(self, token: SecretStr) -> None:
        self._token = token

    async def current(self) -> SecretStr:
        """Return the token."""
        return self._token

    async def refused(self, token: SecretStr) -> SecretStr | None:  # noqa: ARG002  part of the protocol
        """Return ``None``: there is no newer one."""
        return None


class KommoClient:
    """Talks to one account. An async context manager; many tasks may use it at once.

    Args:
        host: The account's host.
        token: Where the access token comes from.
        budget: The request budget, shared with everybody who calls this account or from this address.
        account_key: Key of the account in the budget, such as ``account:31234567``.
        egress_key: Key of our outgoing address in the budget.
        lane: How urgent the requests of this client are.
        clock: Time, waiting and chance.
        attempts: How often a read is tried in all.
        transport: A transport to share; without one the client makes its own and closes it.
        loose: Seconds by which a request may be late, see ``Sender``.

    Attributes:
        retries: How many of the reads' attempts were repetitions.
    """

    def __init__(
        self,
        host: Host,
        token: TokenSource,
        *,
        budget: RateBudget,
        account_key: str,
        egress_key: str = "egress:default",
        lane: Lane = Lane.SYNC,
        clock: Clock | None = None,
        attempts: int = ATTEMPTS,
        transport: Transport | None = None,
        loose: float = 0.0,
    ) -> None:
        self.host = host
        self.lane = lane
        self.retries = 0
        self._token = token
        self._account_key = account_key
        self._clock = clock or SystemClock()
        self._attempts = attempts
        self._own = transport is None
        self._transport = transport or Transport()
        self._sender = Sender(
            self._transport, budget=budget, egress_key=egress_key, lane=lane, clock=self._clock, loose=loose
        )

    @property
    def requests_sent(self) -> int:
        """How many requests have gone onto the wire."""
        return self._sender.sent

    def __repr__(self) -> str:
        return f"KommoClient({self.host.name!r}, lane={self.lane.value!r})"

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

    async def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Answer:
        """Read one path; faults that pass by themselves are retried (R3).

        Args:
            path: Path, such as ``/api/v4/account``.
            params: Pairs of the query.

        Raises:
            KommoError: What the last attempt met.
        """
        retrying = AsyncRetrying(
            sleep=self._clock.sleep,
            stop=stop_after_attempt(self._attempts),
            wait=self._backoff,
            retry=retry_if_exception(_passes),
            before_sleep=self._count_retry,
            reraise=True,
        )
        return await retrying(self._attempt, Ask("GET", self.host, path, params))

    async def write(self, method: str, path: str, json: Json, *, gate: Gate | None = None) -> Answer:
        """Send a write once (R3).

        It is sent a second time in one case only, with a newer token after a 401, which proves that nothing
        was done.

        Args:
            method: POST, PATCH or DELETE.
            path: Path, such as ``/api/v4/leads/1``.
            json: The body.
            gate: Awaited in the turn, right before the first byte; what it raises goes through, and nothing was sent
                then.

        Raises:
            KommoError: ``outcome_unknown`` says that nobody knows whether the write took effect.
        """
        try:
            return await self._attempt(Ask(method, self.host, path, json=json), gate)
        except KommoError as error:
            mark_unknown(error)
            raise

    async def read_all(
        self, resource: Resource | str, params: Sequence[tuple[str, str]] = ()
    ) -> list[dict[str, Any]]:
        """Read a whole list, proved as far as Kommo lets it; see ``kommo.paging.read_all``.

        Args:
            resource: The list, or its name in ``CATALOGUE``.
            params: More of the query.

        Raises:
            KommoError: The list could not be read, or kept changing.
        """
        return await paging.read_all(self.get, _resource(resource), params)

    def iterate(
        self, resource: Resource | str, params: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Read a list page by page without doubles; see ``kommo.paging.pages`` for what it can promise.

        Args:
            resource: The list, or its name in ``CATALOGUE``.
            params: More of the query.
        """
        return paging.pages(self.get, _resource(resource), params)

    async def _attempt(self, ask: Ask, gate: Gate | None = None) -> Answer:
        token = await self._token.current()
        raw = await self._send(ask, token, gate)
        if raw.status == 401 and (newer := await self._token.refused(token)) is not None:
            raw = await self._send(ask, newer, gate)
        if 200 <= raw.status < 300:
            return Answer(raw.status, data_of(ask, raw), raw.request_id)
        raise await self._sender.error_of(ask, raw, self._account_key)

    async def _send(self, ask: Ask, token: SecretStr, gate: Gate | None) -> RawAnswer:
        return await self._sender.send(replace(ask, bearer=token), self._account_key, gate)

    def _backoff(self, state: RetryCallState) -> float:
        widest: float = min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (state.attempt_number - 1))
        return self._clock.random() * widest

    def _count_retry(self, state: RetryCallState) -> None:  # noqa: ARG002  tenacity's signature
        self.retries += 1


def _passes(error: BaseException) -> bool:
    return isinstance(error, KommoError) and error.retryable


def _resource(resource: Resource | str) -> Resource:
    return CATALOGUE[resource] if isinstance(resource, str) else resource
