"""The pair of tokens that an org has now, and how a new one is made safe before anybody uses it (T2).

Two places hold pairs: the journal in our database (every pair that was ever received, sealed) and the block in Prefect
(the current one, for people and other tools). Either may be out of reach for a while, and a process may die between
the two. So neither is believed alone: each pair names the fingerprint of the refresh token that was used up to get it,
and the current pair is the end of the chain that these links form. A block that an old process overwrote with an older
pair is thus no danger: the chain leads on from it.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NoReturn, Self

from pydantic import SecretStr

from blocks.connection import PAIR, KommoConnection
from kommo.claims import read_claims
from kommo.clock import Clock
from kommo.tokenpair import TokenPair, fingerprint
from store.connections import ConnectionRecord, ConnectionState, get_connection
from store.database import Database
from store.errors import SealBrokenError, StoreError, UnknownConnectionError
from store.fleet import pointed_pairs
from store.sealing import Sealer
from store.token_journal import Edge, JournalRow, Promotion, append_pair, chain, forget, get_pair, promote
from tasks.credentials import ConnectionBlocks
from tasks.errors import BlocksUnavailableError, NotConnectedError, PairNotSavedError, sentence_of
from tasks.outbox import connection_refreshed, integration_connected
from tasks.patience import within

KEEP_TRYING_SECONDS = 900.0
"""Seconds for which a pair that nobody else has is held on to while both the database and Prefect are down."""
STORE_WITHIN = 10.0
"""Seconds for one attempt at the store: one that has fallen silent must not keep a pair from the block."""
_LONGEST_PAUSE = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldPair:
    """A pair of an org, wherever it was found. Its repr shows no secret.

    Attributes:
        access_token: For API calls.
        refresh_token: Single use.
        expires_at: End of the access token, UTC.
        used: Fingerprint of what it was got with.
        host: Host of the account.
        account_id: Kommo's id of the account.
        in_block: The block holds exactly this pair.
    """

    access_token: SecretStr = field(repr=False)
    refresh_token: SecretStr = field(repr=False)
    expires_at: datetime
    used: str
    host: str
    account_id: int | None
    in_block: bool

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the refresh token: the name of this pair."""
        return fingerprint(self.refresh_token)

    @property
    def edge(self) -> Edge:
        """This pair as a link of the chain that only the block may know."""
        return Edge(used=self.used, fingerprint=self.fingerprint, promoted=True)

    @property
    def api_domain(self) -> str | None:
        """The host that knows where a moved account is, as the token names it, unverified [D K/limitations]."""
        return read_claims(self.access_token).api_domain

    @property
    def account_key(self) -> str:
        """The account's key in the request budget."""
        return f"account:{self.account_id or self.host}"

    @classmethod
    def of(cls, pair: TokenPair, host: str, account_id: int | None) -> Self:
        """A pair that has just been received."""
        return cls(
            access_token=pair.access_token,
            refresh_token=pair.refresh_token,
            expires_at=pair.expires_at,
            used=pair.used,
            host=host,
            account_id=pair.account_id or account_id,
            in_block=False,
        )


