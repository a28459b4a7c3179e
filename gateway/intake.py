"""Taking deliveries in: many requests, one transaction (W1).

While one transaction commits, the next one gathers; so a commit is paid for by all who came meanwhile, and nobody waits
for more than two. Whoever would have to wait for long is sent away at once: Kommo comes again, but it does not wait.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from kommo.clock import Clock, SystemClock
from store.errors import DatabaseForbiddenError, DatabaseUnavailableError
from store.inbox import NewDelivery, Saved

Save = Callable[[Sequence[NewDelivery]], Awaitable[Sequence[Saved]]]

_TICK = 0.05
_TOLD_EVERY = 60.0

_log = logging.getLogger("gateway.intake")


@dataclass(frozen=True)
class Capacity:
    """What the intake takes on.

    Attributes:
        at_once: Requests under way. So many are about half a second's work; more would only wait for each other.
        bytes: Bytes of bodies in memory.
        batch: Deliveries in one transaction.
        batch_bytes: Bytes of bodies in one transaction; a single larger one is taken by itself.
        batch_events: Likewise of events: a small body may tell of thousands.
        patience: Whoever would wait for longer than so many seconds is refused.
        longest: Whoever has waited for the database for so many seconds is sent away.
        given_up: Whoever gets the answer only after so many seconds does not hear it: Kommo gives up after two.
        few: So many under way are no cause of a slow event loop; they are let in even when it is.
        commit_seconds: A transaction that takes longer is given up.
        pace: A transaction begins at least so many seconds after the one before: it has a price of its own, and many
            small ones take the processor from the requests. Whoever comes alone does not wait.
    """

    at_once: int = 400
    bytes: int = 64 * 1024 * 1024
    batch: int = 200
    batch_bytes: int = 4 * 1024 * 1024
    batch_events: int = 5000
    patience: float = 1.0
    longest: float = 1.5
    given_up: float = 1.8
    few: int = 50
    commit_seconds: float = 10.0
    pace: float = 0.01


class TooBusyError(Exception):
    """What was brought could not be written in time. It may be written yet: a repetition is flagged then."""


@dataclass(eq=False, slots=True)
class _Waiting:
    deliveries: Sequence[NewDelivery]
    size: int
    since: float
    answer: "asyncio.Future[None]"


@dataclass
class _Counts:
    """What has happened since it was last told."""

    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    since: float = field(default=0.0)


class Intake:
    """The one writer of this process.

    Args:
        save: Writes deliveries in one transaction.
        clock: Source of time.
        capacity: What it takes on.
    """

    def __init__(self, save: Save, *, clock: Clock | None = None, capacity: Capacity | None = None) -> None:
        self._save = save
        self._clock = clock or SystemClock()
        self._capacity = capacity or Capacity()
        self._queue: deque[_Waiting] = deque()
        self._committing: list[_Waiting] = []
        self._bytes = self._at_work = 0
        self._began = 0.0
        self._usual = 0.0
        self._late = self._late_once = 0.0
        self._wake = asyncio.Event()
        self._ticking = False
        self._closing = False
        self._counts = _Counts(since=self._clock.monotonic())
        self._totals = {"stored": 0, "repeated": 0, "refused": 0}

    @property
    def totals(self) -> Mapping[str, int]:
        """Deliveries since the process began: stored, repeated (among those stored), refused."""
        return self._totals

    @property
    def is_busy(self) -> bool:
        """Whether a delivery that comes now would have to wait for too long."""
        if self._closing or self._at_work >= self._capacity.at_once:
            return True
        if self._bytes >= self._capacity.bytes:
            return True
        # A request is three turns of the event loop: heard, taken on, answered.
        if 3 * self._late > self._capacity.given_up and self._at_work >= self._capacity.few:
            return True
        return self._expected_wait() > self._capacity.patience

    def refuse(self) -> None:
        """Count a request that was sent away."""
        self._counts.refused += 1
        self._totals["refused"] += 1

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request from its first word to its answer.

        Raises:
            TooBusyError: It would have to wait for too long; or, at the end, it has waited for too long.
        """
        if self.is_busy:
            raise TooBusyError
        self._at_work += 1
        began = self._clock.monotonic()
        try:
            yield
            # It waited to be heard, and waits to be answered, for a turn of the event loop each.
            if self._clock.monotonic() - began + 2 * self._late > self._capacity.given_up:
                raise TooBusyError  # whoever sent it has given up; a repetition is flagged
        finally:
            self._at_work -= 1

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count bytes of a body as long as they are in memory."""
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    async def put(self, deliveries: Sequence[NewDelivery]) -> None:
        """Have deliveries written; when this returns they are on the disk.

        Raises:
            TooBusyError: They could not be written in time.
        """
        if self._closing:
            raise TooBusyError
        size = sum(len(one.body) for one in deliveries)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        since = self._clock.monotonic()
        self._queue.append(_Waiting(deliveries, size, since, answer))
        self._wake.set()
        if not self._ticking:
            self._ticking = True
            self._tick_later()
        await answer

    async def run(self) -> None:
        """Write until `close`, then what is left."""
        while not (self._closing and not self._queue):
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
            early = self._began + self._capacity.pace - self._clock.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            batch = self._take()
            if not batch:
                continue
            self._committing = batch
            try:
                await self._commit(batch)
            finally:
                self._committing = []
                _answer(batch, TooBusyError())  # those that have not got one

    def close(self) -> None:
        """Take nothing more, and let `run` end once all is written."""
        self._closing = True
        self._wake.set()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        number = size = events = 0
        most = self._capacity
        while self._queue and number < most.batch and size < most.batch_bytes and events < most.batch_events:
            waiting = self._queue.popleft()
            if waiting.answer.done():  # it was sent away, or its request was cancelled
                continue
            batch.append(waiting)
            number += len(waiting.deliveries)
            size += waiting.size
            events += sum(len(one.events) for one in waiting.deliveries)
        return batch

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        self._began = self._clock.monotonic()
        try:
            await self._write(batch)
        except (DatabaseUnavailableError, DatabaseForbiddenError, TimeoutError) as error:
            _log.error(
                "%d deliveries were not written: %s",
                len(batch),
                str(error) or "the database took too long; Kommo brings them again",
            )
        except Exception as error:  # noqa: BLE001 - one that cannot be written must not take the others with it
            await self._one_by_one(batch, error)
        took = self._clock.monotonic() - self._began
        self._usual += (took - self._usual) * 0.3

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        async with asyncio.timeout(self._capacity.commit_seconds):
            saved = await self._save([one for waiting in batch for one in waiting.deliveries])
        _answer(batch, None)
        self._counts.stored += len(saved)
        repeated = sum(one.duplicates > 0 for one in saved)
        self._counts.duplicates += repeated
        self._totals["stored"] += len(saved)
        self._totals["repeated"] += repeated

    async def _one_by_one(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Write what can be written. What cannot is kept as its bytes, with the reason."""
        if len(batch) > 1:
            for waiting in batch:
                await self._commit([waiting])
            return
        (waiting,) = batch
        _log.error("a delivery is kept unread: its events cannot be written (%s)", type(error).__name__)
        reason = f"Its events could not be written ({type(error).__name__}). That is a fault of this program."
        waiting.deliveries = [replace(one, events=(), reason=reason) for one in waiting.deliveries]
        try:
            await self._write(batch)
        except Exception as again:  # noqa: BLE001 - the writer must live
            _log.error("a delivery was not written (%s)", type(again).__name__)

    def _expected_wait(self) -> float:
        # All who wait go with the next transaction, unless they are more than it takes.
        wait = self._usual * (1 + len(self._queue) // self._capacity.batch)
        if self._committing:
            # One that takes long already will go on for as long, as far as anybody knows.
            passed = self._clock.monotonic() - self._began
            wait += max(self._usual - passed, passed if passed > 2 * self._usual else 0.0)
        return wait

    def _tick_later(self) -> None:
        due = self._clock.monotonic() + _TICK
        asyncio.get_running_loop().call_later(_TICK, self._tick, due)

    def _tick(self, due: float) -> None:
        """Measure how late the event loop is, and send away who has waited for too long."""
        now = self._clock.monotonic()
        # The lesser of two: once late is a hiccup, and each 503 counts against the subscription at Kommo.
        before, self._late_once = self._late_once, max(now - due, 0.0)
        self._late = min(before, self._late_once)
        oldest = now - self._capacity.longest
        for waiting in self._committing:
            if waiting.since > oldest:
                break
            _answer([waiting], TooBusyError())
        while self._queue and self._queue[0].since <= oldest:
            _answer([self._queue.popleft()], TooBusyError())
        if now - self._counts.since >= _TOLD_EVERY:
            self._tell(now)
        if self._queue or self._committing or self._late_once > _TICK or self._counts.stored:
            self._tick_later()
        else:
            self._ticking, self._late, self._late_once = False, 0.0, 0.0

    def _tell(self, now: float) -> None:
        counts, self._counts = self._counts, _Counts(since=now)
        _log.info(
            "in %.0f s: %d deliveries taken in (%d with repetitions), %d refused",
            now - counts.since,
            counts.stored,
            counts.duplicates,
            counts.refused,
        )


def _answer(batch: Sequence[_Waiting], error: Exception | None) -> None:
    for waiting in batch:
        if waiting.answer.done():
            continue
        if error is None:
            waiting.answer.set_result(None)
        else:
            waiting.answer.set_exception(error)


@asynccontextmanager
async def running_intake(
    save: Save, *, clock: Clock | None = None, capacity: Capacity | None = None
) -> AsyncIterator[Intake]:
    """An intake that writes; at the end, what it has taken on is written."""
    intake = Intake(save, clock=clock, capacity=capacity)
    writer = asyncio.create_task(intake.run(), name="webhook intake")
    try:
        yield intake
    finally:
        intake.close()
        await writer
