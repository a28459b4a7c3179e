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
from tasks.errors import DataPlaneError, RefreshFailedError, sentence_of
from tasks.outbox import reauthorization_required

FIRST_PAUSE = 5.0
"""Seconds of the first rest after trouble that may pass by itself; doubled while it lasts."""
LONGEST_PAUSE = 60.0
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
            pause = max(1.0, error.retry_after)
    elif isinstance(error, RefreshFailedError | SlowReadError):
        pause = passing
    elif isinstance(error, DataPlaneError | StoreError):
        pause = PERSON_PAUSE
    else:
        _log.error("A turn of the webhook backlog failed", exc_info=error)
        pause = LONGEST_PAUSE
    return Trouble(sentence_of(error), pause)


async def note_trouble(database: Database, org: str, error: Exception, clock: Clock) -> None:
    """Let the connection's state say what only a person can put right; the refresh of a pair says it by itself (T4)."""
    if not (isinstance(error, KommoError) and error.final):
        return
    try:
        connection = await get_connection(database, org)
    except UnknownConnectionError:
        return
    reason, now = sentence_of(error), clock.now()
    if error.kind is ErrorKind.UNAUTHORIZED and connection.token_kind != PAIR:
        # A long-lived token cannot be refreshed, so this is final [D K/long-lived-token].
        if connection.state in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}:
            await set_state(
                database,
                org,
                ConnectionState.REAUTHORIZATION_REQUIRED,
                reason,
                reason_code="token_refused",
                events=reauthorization_required(org, "token_refused", reason, connection.host),
                now=now,
            )
    elif connection.state == ConnectionState.CONNECTED:
        await set_state(database, org, ConnectionState.DEGRADED, reason, reason_code=_REASON_CODE, now=now)


async def note_well(database: Database, connection: ConnectionRecord, clock: Clock) -> None:
    """Take back what `note_trouble` has said, once Kommo answers again."""
    if connection.state == ConnectionState.DEGRADED and connection.reason_code == _REASON_CODE:
        await set_state(database, connection.org, ConnectionState.CONNECTED, None, now=clock.now())
