"""Runs that are killed or stopped at random lose nothing and break no order; what they repeat has the same id."""

import asyncio
import itertools
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.process import BaseProcess

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from store.database import Database
from store.tables import OutboxRow, OutboxTurnRow, table_of
from tests.outbox.delivery_process import TURN_SECONDS, Wish, start
from tests.outbox.receiver import Received, Receiver, Reply
from tests.outbox.support import hurry, outbox, round_of, states, tell_all
from tests.proofs.support import rounds

pytestmark = pytest.mark.proof

SUBJECTS = [f"lead:{number}" for number in range(6)]
ORGS = 4


@contextmanager
def runs(wish: Wish, count: int) -> Iterator[list[BaseProcess]]:
    """Some runs; whoever is left is ended."""
    running = [start(wish) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.join()


def assert_in_order(product: Receiver, events: int) -> None:
    """Each event came, and each subject's came first in its order."""
    first = product.first_times()
    assert sum(len(numbers) for numbers in first.values()) == events
    assert {subject: numbers for subject, numbers in first.items() if numbers != sorted(numbers)} == {}


async def stop(process: BaseProcess, database: Database) -> None:
    """Stop a run, but not in the middle of a transaction: its locks would stop all others as well."""
    assert process.pid is not None
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        if await holds_no_lock(database):
            return
        os.kill(process.pid, signal.SIGCONT)
        await asyncio.sleep(0.02)


async def holds_no_lock(database: Database) -> bool:
    if database.address.file is not None:
        with closing(sqlite3.connect(database.address.file, timeout=0.2)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True
    turns, rows = table_of(OutboxTurnRow), table_of(OutboxRow)
    try:
        async with database.begin() as connection:
            for table in (turns, rows):
                await connection.execute(select(table.c.org).with_for_update(nowait=True))
    except DBAPIError:
        return False
    return True


async def all_told(database: Database, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (await states(database)).get("pending"):
        assert time.monotonic() < deadline, [one for one in await outbox(database) if one.state == "pending"]
        await asyncio.sleep(0.1)
        await hurry(
            database
        )  # a machine under load lets attempts time out; nobody need wait for their backoff


@pytest.mark.seconds(12)
async def test_kill_9_of_runs_at_random_loses_nothing_and_keeps_the_order_of_each_subject(
    database: Database, database_place: tuple[str, str], product: Receiver
) -> None:
    dice = random.Random()

    def behave(_received: Received) -> Reply:
        # A product that is slow at times, and that now and then fails without having taken the event.
        return Reply(500 if dice.random() < 0.02 else 200, seconds=dice.random() * 0.03)

    product.behave = behave
    written, killed = 0, 0
    for number in range(rounds(15)):
        with runs(Wish(database_place, product.url, 60.0), 3) as running:
            for step in range(8):
                written += len(await tell_all(database, round_of(number * 8 + step, ORGS, SUBJECTS)))
                await asyncio.sleep(dice.uniform(0, 0.1))
                if step % 4 == 3:
                    victim = dice.randrange(3)
                    running[victim].kill()
                    await asyncio.to_thread(running[victim].join)
                    assert running[victim].exitcode == -9
                    running[victim] = start(Wish(database_place, product.url, 60.0))
                    killed += 1
            await all_told(database, seconds=TURN_SECONDS + 60)
        print(f"\n{killed} killed; {written} events, {product.doubles()} came twice")  # noqa: T201 - shown with -s
        assert await states(database) == {"delivered": written}
        assert_in_order(product, written)
    assert {received.headers["webhook-id"] for received in product.taken} == {
        event.event_id for event in await outbox(database)
    }


@pytest.mark.whole_service
@pytest.mark.seconds(10)
async def test_a_run_that_was_stopped_for_longer_than_its_turn_breaks_no_order_when_it_goes_on(
    database: Database, database_place: tuple[str, str], product: Receiver
) -> None:
    product.behave = lambda _received: Reply(seconds=0.02)
    steps = itertools.count()
    for number in range(rounds(10)):
        events = [event for _ in range(30) for event in round_of(next(steps), 1, SUBJECTS)]
        written = len(await tell_all(database, events))
        before = len(product.taken)
        with runs(Wish(database_place, product.url, 60.0), 1) as running:
            await product.comes(before + 20)
            [stopped] = running
            await stop(stopped, database)
            assert (await states(database))["pending"] > 0
            running.append(start(Wish(database_place, product.url, 60.0)))
            await product.comes(before + written // 2)
            assert stopped.pid is not None
            os.kill(stopped.pid, signal.SIGCONT)
            await all_told(database, seconds=30)
            # The one that was stopped works on: it has not died of it.
            await tell_all(database, round_of(next(steps), 1, SUBJECTS))
            await all_told(database, seconds=30)
            assert all(process.is_alive() for process in running)
        # All that may come twice is what was under way, or not yet marked, when it was stopped.
        assert product.doubles() <= (number + 1) * 40
        assert {event.state for event in await outbox(database)} == {"delivered"}
        assert_in_order(product, len(await outbox(database)))
