"""The client of one account: every request waits for its turn, reads are retried, writes are sent once.

Facts: kommo-api.md §2.2 (204 and empty bodies), §2.3 (errors), §2.4 (limits). Promises: R1 and R2 (with
``kommo.budget``), R3 (retries), R4 (the token goes to the account's host only).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from kommo import paging
from kommo.answers import Answer, asked_to_wait, data_from_body, error_from_answer
from kommo.budget import Lane, RateBudget, wait_for_turn
from kommo.catalogue import CATALOGUE, Resource
from kommo.clock import Clock, SystemClock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import Host
from kommo.transport import Json, RawAnswer, Transport

ATTEMPTS = 8
"""How often a read is tried in all; with 30 % of the answers broken, 1 read in 15 000 fails."""
BACKOFF_BASE = 0.25
"""Seconds up to which the first retry waits; doubled each time, with full jitter."""
BACKOFF_CAP = 8.0
"""Seconds up to which any retry waits."""
BLOCK_SECONDS = 900.0
"""Seconds for which all stops after a 403 block; Kommo's own time is not documented [D K/limitations]."""

LONGEST_HOLD = 20.0
"""Seconds after which a connection that waited for its turn is not trusted with a write any more: if Kommo had closed
it, the write would look as if it might have been done."""

_OUTCOME_UNKNOWN = frozenset(
    {
        ErrorKind.TIMEOUT,
        ErrorKind.SERVER_ERROR,
        ErrorKind.GATEWAY,
        ErrorKind.MALFORMED,
        ErrorKind.TOO_LARGE,
        ErrorKind.UNEXPECTED_STATUS,
    }
)


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


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    params: Sequence[tuple[str, str]] = ()
    json: Json = field(default=None, repr=False)

    @property
    def writes(self) -> bool:
        return self.method != "GET"


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

    Attributes:
        requests_sent: How many requests have gone onto the wire.
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
    ) -> None:
        self.host = host
        self.lane = lane
        self.requests_sent = 0
        self.retries = 0
        self._token = token
        self._budget = budget
        self._keys = (account_key, egress_key)
        self._asking = asyncio.Lock()
        self._clock = clock or SystemClock()
        self._attempts = attempts
        self._own = transport is None
        self._transport = transport or Transport()
        self._quiet_until = float("-inf")

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
        return await retrying(self._attempt, _Request("GET", path, params))

    async def write(self, method: str, path: str, json: Json) -> Answer:
        """Send a write once (R3).

        It is sent a second time in one case only, with a newer token after a 401, which proves that nothing
        was done.

        Args:
            method: POST, PATCH or DELETE.
            path: Path, such as ``/api/v4/leads/1``.
            json: The body.

        Raises:
            KommoError: ``outcome_unknown`` says that nobody knows whether the write took effect.
        """
        try:
            return await self._attempt(_Request(method, path, json=json))
        except KommoError as error:
            if error.kind in _OUTCOME_UNKNOWN and not error.outcome_unknown:
                error.with_unknown_outcome()
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

    async def _attempt(self, ask: _Request) -> Answer:
        token = await self._token.current()
        raw = await self._send(ask, token)
        if raw.status == 401 and (newer := await self._token.refused(token)) is not None:
            raw = await self._send(ask, newer)
        if 200 <= raw.status < 300:
            return self._answer(ask, raw)
        error = error_from_answer(
            raw.status,
            raw.body,
            method=ask.method,
            path=ask.path,
            host=self.host.name,
            request_id=raw.request_id,
        )
        await self._tell_the_budget(error, raw)
        raise error

    async def _send(self, ask: _Request, token: SecretStr, *, renewed: bool = False) -> RawAnswer:
        if (quiet := self._quiet_until - self._clock.monotonic()) > 0:
            await self._clock.sleep(quiet)
        opened = self._clock.monotonic()

        async def gate() -> None:
            # The turn is taken here, on a standing connection: making one takes longer than a turn is good for.
            await self._wait_for_turn()
            if ask.writes and not renewed and self._clock.monotonic() - opened > LONGEST_HOLD:
                raise _HeldTooLongError
            self.requests_sent += 1

        try:
            return await self._transport.send(
                ask.method, self.host, ask.path, ask.params, json=ask.json, bearer=token, gate=gate
            )
        except _HeldTooLongError:
            pass
        return await self._send(ask, token, renewed=True)

    async def _wait_for_turn(self) -> None:
        """Wait for a turn; one that was granted before a 429 came in is not used any more (R2)."""
        while True:
            await wait_for_turn(self._budget, self._keys, self.lane, self._clock, self._asking)
            if (quiet := self._quiet_until - self._clock.monotonic()) <= 0:
                return
            await self._clock.sleep(quiet)

    def _answer(self, ask: _Request, raw: RawAnswer) -> Answer:
        trouble = None
        try:
            return Answer(raw.status, data_from_body(raw.body), raw.request_id)
        except ValueError as error:
            trouble = str(error)
        raise KommoError(
            ErrorKind.MALFORMED,
            method=ask.method,
            path=ask.path,
            host=self.host.name,
            status=raw.status,
            request_id=raw.request_id,
            detail=trouble,
        )

    async def _tell_the_budget(self, error: KommoError, raw: RawAnswer) -> None:
        if error.kind is ErrorKind.RATE_LIMITED:
            seconds = asked_to_wait(error, raw.headers, self._clock.now())
            error.retry_after = seconds
            self._quiet_until = max(self._quiet_until, self._clock.monotonic() + seconds)
            await self._budget.slow_down(self._keys, seconds)
        elif error.kind is ErrorKind.IP_BLOCKED:
            reason = f"Kommo blocked our address (403 from {self.host.name})"
            # What Kommo blocks is the address [D K/limitations]: the account itself may be read from another one.
            await self._budget.block(self._keys[1:], BLOCK_SECONDS, reason)

    def _backoff(self, state: RetryCallState) -> float:
        widest: float = min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (state.attempt_number - 1))
        return self._clock.random() * widest

    def _count_retry(self, state: RetryCallState) -> None:  # noqa: ARG002  tenacity's signature
        self.retries += 1


class _HeldTooLongError(Exception):
    """The connection waited so long for its turn that a new one is better."""


def _passes(error: BaseException) -> bool:
    return isinstance(error, KommoError) and error.retryable


def _resource(resource: Resource | str) -> Resource:
    return CATALOGUE[resource] if isinstance(resource, str) else resource
