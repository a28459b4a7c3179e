"""Refreshing a pair of tokens so that a connection never dies of it (T1 to T4).

Kommo's refresh token is single use [D K/oauth-20], many processes want a fresh pair at once, and any of them may be
killed at any step. So:

1. Look for a pair that is good enough: another process may have been here.
2. Claim the org. Who does not get the claim waits and looks again.
3. Look again, now that nobody else can be at it.
4. Write down that Kommo is about to be called, and with which token; then call, once.
5. Keep the new pair in the journal. Only now does it exist for anybody.
6. Save the block, mark the journal, release the claim.

A process that dies between 4 and 5 leaves behind the note that Kommo may have been called. The next one then repeats
the call with the old token: Kommo takes it as long as the new pair is unused [D K/oauth-20]. If it does not, the pair
is lost, and the connection says so instead of guessing.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

from pydantic import SecretStr

from kommo.auth import OAuthClient
from kommo.clock import Clock
from kommo.errors import HostNotAllowed, KommoError
from kommo.hosts import parse_host
from kommo.tokenpair import TokenPair
from kommo.verdicts import Verdict, verdict_on_refresh
from store.claims import Claim, holder, note_step, release, take_claim
from store.connections import (
    PAIR,
    AttemptNoted,
    ConnectionRecord,
    ConnectionState,
    get_connection,
    mark_attempt_failed,
    rehome,
    set_state,
)
from store.database import Database
from store.errors import StoreError
from store.token_journal import mark_dead
from tasks.attempt import (
    Announce,
    Attempt,
    Reached,
    Refreshed,
    Wanted,
    claim_lost,
    pointer_seen,
    silent,
    to_the_end,
    unheard,
)
from tasks.errors import (
    BlocksUnavailableError,
    NotConnectedError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RefreshUnknownError,
)
from tasks.outbox import integration_error
from tasks.vault import STORE_WITHIN, HeldPair, Vault

MARGIN = timedelta(minutes=10)
"""How long before its end an access token is refreshed by whoever needs it."""
CLAIM_SECONDS = 60.0
"""Seconds after which a claim may be taken over."""
SEND_WITHIN = 0.5
"""Part of the claim within which Kommo must have been called; the rest is for the answer and for keeping it."""
WAIT_SECONDS = 120.0
"""Seconds for which one waits for somebody else's refresh."""
_SERIOUS = frozenset({Verdict.FINAL, Verdict.MAYBE_MOVED})
_POLL = 0.1
_REPEATS = 3
_REPEAT_PAUSE = 1.0
_RETRY_FIRST = timedelta(minutes=1)
_RETRY_LONGEST = timedelta(hours=1)

_log = logging.getLogger(__name__)


