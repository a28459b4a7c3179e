"""W2: workers of the backlog that are killed at random leave nothing half-done and do nothing twice."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import pytest

from sandbox import Sandbox, running_sandbox
from store.database import Database
from tests.proofs.support import rounds
from tests.syncing import quiet_config
from tests.webhooks.backlog_process import TURN_SECONDS, Wish, start
from tests.webhooks.backlog_support import (
    assert_told_once,
    deliver,
    happening,
    inbox,
    join,
    mirror,
    raw_records,
    told,
)

pytestmark = pytest.mark.proof

ORGS = ("acme", "globex", "romashka")
WORKERS = 3
EDITS = 120


class Office:
    """People who edit leads while Kommo tells of it; of each lead what it was last."""

    def __init__(self, kommo: Sandbox, dice: random.Random) -> None:
        self._kommo = kommo
        self._dice = dice
        self._messages = itertools.count()

    async def edit(self, database: Database) -> None:
        """One edit, and the events of it."""
        org = self._dice.choice(ORGS)
        leads = self._kommo.account(org).entities["leads"]
        lead = self._dice.choice(list(leads))
        events = [happening("leads", "update", lead["id"])]
        if lead["is_deleted"]:
            self._kommo.change(org, "restore_record", entity="leads", id=lead["id"])
            events = [happening("leads", "restore", lead["id"])]
        elif self._dice.random() < 0.15:
            self._kommo.change(org, "delete_record", entity="leads", id=lead["id"])
            events = [happening("leads", "delete", lead["id"], seconds=None)]
        else:
            values = {"price": self._dice.randrange(10_000), "updated_at": self._kommo.world.now()}
            self._kommo.change(org, "patch", kind="leads", id=lead["id"], values=values)
            if self._dice.random() < 0.3:
                events.append(happening("leads", "status", lead["id"], status_id="142"))
        if self._dice.random() < 0.5:
            events.append(happening("messages", "add", f"m-{next(self._messages)}", chat_id="c"))
        await deliver(database, org, *events)


@contextmanager
def workers(wish: Wish) -> Iterator[list[BaseProcess]]:
    """Some workers; whoever is left is ended."""
    running = [start(wish) for _ in range(WORKERS)]
    try:
        yield running
    finally:
        for process in running:
            if process.is_alive():
                process.kill()
            process.join()


@pytest.mark.seconds(12)
async def test_w2_kill_9_of_workers_at_random_and_every_event_takes_effect_exactly_once(
    database_place: tuple[str, str],
) -> None:
    dice = random.Random()
    async with (
        running_sandbox(quiet_config(accounts=3, leads=25, contacts=1, companies=1)) as kommo,
        Database.open(*database_place) as database,
    ):
        await database.ensure()
        await join(database, kommo, *ORGS)
        access = {one.subdomain: (one.host, one.admin_token) for one in kommo.accounts}
        wish = Wish(database_place, access, linger=60.0)
        office = Office(kommo, dice)
        for number in range(rounds(30)):
            killed = await _round(database, wish, office, dice)
            events, outbox = await inbox(database), await told(database)
            print(f"\nround {number}: {killed} killed; {len(events)} events, {len(outbox)} told")  # noqa: T201 - shown with -s
            assert Counter(event.state for event in events) == {"done": len(events)}
            assert_told_once(events, outbox)
            effective = {event.id for event in events if not (event.outcome or "").startswith("nothing")}
            assert {one for event in outbox for one in event.payload["event_ids"]} >= effective
            for org in ORGS:
                await _assert_level(database, kommo, org)


async def _round(database: Database, wish: Wish, office: Office, dice: random.Random) -> int:
    """Edits under way, workers killed and replaced; then whoever lives works off what is left."""
    killed = 0
    with workers(wish) as running:
        for edit in range(EDITS):
            await office.edit(database)
            await asyncio.sleep(dice.uniform(0, 0.02))
            if edit % 20 == 19:
                victim = dice.randrange(WORKERS)
                running[victim].kill()
                await asyncio.to_thread(running[victim].join)
                assert running[victim].exitcode == -9
                running[victim] = start(wish)
                killed += 1
        deadline = time.monotonic() + TURN_SECONDS + 30
        while any(event.state == "pending" for event in await inbox(database)):
            assert time.monotonic() < deadline, "the backlog does not end"
            assert any(process.is_alive() for process in running)
            await asyncio.sleep(0.1)
    return killed


async def _assert_level(database: Database, kommo: Sandbox, org: str) -> None:
    """What the mirror has heard of is as the sandbox has it."""
    leads = kommo.account(org).entities["leads"]
    states, raws = await mirror(database, org), await raw_records(database, org)
    for number, state in states.items():
        lead = leads.get(number)
        assert lead is not None
        assert (state == "deleted") == lead["is_deleted"], (org, number, state)
        if state == "present":
            assert (raws[number]["price"], raws[number]["updated_at"]) == (lead["price"], lead["updated_at"])
