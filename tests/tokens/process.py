"""A process that wants a fresh pair, forked from a server that has everything imported already."""

import asyncio
import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks.app import KommoApp
from kommo.clock import SystemClock
from store.database import Database
from tasks.attempt import Step
from tasks.credentials import PrefectBlocks
from tests.tokens.support import FileBlocks, Installation, OffsetClock

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.tokens.process"])


@dataclass(frozen=True)
class Wish:
    """What a process is to do.

    Attributes:
        place: URL and schema of the database.
        folder: Where the blocks are.
        app: Fields of the KommoApp block, secrets in the clear.
        offset: Seconds that the clock is ahead.
        org: The org.
        claim_seconds: How long a claim lasts.
        die_at: Kill ourselves when this step is reached.
        stop_at: Stop ourselves (SIGSTOP) when this step is reached, once.
        prefect: Address of a Prefect server's API that keeps the blocks instead of the folder; all waiting takes its
            time then, as it does with real servers.
    """

    place: tuple[str, str]
    folder: str
    app: Mapping[str, str]
    offset: float
    org: str = "acme"
    claim_seconds: float = 1.0
    die_at: Step | None = None
    stop_at: Step | None = None
    prefect: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a process ended: the access token's fingerprint, or the error's name; and when it was at each step."""

    exit_code: int
    access: str | None = None
    error: str | None = None
    steps: Mapping[str, float] = field(default_factory=dict)


def digest(token: SecretStr) -> str:
    """A token that may be compared and shown."""
    return hashlib.sha256(token.get_secret_value().encode()).hexdigest()[:16]


class PatientClock(OffsetClock):
    """Backing off takes its time."""

    async def sleep(self, seconds: float) -> None:
        await SystemClock.sleep(self, seconds)


def _work(wish: Wish, pipe: "Connection[Any, Any]") -> None:
    steps: dict[str, float] = {}

    async def reached(step: Step) -> None:
        steps[step] = time.monotonic()
        if step == wish.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == wish.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    async def work() -> str:
        async with Database.open(*wish.place) as database, AsyncExitStack() as stack:
            clock = PatientClock(wish.offset) if wish.prefect else OffsetClock(wish.offset)
            here = Installation(database, FileBlocks(Path(wish.folder)), _app(wish.app), clock)
            blocks = await stack.enter_async_context(PrefectBlocks()) if wish.prefect else None
            async with here.refresher(
                reached=reached, claim_seconds=wish.claim_seconds, blocks=blocks
            ) as refresher:
                return digest((await refresher.fresh(wish.org)).pair.access_token)

    try:
        with temporary_settings({PREFECT_API_URL: wish.prefect} if wish.prefect else {}):
            pipe.send((asyncio.run(work()), None, steps))
    except Exception as error:  # noqa: BLE001 - told to the test
        pipe.send((None, f"{type(error).__name__}: {error}", steps))


def _app(fields: Mapping[str, str]) -> KommoApp:
    return KommoApp(
        client_id=fields["client_id"],
        client_secret=SecretStr(fields["client_secret"]),
        redirect_uri=fields["redirect_uri"],
        allow_loopback=True,
    )


class Running:
    """A process under way."""

    def __init__(self, wish: Wish) -> None:
        self._pipe, theirs = SERVER.Pipe(duplex=False)
        self.process = SERVER.Process(target=_work, args=(wish, theirs), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def stopped(self) -> bool:
        """Whether it has stopped itself."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    async def until_stopped(self, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not self.stopped():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def end(self, seconds: float = 60) -> Ended:
        """Wait for its end, without holding up the sandbox that runs in this loop."""
        try:
            async with asyncio.timeout(seconds):
                while self.process.is_alive() and not self._pipe.poll():  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.005)
                told: tuple[str | None, str | None, dict[str, float]] = (None, None, {})
                with suppress(EOFError):
                    told = self._pipe.recv() if self._pipe.poll() else told
                while self.process.is_alive():  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.005)
        finally:
            if self.process.is_alive():
                self.process.kill()
            self.process.join()
            self._pipe.close()
        return Ended(self.process.exitcode or 0, *told)


@asynccontextmanager
async def stopped_process(wish: Wish) -> Any:
    """A process that has stopped itself; it ends with the block at the latest."""
    running = Running(wish)
    try:
        await running.until_stopped()
        yield running
    finally:
        if running.process.is_alive():
            running.process.kill()
