"""A backlog worker as a process of its own, to be killed: forked from a server that has everything imported already."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from pydantic import SecretStr

from kommo.budget import InProcessBudget, Lane
from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.hosts import parse_host
from store.connections import ConnectionRecord
from store.database import Database
from tasks.backlog import drain
from tasks.backlog_turn import Options
from tests.webhooks.backlog_support import session_of

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.webhooks.backlog_process"])

TURN_SECONDS = 2.0
"""A killed worker holds its org up for so long."""


@dataclass(frozen=True)
class Wish:
    """What a worker is to do: on which database, with which account's token (org → host and token), for how long."""

    place: tuple[str, str]
    accounts: Mapping[str, tuple[str, str]]
    linger: float


class TokenClients:
    """Clients of the accounts of a wish."""

    requests_sent = 0

    def __init__(self, wish: Wish) -> None:
        self._accounts = wish.accounts
        self._budget = InProcessBudget({"account": 1000, "egress": 1000}, SystemClock())

    @asynccontextmanager
    async def use(self, connection: ConnectionRecord) -> AsyncIterator[KommoClient]:
        host, token = self._accounts[connection.org]
        async with KommoClient(
            parse_host(host, allow_loopback=True),
            StaticToken(SecretStr(token)),
            budget=self._budget,
            account_key=f"account:{connection.account_id}",
            lane=Lane.WEBHOOK,
        ) as client:
            yield client


async def _work(wish: Wish) -> None:
    options = Options(turn_seconds=TURN_SECONDS, turn_events=40, batch_events=10, backoff=0.1, poll=0.02)
    async with Database.open(*wish.place) as database:
        await drain(session_of(database, TokenClients(wish), options=options), wish.linger, concurrency=2)


def run(wish: Wish) -> None:
    """Entry point of the process."""
    asyncio.run(_work(wish))


def start(wish: Wish) -> BaseProcess:
    """Start a worker."""
    process = SERVER.Process(target=run, args=(wish,), daemon=True)
    process.start()
    return process
