"""Looks at an installation twice a second: who answers, and how old the oldest thing is that waits."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import asyncpg
import httpx

from tests.service.house import House

EVERY = 0.5
_WAITING = (
    ("backlog", "select min(received_at) from webhook_event where state = 'pending'"),
    ("outbox", "select min(created_at) from outbox where state = 'pending'"),
)


@dataclass
class Sample:
    """One look.

    Attributes:
        at: Unix time.
        good: Who answers as it should.
        age: Seconds that the oldest waits, of what; None where the database could not be asked.
        heard: When the worker that was heard of longest ago was heard of (Unix time).
    """

    at: float
    good: dict[str, bool] = field(default_factory=dict)
    age: dict[str, float | None] = field(default_factory=dict)
    heard: float | None = None

    def well(self, bounds: dict[str, float]) -> bool:
        """Whether all answer, and nothing waits for longer than it may."""
        return all(self.good.values()) and all(
            age is not None and age <= bounds[name] for name, age in self.age.items()
        )


class Watch:
    """All looks so far."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def since(self, moment: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.at >= moment]

    def down(self, name: str, moment: float) -> float:
        """Seconds that someone did not answer, since a moment."""
        return EVERY * sum(not sample.good[name] for sample in self.since(moment))

    def oldest(self, name: str, moment: float) -> float:
        """The most that something waited, since a moment."""
        return max((sample.age[name] or 0.0 for sample in self.since(moment)), default=0.0)

    def all_heard(self, moment: float) -> float | None:
        """Seconds from a moment until every worker had said that it lives; None if one has not."""
        for sample in self.since(moment):
            if sample.heard is not None and sample.heard > moment:
                return round(sample.at - moment, 1)
        return None

    def recovered(self, moment: float, bounds: dict[str, float], calm: float) -> float | None:
        """Seconds from a moment until all was well and stayed so for a while; None if it is not yet."""
        last = moment
        for sample in self.since(moment):
            if not sample.well(bounds):
                last = sample.at
        found = self.since(moment)
        return None if not found or found[-1].at - last < calm else last - moment


@asynccontextmanager
async def watching(house: House) -> AsyncIterator[Watch]:
    """Look while the block runs."""
    watch = Watch()
    async with httpx.AsyncClient(timeout=3) as client:

        async def answers(url: str) -> bool:
            try:
                return (await client.get(url)).status_code == 200
            except httpx.HTTPError:
                return False

        doors = {
            "gateway": f"{house.gateway}/readyz",
            "api": f"{house.api()}/ready",
            "other api": f"{house.api('other_api')}/ready",
        }

        async def look() -> None:
            sample = Sample(time.time())
            good = await asyncio.gather(*(answers(url) for url in doors.values()))
            sample.good = dict(zip(doors, good, strict=True))
            sample.age, sample.heard = await _ages(house), await _heard(house)
            watch.samples.append(sample)
            await asyncio.to_thread(_write, house.folder / "logs" / "watch.jsonl", sample)

        task = asyncio.create_task(_every(EVERY, look))
        try:
            yield watch
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _write(file: Path, sample: Sample) -> None:
    with file.open("a") as log:
        log.write(json.dumps(asdict(sample)) + "\n")


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    while True:
        begun = time.monotonic()
        await action()
        await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))


async def _ages(house: House) -> dict[str, float | None]:
    ages: dict[str, float | None] = {name: None for name, _ in _WAITING}
    try:
        async with asyncio.timeout(3):
            for name, query in _WAITING:
                [row] = await house.sql(query)
                ages[name] = 0.0 if row[0] is None else time.time() - row[0].timestamp()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        pass
    return ages


async def _heard(house: House) -> float | None:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        async with asyncio.timeout(3):
            [row] = await house.sql("select min(last_heartbeat_time) from worker", database="prefect")
            return None if row[0] is None else float(row[0].timestamp())
    return None
