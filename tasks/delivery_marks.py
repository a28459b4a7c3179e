"""Writes down what came of attempts: many together, of all orgs that a run has, and keeps its turns up meanwhile.

A commit costs the same for one mark as for a hundred. So what comes while one transaction is under way, and for a
moment after it, is written by the next. An attempt that was taken by the product but is not marked yet is sent again if
the run dies here: at least once, under the same id.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from kommo.clock import Clock
from store.database import Database
from store.errors import DatabaseUnavailableError
from store.outbox_turns import Mark, OutboxTurn, end_outbox_turns, mark_outbox
from tasks.waiting import set_or_after

OUTAGE_SECONDS = 60.0
"""A run that cannot reach the database for so long fails; the events are where they were."""
_DISTANCE = 0.05
_MOST = 1000
_AGAIN = 0.5
_LAST_WORD = 5.0

_log = logging.getLogger(__name__)


@dataclass
class HeldTurn:
    """A turn that this run has.

    Attributes:
        turn: From the store.
        good_until: On the clock's `monotonic`: nothing is sent after it, because another run may have the org by then.
        lost: Another run has it.
    """

    turn: OutboxTurn
    good_until: float
    lost: bool = False


@dataclass
class _Waiting:
    mark: Mark
    done: asyncio.Future[bool] = field(repr=False)


class Marker:
    """Marks and turns of one run. `work` runs beside the deliveries; `close` lets it end when all is written.

    Args:
        database: The store.
        clock: Source of time.
        owner: Whose turns these are.
        turn_seconds: How long a turn lasts unless it is kept up.
        send_seconds: How long before its end nothing is sent any more: an attempt may last so long.
    """

    def __init__(
        self, database: Database, clock: Clock, owner: str, *, turn_seconds: float, send_seconds: float
    ) -> None:
        self._database = database
        self._clock = clock
        self._owner = owner
        self._turn_seconds = turn_seconds
        self._good_for = turn_seconds - send_seconds
        self._turns: dict[str, HeldTurn] = {}
        self._waiting: list[_Waiting] = []
        self._ended: list[tuple[OutboxTurn, asyncio.Future[None]]] = []
        self._woken = asyncio.Event()
        self._closing = False

    def hold(self, turns: Sequence[OutboxTurn], asked_at: float) -> list[HeldTurn]:
        """Keep turns up from now on.

        Args:
            turns: Just taken.
            asked_at: `monotonic` from before they were taken.
        """
        held = [HeldTurn(turn, asked_at + self._good_for) for turn in turns]
        self._turns |= {one.turn.org: one for one in held}
        return held

    async def end(self, held: HeldTurn) -> None:
        """Give a turn back; others can take it when this returns."""
        if self._turns.get(held.turn.org) is held:
            del self._turns[held.turn.org]
        if held.lost:
            return
        done = asyncio.get_running_loop().create_future()
        self._ended.append((held.turn, done))
        self._woken.set()
        await done

    def mark(self, mark: Mark) -> asyncio.Future[bool]:
        """Write a mark, soon; the answer is whether it was, which it is not if the turn was lost."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(mark, done))
        self._woken.set()
        return done

    def close(self) -> None:
        """Let `work` end when all is written."""
        self._closing = True
        self._woken.set()

    async def work(self) -> None:
        """Write what comes, until it is closed.

        Raises:
            DatabaseUnavailableError: the database was away for too long.
        """
        away_since: float | None = None
        while not (self._closing and not self._waiting and not self._ended):
            # Turns are kept up also while there is nothing to write.
            await set_or_after(self._woken, self._clock, self._turn_seconds / 6)
            try:
                await self._write()
            except DatabaseUnavailableError:
                now = self._clock.monotonic()
                away_since = now if away_since is None else away_since
                if now - away_since > OUTAGE_SECONDS:
                    raise
                _log.warning("The database does not answer; what was told waits to be marked.")
                self._woken.set()
                await self._clock.sleep(_AGAIN)
            else:
                away_since = None
                if not self._closing:
                    await self._clock.sleep(_DISTANCE)

    async def finish(self) -> None:
        """Write what is left and give all turns back, as far as the database lets us; nothing may be under way."""
        if not (self._waiting or self._turns):
            return
        try:
            async with asyncio.timeout(_LAST_WORD):
                await self._write()
                turns = [held.turn for held in self._turns.values()]
                await end_outbox_turns(self._database, self._owner, turns)
        except (DatabaseUnavailableError, TimeoutError):
            _log.warning("What was told last could not be marked; it will be told once more.")

    async def _write(self) -> None:
        batch, begun = self._waiting[:_MOST], self._clock.monotonic()
        held = list(self._turns.values())
        if held:
            kept = await mark_outbox(
                self._database,
                self._owner,
                [one.turn for one in held],
                [one.mark for one in batch],
                self._turn_seconds,
                moment=self._clock.now(),
                now=self._seconds,
            )
            for one in held:
                one.lost = one.turn.org not in kept
                one.good_until = begun + self._good_for
                if one.lost and self._turns.get(one.turn.org) is one:
                    del self._turns[one.turn.org]
        else:
            kept = set()
        del self._waiting[: len(batch)]
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_result(waiting.mark.org in kept)
        ended = self._ended[:]
        await end_outbox_turns(self._database, self._owner, [turn for turn, _ in ended])
        del self._ended[: len(ended)]
        for _, done in ended:
            if not done.done():
                done.set_result(None)
        if self._waiting or self._ended:
            self._woken.set()

    def _seconds(self) -> float:
        return self._clock.now().timestamp()
