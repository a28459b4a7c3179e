"""Time and chance, handed in from outside, so that a test can run an hour of backing off in a millisecond."""

import asyncio
import secrets
import time
from datetime import UTC, datetime
from typing import Protocol

_RANDOM = secrets.SystemRandom()


class Clock(Protocol):
    """Everything in this package that waits, dates or rolls dice does so through one of these."""

    def now(self) -> datetime:
        """Return the present moment as an aware datetime in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let other work run for at least this many seconds (0 or less: one turn of the loop)."""
        ...

    def random(self) -> float:
        """Return a random number in [0, 1)."""
        ...


class SystemClock:
    """The real clock of this process."""

    def now(self) -> datetime:
        """Return the present moment as an aware datetime in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean something."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let other work run for at least this many seconds (0 or less: one turn of the loop)."""
        await asyncio.sleep(max(0.0, seconds))

    def random(self) -> float:
        """Return a random number in [0, 1)."""
        return _RANDOM.random()
