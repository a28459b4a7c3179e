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

from collections.abc import Sequence
from datetime import timedelta

from pydantic import SecretStr

from kommo.auth import OAuthClient
from kommo.clock import Clock
from kommo.errors import KommoError
from store.claims import holder, take_claim
from store.connections import (
    ConnectionRecord,
    ConnectionState,
    set_state,
)
from store.database import Database
from tasks.attempt import (
    Announce,
    Attempt,
    Reached,
    Refreshed,
    Wanted,
    pointer_seen,
    silent,
    to_the_end,
    unheard,
)
from tasks.calling import Caller, refreshable
from tasks.errors import (
    RefreshFailedError,
)
from tasks.refused import Refusals
from tasks.vault import HeldPair, Vault

MARGIN = timedelta(minutes=10)
"""How long before its end an access token is refreshed by whoever needs it."""
CLAIM_SECONDS = 60.0
"""Seconds after which a claim may be taken over."""
SEND_WITHIN = 0.5
"""Part of the claim within which Kommo must have been called; the rest is for the answer and for keeping it."""
WAIT_SECONDS = 120.0
"""Seconds for which one waits for somebody else's refresh."""
_POLL = 0.1


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
        self._clock = clock
        self._owner = owner
        self._claim_seconds = claim_seconds
        self._reached = reached
        self._caller = Caller(
            database=database,
            vault=vault,
            oauth=oauth,
            clock=clock,
            allow_loopback=allow_loopback,
            announce=announce or unheard,
            reached=reached,
        )
        self._refusals = Refusals(self._caller)

    async def held(self, connection: ConnectionRecord) -> HeldPair:
        """The org's pair as it is, however old.

        Raises:
            NotConnectedError: it has none.
        """
        return await self._vault.held(connection)

    async def read_ahead(self, orgs: Sequence[str]) -> dict[str, HeldPair]:
        """The pairs of many orgs at once, as far as the journal has them; see `Vault.read_ahead`."""
        return await self._vault.read_ahead(orgs)

    async def fresh(
        self,
        org: str,
        *,
        margin: timedelta = MARGIN,
        refused: SecretStr | None = None,
        force: bool = False,
        due: bool = False,
        patience: float = WAIT_SECONDS,
    ) -> Refreshed:
        """A pair whose access token is good for longer than `margin`.

        Args:
            org: The product's tenant.
            margin: How long it must still be good.
            refused: An access token that Kommo has just refused: a pair that holds it is not good.
            force: Refresh whatever the pair's age (once: a pair that came while waiting for the claim will do).
            due: The store says that it needs a fresh pair: it is claimed at once, and looked at only under the claim.
                That spares a run that refreshes thousands one of the two looks at each.
            patience: Seconds to wait while somebody else refreshes.

        Raises:
            NotConnectedError: the org has no pair.
            ReauthorizationRequiredError: Kommo gave its final word.
            RefreshFailedError: not this time; nothing is lost.
        """
        await self._reached("wanted")
        until = self._clock.monotonic() + patience
        first: str | None = None
        wanted = Wanted(margin, refused, not_fingerprint=None)
        while True:
            connection = await refreshable(self._database, org)
            if not due or force:
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

    async def _claimed(self, attempt: Attempt, wanted: Wanted) -> Refreshed:
        """Refresh while holding the claim; whatever happens, the claim is released or left to time."""
        claim = attempt.claim
        try:
            await self._reached("claimed")
            attempt.connection = await refreshable(self._database, attempt.connection.org)
            held = await self._vault.held(attempt.connection)
            attempt.seen = pointer_seen(attempt.connection, held)
            await self._reached("reread")
            if wanted.is_met_by(held, self._clock.now()):
                held = await self._vault.settle(attempt.connection, held)
                await self._caller.release(claim)
                return Refreshed(held, called=False)
            await self._look_back(attempt, held)
            # Cancelling a run in the middle must not throw away a pair that exists nowhere else.
            return await to_the_end(self._refresh(attempt, held))
        except BaseException:
            if not attempt.noted:
                await self._caller.release(claim)
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
            pair = await self._caller.call_and_repeat(attempt, held)
        except KommoError as error:
            return await self._refusals.settle(attempt, held, error)
        return await self._caller.take(attempt, pair, held.host)

    async def _state(
        self, connection: ConnectionRecord, state: ConnectionState, reason: str | None, code: str | None
    ) -> None:
        await set_state(
            self._database,
            connection.org,
            state,
            reason,
            reason_code=code,
            serial=connection.token_serial,
            now=self._clock.now(),
        )
