"""W2: webhooks that nobody works off are told to Prefect, seldom, and never at the expense of taking them in."""

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.waking import LOOK_EVERY, LYING_SECONDS, TELL_EVERY, keep_awake
from store.errors import DatabaseUnavailableError
from tests.kommo_api.support import InstantClock


class _Ending(InstantClock):
    """Ends whoever sleeps on it after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = self.time + seconds

    async def sleep(self, seconds: float) -> None:
        if self.time >= self.end:
            raise asyncio.CancelledError
        await super().sleep(seconds)


@dataclass
class _Gateway:
    """What it has stored and when; whether that lies from some moment on; what was looked at and told."""

    clock: _Ending
    stored_at: list[float]
    lies_from: float = float("inf")
    lies_until: float = float("inf")
    failing: Exception | None = None
    looks: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

    async def run(self) -> None:
        begin = self.clock.time
        with pytest.raises(asyncio.CancelledError):
            await keep_awake(
                lambda: sum(at <= self.clock.time - begin for at in self.stored_at),
                self._lies,
                self._tell,
                self.clock,
            )
        self.looks = [at - begin for at in self.looks]
        self.told = [at - begin for at in self.told]

    async def _lies(self) -> bool:
        self.looks.append(self.clock.time)
        if self.failing is not None:
            failing, self.failing = self.failing, None
            raise failing
        passed = self.clock.time - (self.clock.end - 600)
        return self.lies_from <= passed < self.lies_until

    async def _tell(self) -> None:
        self.told.append(self.clock.time)


async def test_while_nothing_comes_nothing_is_asked() -> None:
    gateway = _Gateway(_Ending(600), [])
    await gateway.run()
    assert gateway.looks == []


async def test_what_is_worked_off_at_once_is_looked_at_until_it_could_have_been_left_lying_and_not_told() -> (
    None
):
    gateway = _Gateway(_Ending(600), [100.0])
    await gateway.run()
    assert gateway.looks[0] - 100 <= LOOK_EVERY
    assert LYING_SECONDS <= gateway.looks[-1] - 100 <= LYING_SECONDS + 2 * LOOK_EVERY
    assert gateway.told == []


async def test_what_lies_is_told_at_once_and_again_until_somebody_has_come() -> None:
    gateway = _Gateway(_Ending(600), [100.0], lies_from=105.0, lies_until=200.0)
    await gateway.run()
    assert gateway.told[0] - 100 <= LYING_SECONDS + LOOK_EVERY
    assert [b - a for a, b in zip(gateway.told, gateway.told[1:], strict=False)] == [TELL_EVERY] * 3
    assert gateway.looks[-1] <= 200 + LOOK_EVERY, "then nothing is asked any more"


@pytest.mark.parametrize(
    "failing", [DatabaseUnavailableError("The database is away."), ConnectionError("Prefect is away.")]
)
async def test_a_failure_ends_nothing(failing: Exception) -> None:
    gateway = _Gateway(_Ending(600), [100.0], lies_from=100.0, failing=failing)
    await gateway.run()
    assert gateway.told
