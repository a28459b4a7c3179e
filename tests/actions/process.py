"""Who asks for actions, as a process of its own, to be killed: forked from a server that has everything imported."""

import asyncio
import multiprocessing
import random
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from store.database import Database
from tasks.actions import ActionKind, ActionSession, AnyWish, make_wish, perform, perform_many
from tests.actions.support import Access, session_on

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.actions.process"])

_AT_ONCE = 8
"""Requests of one asker that are under way together."""
_MOST_TOGETHER = 12


@dataclass(frozen=True)
class Asked:
    """One action that somebody asks for."""

    kind: str
    values: dict[str, Any]
    key: str

    def wished(self) -> tuple[AnyWish, str]:
        return make_wish(ActionKind(self.kind), self.values), self.key


@dataclass(frozen=True)
class Part:
    """What one process asks for."""

    place: tuple[str, str]
    access: Access
    asked: Sequence[Asked]
    options: dict[str, Any]
    seed: int


async def ask(session: ActionSession, part: Part) -> None:
    """Ask for all of it, some by one and some together, several requests at a time."""
    dice, left, free = random.Random(part.seed), list(part.asked), asyncio.Semaphore(_AT_ONCE)

    async def one(wished: list[tuple[AnyWish, str]]) -> None:
        async with free:
            if len(wished) == 1:
                await perform(session, "acme", *wished[0])
            else:
                await perform_many(session, "acme", wished)

    async with asyncio.TaskGroup() as group:
        while left:
            size = dice.choice((1, 1, 1, dice.randrange(2, _MOST_TOGETHER)))
            together, left = left[:size], left[size:]
            group.create_task(one([asked.wished() for asked in together]))


async def _work(part: Part) -> None:
    async with (
        Database.open(*part.place) as database,
        session_on(database, part.access, **part.options) as session,
    ):
        await ask(session, part)


def run(part: Part) -> None:
    """Entry point of the process."""
    asyncio.run(_work(part))


def start(part: Part) -> BaseProcess:
    """Start one who asks."""
    process = SERVER.Process(target=run, args=(part,), daemon=True)
    process.start()
    return process
