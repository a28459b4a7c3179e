"""One call of the token endpoint under a claim, and the keeping of what it gave: first durable, then current (T2)."""

import logging
from collections.abc import Coroutine
from typing import Any

from kommo.auth import OAuthClient
from kommo.clock import Clock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import parse_host
from kommo.tokenpair import TokenPair
from store.claims import Claim, note_step, release
from store.connections import PAIR, ConnectionRecord, ConnectionState, get_connection
from store.database import Database
from store.errors import StoreError
from tasks.attempt import Announce, Attempt, Reached, Refreshed, claim_lost
from tasks.errors import BlocksUnavailableError, ClaimLostError, NotConnectedError
from tasks.patience import within
from tasks.vault import STORE_WITHIN, HeldPair, Vault

_CALLS = 5  # with a tenth of the answers lost, one refresh in a hundred thousand is left for the next time
_PAUSE, _LONGEST_PAUSE = 1.0, 4.0
_TOO_FAST = 2

_log = logging.getLogger(__name__)


class Caller:
    """Calls, keeps, releases; whoever holds the claim decides what to do.

    Args:
        database: Our own database.
        vault: Where pairs are kept.
        oauth: The token endpoint.
        clock: Time, waiting and chance.
        allow_loopback: Accept the sandbox's hosts.
        announce: Told of every refresh and move of a connection.
        reached: Told of every step, for tests.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        oauth: OAuthClient,
        clock: Clock,
        allow_loopback: bool,
        announce: Announce,
        reached: Reached,
    ) -> None:
        self.database = database
        self.vault = vault
        self.oauth = oauth
        self.clock = clock
        self.allow_loopback = allow_loopback
        self.announce = announce
        self.reached = reached

    async def call_and_repeat(self, attempt: Attempt, held: HeldPair) -> TokenPair:
        """Call, and again with the same token while that can help.

        While the outcome is unknown it is what Kommo's grace is for; after a 429 nothing was done, and the budget
        waits for as long as Kommo says (R2).
        """
        unheard = too_fast = 0
        while True:
            try:
                return await self.call(attempt, held)
            except KommoError as error:
                attempt.unknown = attempt.unknown or error.outcome_unknown
                unheard += error.outcome_unknown
                too_fast += error.kind is ErrorKind.RATE_LIMITED
                begins = self.clock.monotonic() + (error.retry_after or 0.0)
                known = not error.outcome_unknown and error.kind is not ErrorKind.RATE_LIMITED
                if known or unheard >= _CALLS or too_fast > _TOO_FAST or begins > attempt.send_before:
                    raise
                if error.outcome_unknown:
                    pause = min(_PAUSE * 2 ** (unheard - 1), _LONGEST_PAUSE)
                    await self.clock.sleep(pause * (0.5 + self.clock.random()))
            except ClaimLostError:
                if not attempt.unknown:  # nothing was ever sent: nobody need wait for the claim to end
                    await self.release(attempt.claim)
                raise

    async def call(self, attempt: Attempt, held: HeldPair) -> TokenPair:
        """One call with one token, noted down before."""
        if not await note_step(self.database, attempt.claim, "calling", held.fingerprint):
            raise claim_lost(attempt.connection.org)
        attempt.noted = True
        await self.reached("calling")

        async def in_time() -> None:
            # A process that was stopped for long must not use up a token that another one is working with.
            if self.clock.monotonic() > attempt.send_before:
                raise claim_lost(attempt.connection.org)

        pair = await self.oauth.refresh(
            parse_host(held.host, allow_loopback=self.allow_loopback),
            held.refresh_token,
            account_key=held.account_key,
            gate=in_time,
        )
        await self.reached("answered")
        return pair

    async def take(
        self, attempt: Attempt, pair: TokenPair, host: str, moved_from: str | None = None
    ) -> Refreshed:
        """Keep a new pair, then make it the current one."""
        connection = attempt.connection
        held = await self.vault.keep(connection, pair, host)
        await self.reached("journalled")
        try:
            held = await self.vault.settle(connection, await self.current_after(connection, held))
        except NotConnectedError:  # a person ended it meanwhile, or put a long-lived token in its place
            await self.release(attempt.claim)
            raise
        await self.reached("saved")
        await self.release(attempt.claim)
        await self.reached("released")
        facts: dict[str, object] = {"host": held.host, "expires_at": held.expires_at.isoformat()}
        if moved_from is not None:
            self.announce("kommo.connection.moved", connection.org, {**facts, "moved_from": moved_from})
        self.announce("kommo.connection.refreshed", connection.org, facts)
        return Refreshed(held, called=True, moved_from=moved_from)

    async def current_after(self, connection: ConnectionRecord, held: HeldPair) -> HeldPair:
        """The pair that counts now: ours, unless we were stopped for so long that another process got ahead."""
        if held.in_block:
            return held  # the database is down: there is nothing to ask
        try:
            return await within(STORE_WITHIN, self._newest(connection.org, held))
        except (StoreError, BlocksUnavailableError, OSError):
            return held

    async def _newest(self, org: str, held: HeldPair) -> HeldPair:
        if await self.vault.is_current(org, held):
            return held
        return await self.vault.held(await refreshable(self.database, org))

    async def release(self, claim: Claim, step: str = "idle") -> None:
        """Give the claim back; a step that is not `idle` is what the next holder is told."""
        await self.quietly(release(self.database, claim, step))

    @staticmethod
    async def quietly(action: Coroutine[Any, Any, object]) -> None:
        """Do what time would do as well: a claim ends, a state is put right by the next refresh."""
        try:
            await within(STORE_WITHIN, action)
        except (StoreError, OSError) as error:
            _log.warning("left to time: %s", str(error) or "the database is silent")


async def refreshable(database: Database, org: str) -> ConnectionRecord:
    """The org's connection, if it has a pair that may be refreshed.

    Raises:
        NotConnectedError: it was disconnected, or has a long-lived token.
    """
    connection = await get_connection(database, org)
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