class Refresher:
    """Gives out pairs that are good, refreshing them when they are not. One per process is enough.

    Args:
        database: Our own database.
        vault: Where pairs are kept.
        oauth: The token endpoint.
        clock: Time, waiting and chance.
        owner: Name of this process in a claim.
        allow_loopback: Accept the sandbox's hosts.
        claim_seconds: Seconds after which a claim may be taken over; longer than a call and its keeping take.
        announce: Told of every refresh, move and death of a connection: event, org, facts.
        reached: Told of every step, for tests.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        oauth: OAuthClient,
        clock: Clock,
        owner: str,
        allow_loopback: bool = False,
        claim_seconds: float = CLAIM_SECONDS,
        announce: Announce | None = None,
        reached: Reached = silent,
    ) -> None:
        self._database = database
        self._vault = vault
        self._oauth = oauth
        self._clock = clock
        self._owner = owner
        self._allow_loopback = allow_loopback
        self._claim_seconds = claim_seconds
        self._announce = announce or unheard
        self._reached = reached

    async def held(self, connection: ConnectionRecord) -> HeldPair:
        """The org's pair as it is, however old.

        Raises:
            NotConnectedError: it has none.
        """
        return await self._vault.held(connection)

    async def fresh(
        self,
        org: str,
        *,
        margin: timedelta = MARGIN,
        refused: SecretStr | None = None,
        force: bool = False,
        patience: float = WAIT_SECONDS,
    ) -> Refreshed:
        """A pair whose access token is good for longer than `margin`.

        Args:
            org: The product's tenant.
            margin: How long it must still be good.
            refused: An access token that Kommo has just refused: a pair that holds it is not good.
            force: Refresh whatever the pair's age (once: a pair that came while waiting for the claim will do).
            patience: Seconds to wait while somebody else refreshes.

        Raises:
            NotConnectedError: the org has no pair.
            ReauthorizationRequiredError: Kommo gave its final word.
            RefreshFailedError: not this time; nothing is lost.
        """
        await self._reached("wanted")
        until = self._clock.monotonic() + patience
        first: str | None = None
        while True:
            connection = await self._connection(org)
            held = await self._vault.held(connection)
            first = first or held.fingerprint
            wanted = Wanted(margin, refused, not_fingerprint=first if force else None)
            if wanted.is_met_by(held, self._clock.now()):
                if not held.in_block or connection.token_fingerprint != held.fingerprint:
                    held = await self._vault.settle(connection, held)
                return Refreshed(held, called=False)
            # A claim counts from before it was made: being held up shortens it.
            begun = self._clock.monotonic()
            claim = await take_claim(self._database, org, self._owner, self._claim_seconds)
            if claim is not None:
                send_before = begun + self._claim_seconds * SEND_WITHIN
                return await self._claimed(Attempt(connection, claim, send_before), wanted)
            while await holder(self._database, org) > 0:
                if self._clock.monotonic() >= until:
                    raise RefreshFailedError(
                        f"Another process is refreshing '{org}' ({patience:.0f} s were waited for it). Try again; if "
                        "it stays, look for a worker that hangs."
                    )
                await self._clock.sleep(_POLL * (1 + self._clock.random()))

    async def _connection(self, org: str) -> ConnectionRecord:
        connection = await get_connection(self._database, org)
        if connection.state == ConnectionState.DISCONNECTED:
            raise NotConnectedError(
                f"'{org}' was disconnected, so there is nothing to refresh. Connect it again: kommo connect {org} "
                "--browser"
            )
        if connection.token_kind != PAIR:
            raise NotConnectedError(
                f"'{org}' has a long-lived token, which is not refreshed: at its end connect with a new one."
            )
        return connection

    async def _claimed(self, attempt: Attempt, wanted: Wanted) -> Refreshed:
        """Refresh while holding the claim; whatever happens, the claim is released or left to time."""
        claim = attempt.claim
        try:
            await self._reached("claimed")
            attempt.connection = await self._connection(attempt.connection.org)
            held = await self._vault.held(attempt.connection)
            attempt.seen = pointer_seen(attempt.connection, held)
            await self._reached("reread")
            if wanted.is_met_by(held, self._clock.now()):
                held = await self._vault.settle(attempt.connection, held)
                await self._release(claim)
                return Refreshed(held, called=False)
            await self._look_back(attempt, held)
            # Cancelling a run in the middle must not throw away a pair that exists nowhere else.
            return await to_the_end(self._refresh(attempt, held))
        except BaseException:
            if not attempt.noted:
                await self._release(claim)
            raise

    async def _look_back(self, attempt: Attempt, held: HeldPair) -> None:
        """Did the holder before us die while Kommo was using up a token that we still have?"""
        claim, connection = attempt.claim, attempt.connection
        if claim.previous_step != "calling":
            return
        ours = {held.fingerprint}
        if claim.previous_used != held.fingerprint:
            ours |= {spare.fingerprint for spare in await self._vault.spares(connection.org)}
        attempt.unknown = claim.previous_used in ours
        if attempt.unknown:
            await self._state(
                connection,
                ConnectionState.OUTCOME_UNKNOWN,
                "A process died while Kommo refreshed this connection; it is being settled by repeating the call.",
                "outcome_unknown",
            )

    async def _refresh(self, attempt: Attempt, held: HeldPair) -> Refreshed:
        try:
            pair = await self._call_and_repeat(attempt, held)
        except KommoError as error:
            return await self._refused(attempt, held, error)
        return await self._take(attempt, pair, held.host)

    async def _call_and_repeat(self, attempt: Attempt, held: HeldPair) -> TokenPair:
        """Call; while the outcome is unknown, again with the same token: that is what Kommo's grace is for."""
        for repeat in range(_REPEATS):
            if repeat:
                await self._clock.sleep(_REPEAT_PAUSE * 2 ** (repeat - 1) * (0.5 + self._clock.random()))
            try:
                return await self._call(attempt, held)
            except KommoError as error:
                attempt.unknown = attempt.unknown or error.outcome_unknown
                out_of_time = self._clock.monotonic() > attempt.send_before
                if not error.outcome_unknown or repeat == _REPEATS - 1 or out_of_time:
                    raise
        raise AssertionError("unreachable")

    async def _call(self, attempt: Attempt, held: HeldPair) -> TokenPair:
        """One call with one token, noted down before."""
        if not await note_step(self._database, attempt.claim, "calling", held.fingerprint):
            raise claim_lost(attempt.connection.org)
        attempt.noted = True
        await self._reached("calling")

        async def in_time() -> None:
            # A process that was stopped for long must not use up a token that another one is working with.
            if self._clock.monotonic() > attempt.send_before:
                raise claim_lost(attempt.connection.org)

        pair = await self._oauth.refresh(
            parse_host(held.host, allow_loopback=self._allow_loopback),
            held.refresh_token,
            account_key=held.account_key,
            gate=in_time,
        )
        await self._reached("answered")
        return pair

    async def _take(
        self, attempt: Attempt, pair: TokenPair, host: str, moved_from: str | None = None
    ) -> Refreshed:
        """Keep a new pair, then make it the current one."""
        connection = attempt.connection
        held = await self._vault.keep(connection, pair, host)
        await self._reached("journalled")
        try:
            held = await self._vault.settle(connection, await self._current_after(connection, held))
        except NotConnectedError:  # a person ended it meanwhile, or put a long-lived token in its place
            await self._release(attempt.claim)
            raise
        await self._reached("saved")
        await self._release(attempt.claim)
        await self._reached("released")
        facts: dict[str, object] = {"host": held.host, "expires_at": held.expires_at.isoformat()}
        if moved_from is not None:
            self._announce("kommo.connection.moved", connection.org, {**facts, "moved_from": moved_from})
        self._announce("kommo.connection.refreshed", connection.org, facts)
        return Refreshed(held, called=True, moved_from=moved_from)

    async def _current_after(self, connection: ConnectionRecord, held: HeldPair) -> HeldPair:
        """The pair that counts now: ours, unless we were stopped for so long that another process got ahead."""
        if held.in_block:
            return held  # the database is down: there is nothing to ask
        try:
            async with asyncio.timeout(STORE_WITHIN):
                if await self._vault.is_current(connection.org, held):
                    return held
                return await self._vault.held(await self._connection(connection.org))
        except (StoreError, BlocksUnavailableError, OSError):
            return held

    async def _refused(self, attempt: Attempt, held: HeldPair, error: KommoError) -> Refreshed:
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
        connection = await get_connection(self._database, attempt.connection.org)
        found = await self._vault.held(connection)
        if found.fingerprint == held.fingerprint:
            return None
        found = await self._vault.settle(connection, found)
        await self._release(attempt.claim)
        return Refreshed(found, called=False)

    async def _spare(self, attempt: Attempt, held: HeldPair) -> Refreshed | None:
        """A repeated refresh leaves two pairs behind, of which Kommo honours the younger."""
        org = attempt.connection.org
        for spare in await self._vault.spares(org):
            try:
                pair = await self._call(attempt, spare)
            except KommoError as error:
                if verdict_on_refresh(error) is not Verdict.FINAL:
                    raise
                await self._mark_dead(org, spare)
                continue
            # It takes its place behind the pair that turned out to be dead, where the chain leads to it. It is kept
            # before anything else is done: it exists nowhere else.
            found = await self._take(attempt, replace(pair, used=held.fingerprint), spare.host)
            await self._quietly(self._mark_dead(org, spare))
            return found
        return None

    async def _moved(self, attempt: Attempt, held: HeldPair) -> Refreshed | None:
        """The account may have got another subdomain: 404 or 401 on the old one [C PHP]."""
        try:
            knowing = parse_host(held.api_domain or held.host, allow_loopback=self._allow_loopback)
        except HostNotAllowed:
            knowing = parse_host(held.host, allow_loopback=self._allow_loopback)
        address = await self._oauth.current_address(
            knowing, held.refresh_token, allow_loopback=self._allow_loopback
        )
        if address.host.name == held.host:
            return None
        connection = attempt.connection
        await rehome(
            self._database, connection.org, address.host.name, address.subdomain, now=self._clock.now()
        )
        pair = await self._call_and_repeat(attempt, replace(held, host=address.host.name))
        return await self._take(attempt, pair, address.host.name, moved_from=held.host)

    async def _dead(self, attempt: Attempt, held: HeldPair, error: KommoError) -> Refreshed | None:
        """It is Kommo's final word: only a person can help; unless a newer pair came in at the last moment."""
        connection = attempt.connection
        code = "outcome_unknown" if attempt.unknown else "token_refused"
        reason = (
            "A process died or lost its connection just when Kommo had answered a refresh, and Kommo does not take the "
            "old token any more (outcome_unknown). Authorize the account again."
            if attempt.unknown
            else f"Kommo refused the refresh token for good ({error.hint or error.status}). Authorize the account "
            "again."
        )
        noted = await mark_attempt_failed(
            self._database,
            connection.org,
            state=ConnectionState.REAUTHORIZATION_REQUIRED,
            reason=reason,
            reason_code=code,
            seen=pointer_seen(connection, held),
            events=[integration_error(connection.org, code, reason)],
            next_refresh_at=None,
            now=self._clock.now(),
        )
        if noted is AttemptNoted.MOVED_ON:
            return await self._stored_meanwhile(attempt, held)
        await self._mark_dead(connection.org, held)
        await self._release(attempt.claim)
        self._announce(
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
            self._database,
            connection.org,
            state=state,
            reason=str(error),
            reason_code=code,
            seen=attempt.seen,
            next_refresh_at=self._clock.now() + wait,
            now=self._clock.now(),
        )
        # The note that Kommo may have been called stays for the next one.
        await self._release(attempt.claim, "calling" if unknown else "idle")
        failure = RefreshUnknownError if unknown else RefreshFailedError
        raise failure(f"'{connection.org}' could not be refreshed. {error}") from error

    async def _state(
        self, connection: ConnectionRecord, state: ConnectionState, reason: str | None, code: str | None
    ) -> None:
        await set_state(
            self._database, connection.org, state, reason, reason_code=code, now=self._clock.now()
        )

    async def _mark_dead(self, org: str, held: HeldPair) -> None:
        await mark_dead(self._database, org, held.fingerprint, now=self._clock.now())

    async def _release(self, claim: Claim, step: str = "idle") -> None:
        await self._quietly(release(self._database, claim, step))

    @staticmethod
    async def _quietly(action: Awaitable[object]) -> None:
        """Do what time would do as well: a claim ends, a state is put right by the next refresh."""
        try:
            async with asyncio.timeout(STORE_WITHIN):
                await action
        except (StoreError, OSError) as error:
            _log.warning("left to time: %s", str(error) or "the database is silent")
