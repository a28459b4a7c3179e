"""Syncs of the same account that take all of its budget, as processes of their own, for the proof of latency."""

import asyncio
import multiprocessing
from multiprocessing.process import BaseProcess

from kommo.budget import Lane
from store.budget import DatabaseBudget
from store.database import Database
from tests.actions.support import Access, AccessClients

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.actions.crowd"])
READERS = 3
"""Requests of one sync that want a turn at a time."""


async def _read(place: tuple[str, str], access: Access) -> None:
    async with Database.open(*place) as database:
        clients = AccessClients(access, DatabaseBudget(database), Lane.SYNC)

        async def reader() -> None:
            while True:
                await clients.client.get("/api/v4/leads", [("limit", "250")])

        await asyncio.gather(*(reader() for _ in range(READERS)))


def run(place: tuple[str, str], access: Access) -> None:
    """Entry point of the process."""
    asyncio.run(_read(place, access))


def start(place: tuple[str, str], access: Access) -> BaseProcess:
    """Start one that reads until it is ended."""
    process = SERVER.Process(target=run, args=(place, access), daemon=True)
    process.start()
    return process
