"""Kommo gave no pair: is that its final word, and what else may there be (T4)?

Before a connection is declared dead, three ways out are tried: what others have stored meanwhile, pairs that a repeated
refresh has left behind, and the address to which the account may have moved.
"""

from dataclasses import replace
from datetime import timedelta

from kommo.errors import HostNotAllowed, KommoError
from kommo.hosts import parse_host
from kommo.verdicts import Verdict, verdict_on_refresh
from store.connections import AttemptNoted, ConnectionState, get_connection, mark_attempt_failed, rehome
from store.token_journal import mark_dead
from tasks.attempt import Attempt, Refreshed, pointer_seen
from tasks.calling import Caller
from tasks.errors import ReauthorizationRequiredError, RefreshFailedError, RefreshUnknownError
from tasks.outbox import connection_moved, reauthorization_required
from tasks.vault import HeldPair

_SERIOUS = frozenset({Verdict.FINAL, Verdict.MAYBE_MOVED})
_RETRY_FIRST = timedelta(minutes=1)
_RETRY_LONGEST = timedelta(hours=1)


class Refusals:
    """What becomes of a refresh that Kommo refused or did not answer.

    Args:
        caller: Calls again where that may help.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def settle(self, attempt: Attempt, held: HeldPair, error: KommoError) -> Refreshed:
        """Kommo gave no pair: find out whether that is its final word (T4)."""
        verdict = verdict_on_refresh(error)
        if verdict in _SERIOUS:
            for way_out in (self._stored_meanwhile, self._spare, self._moved):
                try:
                    found = await way_out(attempt, held)
                except KommoError as other:
                    if verdict_on_refresh(other) not in _SERIOUS:
                        return await self._failed(attempt, other)
                    # Nobody is at the old address, and nobody knows the token elsewhere: that is final, too. A plain
                    # 401 from both is not: a Kommo that refuses everybody for an hour must end no connection (T4).
                    if error.status == 404 and other.status == 401:
                        verdict = Verdict.FINAL
                    continue
                if found is not None:
                    return found
            if verdict is Verdict.FINAL and (found := await self._dead(attempt, held, error)) is not None:
                return found
        return await self._failed(attempt, error, misconfigured=verdict is Verdict.MISCONFIGURED)

    async def _stored_meanwhile(self, attempt: Attempt, held: HeldPair) -> Refreshed | None:
        """Another process may have been slower than its claim and faster than us."""
        connection = await get_connection(self._caller.database, attempt.connection.org)
        found = await self._caller.vault.held(connection)
        if found.fingerprint == held.fingerprint:
            return None
        found = await self._caller.vault.settle(connection, found)
        await self._caller.release(attempt.claim)
        return Refreshed(found, called=False)

    async def _spare(self, attempt: Attempt, held: HeldPair) -> Refreshed | None:
        """A repeated refresh leaves two pairs behind, of which Kommo honours the younger."""
        org = attempt.connection.org
        for spare in await self._caller.vault.spares(org):
            try:
                pair = await self._caller.call(attempt, spare)
            except KommoError as error:
                if verdict_on_refresh(error) is not Verdict.FINAL:
                    raise
                await self._mark_dead(org, spare)
                continue
            # It takes its place behind the pair that turned out to be dead, where the chain leads to it. It is kept
            # before anything else is done: it exists nowhere else.
            found = await self._caller.take(attempt, replace(pair, used=held.fingerprint), spare.host)
            await self._caller.quietly(self._mark_dead(org, spare))
            return found
        return None

    async def _moved(self, attempt: Attempt, held: HeldPair) -> Refreshed | None:
        """The account may have got another subdomain: 404 or 401 on the old one [C PHP]."""
        try:
            knowing = parse_host(held.api_domain or held.host, allow_loopback=self._caller.allow_loopback)
        except HostNotAllowed:
            knowing = parse_host(held.host, allow_loopback=self._caller.allow_loopback)
        address = await self._caller.oauth.current_address(
            knowing, held.refresh_token, allow_loopback=self._caller.allow_loopback
        )
        if address.host.name == held.host:
            return None
        connection = attempt.connection
        await rehome(
            self._caller.database,
            connection.org,
            address.host.name,
            address.subdomain,
            events=[connection_moved(connection.org, address.host.name, held.host)],
            now=self._caller.clock.now(),
        )
        pair = await self._caller.call_and_repeat(attempt, replace(held, host=address.host.name))
        return await self._caller.take(attempt, pair, address.host.name, moved_from=held.host)

    async def _dead(self, attempt: Attempt, held: HeldPair, error: KommoError) -> Refreshed | None:
        """It is Kommo's final word: only a person can help; unless a newer pair came in at the last moment."""
        connection = attempt.connection
        code = "outcome_unknown" if attempt.unknown else "token_refused"
        reason = (
            "A process died or lost its connection just when Kommo had answered a refresh, and Kommo does not take the "
            "old token any more (outcome_unknown). "
            if attempt.unknown
            else f"Kommo refused the refresh token for good ({error.hint or error.status}). "
        ) + f"Authorize the account again: kommo connect {connection.org} --browser"
        noted = await mark_attempt_failed(
            self._caller.database,
            connection.org,
            state=ConnectionState.REAUTHORIZATION_REQUIRED,
            reason=reason,
            reason_code=code,
            seen=pointer_seen(connection, held),
            serial=connection.token_serial,
            events=reauthorization_required(connection.org, code, reason, held.host),
            next_refresh_at=None,
            now=self._caller.clock.now(),
        )
        if noted is AttemptNoted.MOVED_ON:
            return await self._stored_meanwhile(attempt, held)
        await self._mark_dead(connection.org, held)
        await self._caller.release(attempt.claim)
        self._caller.announce(
            "kommo.connection.reauthorization_required",
            connection.org,
            {"reason": code, "message": reason, "host": held.host},
        )
        raise ReauthorizationRequiredError(f"'{connection.org}': {reason}")

    async def _failed(self, attempt: Attempt, error: KommoError, *, misconfigured: bool = False) -> Refreshed:
        """Not this time: say why, and when it will be tried again."""
        connection = attempt.connection
        wait = min(_RETRY_LONGEST, _RETRY_FIRST * 2 ** min(connection.refresh_attempts, 10))
        unknown = attempt.unknown
        state = ConnectionState.OUTCOME_UNKNOWN if unknown else ConnectionState.DEGRADED
        code = "outcome_unknown" if unknown else "app_misconfigured" if misconfigured else error.kind.value
        await mark_attempt_failed(
            self._caller.database,
            connection.org,
            state=state,
            reason=str(error),
            reason_code=code,
            seen=attempt.seen,
            serial=connection.token_serial,
            next_refresh_at=self._caller.clock.now() + wait,
            now=self._caller.clock.now(),
        )
        # The note that Kommo may have been called stays for the next one.
        await self._caller.release(attempt.claim, "calling" if unknown else "idle")
        failure = RefreshUnknownError if unknown else RefreshFailedError
        raise failure(f"'{connection.org}' could not be refreshed. {error}") from error

    async def _mark_dead(self, org: str, held: HeldPair) -> None:
        await mark_dead(self._caller.database, org, held.fingerprint, now=self._caller.clock.now())
