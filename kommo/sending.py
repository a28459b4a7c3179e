"""Single requests, each in its turn; what Kommo says about our pace is told to the budget.

Shared by everything that calls Kommo: the client of an account and the token endpoint. Facts: kommo-api.md §2.3
(errors), §2.4 (limits). Promises: R1 and R2 (with ``kommo.budget``).
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic import SecretStr

from kommo import tracing
from kommo.answers import asked_to_wait, data_from_body, error_from_answer
from kommo.budget import Lane, RateBudget, Turn, too_long, wait_for_turn
from kommo.catalogue import pattern_of
from kommo.clock import Clock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import Host
from kommo.transport import Gate, Json, RawAnswer, Transport

BLOCK_SECONDS = 900.0
"""Seconds for which all stops after a 403 block; Kommo's own time is not documented [D K/limitations]."""
LONGEST_HOLD = 20.0
"""Seconds after which a connection that waited for its turn is not trusted with a write any more: if Kommo had closed
it, the write would look as if it might have been done."""

_Waited = TypeVar("_Waited")
_log = logging.getLogger(__name__)
_GATES = 10  # so often a turn may grow late while the caller's own gate is passed
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


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        method: HTTP method.
        host: Where to send it.
        path: Absolute path.
        params: Pairs of the query.
        json: The body; values may be secrets.
        bearer: Access token.
        headers: More headers; values may be secrets.
    """

    method: str
    host: Host
    path: str
    params: Sequence[tuple[str, str]] = field(default=(), repr=False)
    json: Json = field(default=None, repr=False)
    bearer: SecretStr | None = None
    headers: Mapping[str, str | SecretStr] | None = field(default=None, repr=False)

    @property
    def writes(self) -> bool:
        """Whether sending it twice is not the same as sending it once."""
        return self.method != "GET"


class Sender:
    """Sends requests that all count on one outgoing address, and, each, on the account that it names.

    Args:
        transport: What speaks HTTP.
        budget: The request budget, shared with everybody who calls from this address.
        egress_key: Key of our outgoing address in the budget.
        lane: How urgent the requests are.
        clock: Time, waiting and chance.
        loose: Seconds by which a request may be late, where the address does not count: an account alone can spare the
            second place that this costs, an address that thousands share cannot.

    Attributes:
        sent: How many requests have gone onto the wire.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        budget: RateBudget,
        egress_key: str,
        lane: Lane,
        clock: Clock,
        loose: float = 0.0,
    ) -> None:
        self.sent = 0
        self._transport = transport
        self._budget = budget
        self._egress_key = egress_key
        self._lane = lane
        self._loose = loose and (0.0 if budget.counts(egress_key) else loose)
        self._clock = clock
        self._asking: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()
        self._quiet_until: dict[str, float] = {}

    async def send(
        self,
        ask: Ask,
        account_key: str | None,
        gate: Gate | None = None,
        *,
        patience: float = math.inf,
    ) -> RawAnswer:
        """Wait for a turn, send once, and read the answer, whatever its status.

        Args:
            ask: The request.
            account_key: Key of the account in the budget, such as ``account:31234567``, if it is known.
            gate: Awaited in the turn, right before the first byte; what it raises goes through, and nothing was sent
                then. If it takes so long that the turn is gone, it is awaited again in another one.
            patience: Nobody waits for a turn for longer than so many seconds: it is said at once instead.

        Raises:
            KommoError: There was no whole answer, or no turn; see ``Transport.send`` and ``wait_for_turn``.
        """
        keys, waits = self._keys(account_key), _Waits(self._clock)
        if not tracing.is_on():
            return await self._send(ask, keys, gate, patience, waits, renewed=False)
        return await self._traced(ask, keys, gate, patience, waits)

    async def error_of(self, ask: Ask, raw: RawAnswer, account_key: str | None) -> KommoError:
        """Make an answer that is no success into its error, and slow everybody down if it asks for that.

        Args:
            ask: The request.
            raw: Its answer.
            account_key: The key that it was sent with.
        """
        error = error_from_answer(
            raw.status,
            raw.body,
            method=ask.method,
            path=ask.path,
            host=ask.host.name,
            request_id=raw.request_id,
        )
        if error.kind is ErrorKind.RATE_LIMITED:
            # Where nobody counts what an address sends, one account's 429 is none of the others' business.
            keys = [key for key in self._keys(account_key) if self._budget.counts(key)]
            seconds = asked_to_wait(error, raw.headers, self._clock.now())
            error.retry_after = seconds
            self._keep_quiet(keys, seconds)
            await self._budget.slow_down(keys, seconds)
            # Nobody should wonder why nothing goes on: Kommo usually asks for five minutes [D K/limitations].
            _log.warning(
                "Kommo answered 429: nothing is sent on %s for %d s.", " and ".join(keys), math.ceil(seconds)
            )
        elif error.kind is ErrorKind.IP_BLOCKED:
            reason = f"Kommo blocked our address (403 from {ask.host.name})"
            # What Kommo blocks is the address [D K/limitations]: the account itself may be read from another one.
            await self._budget.block([self._egress_key], BLOCK_SECONDS, reason)
            _log.warning("%s: nothing is sent for %d s.", reason, BLOCK_SECONDS)
        return error

    def _keys(self, account_key: str | None) -> tuple[str, ...]:
        return (self._egress_key,) if account_key is None else (account_key, self._egress_key)

    async def _traced(
        self, ask: Ask, keys: tuple[str, ...], gate: Gate | None, patience: float, waits: "_Waits"
    ) -> RawAnswer:
        """Send, and let a span say how it went: by words and numbers only."""
        pattern = pattern_of(ask.path)
        known = {
            "http.request.method": ask.method,
            "url.template": pattern,
            "server.address": ask.host.name,
            "kommo.lane": self._lane.value,
        }
        with tracing.span(f"{ask.method} {pattern}", known, kind=tracing.Kind.CLIENT) as span:
            try:
                raw = await self._send(ask, keys, gate, patience, waits, renewed=False)
            except KommoError as error:
                span.failed(error.kind.value)
                raise
            finally:
                span.note({"kommo.budget.waited_ms": round(waits.seconds * 1000, 1)})
            span.note({"http.response.status_code": raw.status, "kommo.request_id": raw.request_id})
            if raw.status >= 400:
                span.failed(str(raw.status))
            return raw

    async def _send(
        self,
        ask: Ask,
        keys: tuple[str, ...],
        gate: Gate | None,
        patience: float,
        waits: "_Waits",
        *,
        renewed: bool,
    ) -> RawAnswer:
        await waits.of(self._until_quiet_ends(keys, patience))
        opened = self._clock.monotonic()

        async def gates() -> None:
            # The turn is taken here, on a standing connection: making one takes longer than a turn is good for.
            for _ in range(_GATES):
                turn = await waits.of(self._turn(keys, patience))
                if ask.writes and not renewed and self._clock.monotonic() - opened > LONGEST_HOLD:
                    raise _HeldTooLongError
                if gate is not None:
                    await gate()
                if not turn.is_late(self._clock):
                    self.sent += 1
                    return
            raise KommoError(ErrorKind.TOO_BUSY)

        try:
            return await self._transport.send(
                ask.method,
                ask.host,
                ask.path,
                ask.params,
                json=ask.json,
                bearer=ask.bearer,
                headers=ask.headers,
                gate=gates,
            )
        except _HeldTooLongError:
            pass
        return await self._send(ask, keys, gate, patience, waits, renewed=True)

    async def _turn(self, keys: tuple[str, ...], patience: float) -> Turn:
        """Wait for a turn; one that was granted before a 429 came in is not used any more (R2)."""
        asking = self._asking.setdefault(keys, asyncio.Lock())
        while True:
            turn = await wait_for_turn(
                self._budget, keys, self._lane, self._clock, asking, patience=patience, loose=self._loose
            )
            if not await self._until_quiet_ends(keys, patience):
                return turn

    async def _until_quiet_ends(self, keys: Sequence[str], patience: float) -> bool:
        """Wait as long as there is a quiet on these keys; whether there was one."""
        quiet = self._quiet(keys)
        if quiet > patience:
            raise too_long(quiet)
        if quiet > 0:
            await self._clock.sleep(quiet)
        return quiet > 0

    def _quiet(self, keys: Sequence[str]) -> float:
        """Seconds of quiet that are left on these keys."""
        return max(self._quiet_until.get(key, -math.inf) for key in keys) - self._clock.monotonic()

    def _keep_quiet(self, keys: Sequence[str], seconds: float) -> None:
        now = self._clock.monotonic()
        over = {key: until for key, until in self._quiet_until.items() if until > now}
        self._quiet_until = over | {key: max(over.get(key, 0.0), now + seconds) for key in keys}


