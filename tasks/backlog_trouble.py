"""Trouble that no event is to blame for: how long an org rests, and what its connection's state says of it."""

import logging
from dataclasses import dataclass

from kommo.clock import Clock
from kommo.errors import ErrorKind, KommoError
from store.connections import (
    PAIR,
    ConnectionRecord,
    ConnectionState,
    get_connection,
    set_state,
)
from store.database import Database
from store.errors import StoreError, UnknownConnectionError
from tasks.errors import DataPlaneError, RefreshFailedError, place_of, sentence_of
from tasks.outbox import reauthorization_required

FIRST_PAUSE = 5.0
"""Seconds of the first rest after trouble that may pass by itself; doubled while it lasts."""
LONGEST_PAUSE = 60.0
LONGEST_ASKED = 900.0
"""Seconds that Kommo can make an org rest for by one answer; after it, it is asked again."""
PERSON_PAUSE = 120.0
"""Seconds of rest while a person has to act: their help takes effect after so long at the latest."""
_REASON_CODE = "webhook_backlog"

_log = logging.getLogger(__name__)


class SlowReadError(DataPlaneError):
    """Kommo did not answer while the turn lasted."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an org has to rest, and for how many seconds."""

    reason: str
    pause: float


def trouble_of(error: Exception, before: int) -> Trouble:
    """How long an org has to rest after this.

    Args:
        error: What happened.
        before: How many rests in a row it has had before this one.
    """
    passing = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(before, 10))
    if isinstance(error, KommoError):
        pause = PERSON_PAUSE if error.final else passing
        if error.kind is ErrorKind.IP_BLOCKED:
            pause = LONGEST_PAUSE
        if error.retry_after is not None:
            pause = min(max(1.0, error.retry_after), LONGEST_ASKED)
    elif isinstance(error, RefreshFailedError | SlowReadError):
        pause = passing
    elif isinstance(error, DataPlaneError | StoreError):
        pause = PERSON_PAUSE
    else:
        # Not its text: it may hold what customers wrote.
        _log.error("A turn of the webhook backlog failed: %s at %s", type(error).__name__, place_of(error))
        pause = LONGEST_PAUSE
    return Trouble(sentence_of(error), pause)


async def note_trouble(
    database: Database, org: str, error: Exception, clock: Clock, *, serial: int | None
) -> None:
    """Let the connection's state say what only a person can put right; the refresh of a pair says it by itself (T4).

    Args:
        database: The store.
        org: The product's tenant.
        error: What happened.
        clock: Source of time.
        serial: The token that it happened with: of another one that was put in its place meanwhile it says nothing.
    """
    if not (isinstance(error, KommoError) and error.final):
        return
    try:
        await _note(database, await get_connection(database, org), error, clock, serial)
    except UnknownConnectionError:
        return


async def _note(
    database: Database, connection: ConnectionRecord, error: KommoError, clock: Clock, serial: int | None
) -> None:
    org, reason, now = connection.org, sentence_of(error), clock.now()
    was = (connection.state, connection.reason_code)
    if error.kind is ErrorKind.UNAUTHORIZED and connection.token_kind != PAIR:
        # A long-lived token cannot be refreshed, so this is final [D K/long-lived-token].
        if connection.state in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}:
            await set_state(
                database,
                org,
                ConnectionState.REAUTHORIZATION_REQUIRED,
                reason,
                reason_code="token_refused",
                serial=serial,
                was=was,
                events=reauthorization_required(org, "token_refused", reason, connection.host),
                now=now,
            )
    elif connection.state == ConnectionState.CONNECTED:
        await set_state(
            database,
            org,
            ConnectionState.DEGRADED,
            reason,
            reason_code=_REASON_CODE,
            serial=serial,
            was=was,
            now=now,
        )


async def note_well(database: Database, connection: ConnectionRecord, clock: Clock) -> None:
    """Take back what `note_trouble` has said, once Kommo answers again."""
    if connection.state == ConnectionState.DEGRADED and connection.reason_code == _REASON_CODE:
        # Unless somebody has found out something else meanwhile, or has ended it.
        was = (connection.state, connection.reason_code)
        await set_state(database, connection.org, ConnectionState.CONNECTED, None, was=was, now=clock.now())
