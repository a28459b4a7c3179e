"""A delivering run as a process of its own, to be killed: forked from a server that has everything imported already."""

import asyncio
import multiprocessing
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from store.database import Database
from tasks.deliver import deliver
from tasks.deliver_org import Options
from tests.outbox.support import session_of

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.outbox.delivery_process"])

TURN_SECONDS = 3.5
"""A killed run holds its orgs up for so long."""
OPTIONS = Options(turn_seconds=TURN_SECONDS, timeout=1.5, poll=0.05, at_a_time=12)


@dataclass(frozen=True)
class Wish:
    """What a run is to do: on which database, to which address, for how long."""

    place: tuple[str, str]
    url: str
    linger: float


async def _work(wish: Wish) -> None:
    async with Database.open(*wish.place) as database:
        await deliver(session_of(database, wish.url, options=OPTIONS), wish.linger, concurrency=6)


def run(wish: Wish) -> None:
    """Entry point of the process."""
    asyncio.run(_work(wish))


def start(wish: Wish) -> BaseProcess:
    """Start a run."""
    process = SERVER.Process(target=run, args=(wish,), daemon=True)
    process.start()
    return process