def mark_unknown(error: KommoError) -> KommoError:
    """Mark the error of a write that was sent, if nobody can know from it whether the write took effect."""
    if error.kind in _OUTCOME_UNKNOWN and not error.outcome_unknown:
        error.with_unknown_outcome()
    return error


def data_of(ask: Ask, raw: RawAnswer) -> dict[str, Any] | list[Any] | None:
    """The JSON of a success.

    Args:
        ask: The request.
        raw: Its answer, of status 200 to 299.

    Raises:
        KommoError: ``malformed``.
    """
    trouble = None
    try:
        return data_from_body(raw.body)
    except ValueError as error:
        trouble = str(error)
    raise malformed(ask, raw, trouble)


def malformed(ask: Ask, raw: RawAnswer, detail: str) -> KommoError:
    """The error of a success that cannot be read.

    Args:
        ask: The request.
        raw: Its answer.
        detail: What is wrong with it, as a half-sentence of our own.
    """
    return KommoError(
        ErrorKind.MALFORMED,
        method=ask.method,
        path=ask.path,
        host=ask.host.name,
        status=raw.status,
        request_id=raw.request_id,
        detail=detail,
    )


@dataclass(slots=True)
class _Waits:
    """For how long a request has waited for the budget."""

    clock: Clock
    seconds: float = 0.0

    async def of(self, waiting: Awaitable[_Waited]) -> _Waited:
        begun = self.clock.monotonic()
        try:
            return await waiting
        finally:
            self.seconds += self.clock.monotonic() - begun


class _HeldTooLongError(Exception):
    """The connection waited so long for its turn that a new one is better."""