class Vault:
    """Reads and keeps the pairs of orgs.

    Args:
        database: Our own database.
        blocks: The connection blocks.
        sealer: Seals the journal.
        clock: Time and waiting.
    """

    def __init__(self, *, database: Database, blocks: ConnectionBlocks, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._blocks = blocks
        self._sealer = sealer
        self._clock = clock

    async def held(self, connection: ConnectionRecord) -> HeldPair:
        """The org's current pair.

        Raises:
            NotConnectedError: there is none.
            BlocksUnavailableError: only Prefect can have it, and Prefect does not answer.
            SealBrokenError: only the journal has it, and no key opens it.
        """
        block, outage = None, None
        try:
            block = await self._blocks.load(connection.org)
        except BlocksUnavailableError as error:
            outage = error
        known = await chain(self._database, connection.org)
        in_block = _from_block(block)
        path = known.path(*([in_block.edge] if in_block else []))
        if in_block is not None and (not path or path[-1] == in_block.fingerprint):
            return in_block
        row = await get_pair(self._database, connection.org, path[-1]) if path else None
        if row is not None:
            return self._open(row)
        if in_block is not None:
            # The store points to a pair that it has lost (a restored backup): the block is the best there is.
            return in_block
        if outage is not None:
            raise outage
        raise NotConnectedError(
            f"'{connection.org}' is known here, but its credentials are not on this Prefect server. Check "
            f"PREFECT_API_URL, or connect it again: kommo connect {connection.org} --browser"
        )

    async def is_current(self, org: str, held: HeldPair) -> bool:
        """Whether the chain ends with this pair, as far as the journal knows."""
        path = (await chain(self._database, org)).path(held.edge)
        return bool(path) and path[-1] == held.fingerprint

    async def spares(self, org: str) -> list[HeldPair]:
        """Pairs that were received and never used up, youngest first: what a repeated refresh may have left behind."""
        known = await chain(self._database, org)
        found: list[HeldPair] = []
        for name in known.spares():
            row = await get_pair(self._database, org, name)
            try:
                found += [self._open(row)] if row else []
            except SealBrokenError:
                _log.warning("a spare pair of %s cannot be opened any more", org)
        return found

    async def keep_first(self, org: str, pair: TokenPair, host: str) -> HeldPair:
        """Make the pair of a new consent durable, before anything uses it; no connection points to it yet.

        Raises:
            StoreError: the database does not take it. The person who consents is still there to do it again.
        """
        held = HeldPair.of(pair, host, None)
        await self._append(org, pair, held)
        return held

    async def keep(self, connection: ConnectionRecord, pair: TokenPair, host: str) -> HeldPair:
        """Make a new pair durable: in the journal, or if that is down in the block; nothing uses it before (T2).

        Raises:
            PairNotSavedError: both were down for `KEEP_TRYING_SECONDS`; the pair is lost with this process.
        """
        held = HeldPair.of(pair, host, connection.account_id)
        until, pause = self._clock.monotonic() + KEEP_TRYING_SECONDS, 0.1
        while True:
            try:
                await within(STORE_WITHIN, self._append(connection.org, pair, held))
            except Exception as error:  # noqa: BLE001 - whatever ails the database, nobody else has this pair
                _log.warning("the journal does not take a pair of %s: %s", connection.org, _why(error))
            else:
                return held
            try:
                await self._blocks.save(connection.org, block_of(connection, held, pair.scopes))
            except BlocksUnavailableError as error:
                _log.warning("the block does not take it either: %s", error)
            else:
                return replace(held, in_block=True)
            if self._clock.monotonic() > until:
                raise PairNotSavedError(
                    f"Kommo gave '{connection.org}' a new pair of tokens, and for {KEEP_TRYING_SECONDS / 60:.0f} "
                    "minutes neither the database nor Prefect took it. Start them and refresh again; if Kommo refuses, "
                    "authorize again."
                )
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def settle(self, connection: ConnectionRecord, held: HeldPair) -> HeldPair:
        """Bring the block and the store level with the current pair. What is down now is made good by the next reader.

        Returns:
            The pair, and whether the block has it now.

        Raises:
            NotConnectedError: the connection was ended meanwhile; the pair was forgotten, too.
        """
        claims = read_claims(held.access_token)
        if not held.in_block:
            try:
                await self._blocks.save(connection.org, block_of(connection, held, claims.scopes))
            except BlocksUnavailableError as error:
                _log.warning("the block of %s is behind its journal: %s", connection.org, error)
                return held
            held = replace(held, in_block=True)
        try:
            await within(STORE_WITHIN, self._point_to(connection, held))
        except (StoreError, OSError) as error:
            _log.warning("the store is behind the block of %s: %s", connection.org, _why(error))
        return held

    async def _point_to(self, connection: ConnectionRecord, held: HeldPair) -> None:
        if await self._promote(connection, held) is Promotion.GONE:
            if await self._is_ended(connection.org):
                await self._withdraw(connection.org, held)
            # The journal was down when the pair came, so that only the block has it: now it gets it.
            await self._append(connection.org, _pair_of(held, self._clock.now()), held)
            await self._promote(connection, held)

    async def _promote(self, connection: ConnectionRecord, held: HeldPair) -> Promotion:
        return await promote(
            self._database,
            connection.org,
            held.fingerprint,
            expires_at=held.expires_at,
            host=held.host,
            scopes=read_claims(held.access_token).scopes,
            recovered=[integration_connected(connection.org, connection.account_id, connection.account_name)],
            refreshed=[connection_refreshed(connection.org, held.host, held.expires_at, held.fingerprint)],
            now=self._clock.now(),
        )

    async def _is_ended(self, org: str) -> bool:
        try:
            return (await get_connection(self._database, org)).state == ConnectionState.DISCONNECTED
        except UnknownConnectionError:
            return True

    async def _withdraw(self, org: str, held: HeldPair) -> NoReturn:
        """A person ended the connection while this pair was on its way: it is not to come back."""
        block = await self._blocks.load(org)
        if block is not None and fingerprint(block.refresh_token) == held.fingerprint:
            await self._blocks.delete(org)
        await forget(self._database, org, held.fingerprint)
        raise NotConnectedError(
            f"'{org}' was disconnected while its tokens were refreshed; they were forgotten."
        )

    async def _append(self, org: str, pair: TokenPair, held: HeldPair) -> None:
        await append_pair(
            self._database,
            org=org,
            used=pair.used,
            fingerprint=pair.fingerprint,
            sealed=self._sealer.seal(pair.to_json()),
            host=held.host,
            account_id=held.account_id,
            expires_at=pair.expires_at,
            now=self._clock.now(),
        )

    async def read_ahead(self, orgs: Sequence[str]) -> dict[str, HeldPair]:
        """The pairs of many orgs in one question to the journal; for what reads, not for what refreshes.

        Left out is whoever's journal does not say it at a glance. If only the block has a newer pair (the journal was
        down when it came), Kommo refuses the one from here at worst, and whoever is refused looks into the block.
        """
        found: dict[str, HeldPair] = {}
        for org, row in (await pointed_pairs(self._database, orgs)).items():
            with contextlib.suppress(SealBrokenError):  # the block may have it all the same
                found[org] = replace(self._open(row), in_block=row.promoted_at is not None)
        return found

    def _open(self, row: JournalRow) -> HeldPair:
        pair = TokenPair.from_json(self._sealer.open(row.sealed))
        return HeldPair.of(pair, row.host, row.account_id)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"The database has not answered for {STORE_WITHIN:.0f} s."
    return sentence_of(error)


def block_of(connection: ConnectionRecord, held: HeldPair, scopes: Sequence[str]) -> KommoConnection:
    """The block that holds this pair."""
    return KommoConnection(
        org=connection.org,
        host=held.host,
        account_id=held.account_id,
        token_kind=PAIR,
        access_token=held.access_token,
        refresh_token=held.refresh_token,
        used=held.used,
        expires_at=held.expires_at,
        scopes=list(scopes),
    )


def _pair_of(held: HeldPair, now: datetime) -> TokenPair:
    """A pair that only the block has, as the journal keeps it."""
    claims = read_claims(held.access_token)
    return TokenPair(
        access_token=held.access_token,
        refresh_token=held.refresh_token,
        expires_at=held.expires_at,
        received_at=now,
        used=held.used,
        account_id=held.account_id,
        scopes=tuple(claims.scopes),
        api_domain=claims.api_domain,
        issued_at=claims.issued_at,
    )


def _from_block(block: KommoConnection | None) -> HeldPair | None:
    if block is None or block.token_kind != PAIR or block.expires_at is None:
        return None
    return HeldPair(
        access_token=block.access_token,
        refresh_token=block.refresh_token,
        expires_at=block.expires_at,
        used=block.used,
        host=block.host,
        account_id=block.account_id,
        in_block=True,
    )
