"""What one refresh consists of: its steps, what was wanted, what is known of the attempt, what came of it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from pydantic import SecretStr

from store.claims import Claim
from store.connections import ConnectionRecord
from tasks.errors import ClaimLostError
from tasks.vault import HeldPair

Step = Literal["wanted", "claimed", "reread", "calling", "answered", "journalled", "saved", "released"]
STEPS: tuple[Step, ...] = (
    "wanted",
    "claimed",
    "reread",
    "calling",
    "answered",
    "journalled",
    "saved",
    "released",
)
"""The points at which a process may die, in order; tests kill it at each."""
Reached = Callable[[Step], Awaitable[None]]
"""Told of every step."""
Announce = Callable[[str, str, dict[str, object]], None]
"""Told of an event, its org and the facts."""

_T = TypeVar("_T")


async def silent(step: Step) -> None:
    """Nobody listens to the steps."""
    del step


def unheard(event: str, org: str, facts: dict[str, object]) -> None:
    """Nobody listens to the events."""
    del event, org, facts


@dataclass(frozen=True)
class Refreshed:
    """What came of wanting a fresh pair."""

    pair: HeldPair
    called: bool
    """This call refreshed it; otherwise the pair was good, or somebody else did."""
    moved_from: str | None = None
    """The account's former host, if it has moved."""


@dataclass(frozen=True)
class Wanted:
    """What makes a pair good enough.

    Attributes:
        margin: How long its access token must still be good.
        refused: An access token that Kommo has just refused.
        not_fingerprint: The pair that is to be replaced whatever its age.
    """

    margin: timedelta
    refused: SecretStr | None
    not_fingerprint: str | None

    def is_met_by(self, held: HeldPair, now: datetime) -> bool:
        """Whether this pair will do."""
        if held.fingerprint == self.not_fingerprint:
            return False
        if self.refused is not None and held.access_token == self.refused:
            return False
        return held.expires_at - now > self.margin


@dataclass
class Attempt:
    """One refresh under a claim.

    Attributes:
        connection: As it was read under the claim.
        claim: The claim.
        send_before: The moment (monotonic) after which Kommo may not be called any more.
        seen: The pointer that a verdict rests on, see `pointer_seen`.
        unknown: Kommo may have used up the token without anybody seeing the answer.
        noted: It is written down that Kommo is being called: the note must outlive this process.
    """

    connection: ConnectionRecord
    claim: Claim
    send_before: float
    seen: str | None = None
    unknown: bool = False
    noted: bool = False

    @property
    def org(self) -> str:
        """The org that is refreshed."""
        return self.connection.org


def pointer_seen(connection: ConnectionRecord, held: HeldPair) -> str | None:
    """The pointer that a verdict rests on; None while the store is behind the pair that was tried."""
    return held.fingerprint if connection.token_fingerprint == held.fingerprint else None


def claim_lost(org: str) -> ClaimLostError:
    """The error of a process that was held up until its claim was no good any more."""
    return ClaimLostError(
        f"This process was held up while it refreshed '{org}', and another one may have taken over. Nothing was sent; "
        "the next attempt finds what the other one got."
    )


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Finish even if we are cancelled meanwhile, also again and again; then let the cancellation go on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
