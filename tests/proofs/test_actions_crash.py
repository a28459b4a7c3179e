"""R3: answers are lost, processes are killed, each action is asked for twice; each is done once, or named unknown."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from sandbox import running_sandbox
from store.actions import ActionRecord, ActionState, list_actions
from store.database import Database
from tasks.actions.running import settle_due
from tests.actions.process import Asked, Part, start
from tests.actions.support import TILL, World, a_key, access_of, join
from tests.proofs.support import FULL, rounds
from tests.syncing import quiet_config

pytestmark = pytest.mark.proof

ACTIONS = 1000 if FULL else 40
PROCESSES = 3
DROPPED = 0.2
TIMES = {"patience": 30.0, "lease": 3.0, "send_within": 1.0, "longest_request": 1.0}


def wanted(world: World, dice: random.Random) -> list[Asked]:
    """Actions of each kind; equal ones with keys of their own must be done as often as they are asked for."""
    leads = [lead["id"] for lead in world.account.entities["leads"]]
    talks = [talk for talk in world.account.talks if talk["is_in_work"] and talk["entity_id"]]
    asked = []
    for number in range(ACTIONS):
        text, lead = f"Action {dice.randrange(ACTIONS * 4 // 5)}", dice.choice(leads)
        values: dict[str, Any] = {"entity_type": "leads", "entity_id": lead, "text": text}
        kind = dice.choices(["create-task", "add-note", "send-message", "update-deal-field"], [5, 2, 2, 1])[0]
        if kind == "create-task":
            values["complete_till"] = TILL
        elif kind == "send-message":
            values["entity_id"] = dice.choice(talks)["entity_id"]
        elif kind == "update-deal-field":
            values = {"deal_id": lead, "field_id": "price", "value": number}
        asked.append(Asked(kind, values, a_key()))
    return asked


async def killing(parts: Sequence[Part], dice: random.Random) -> int:
    """Run all parts to their end; now and then one process is killed, and another one begins its part anew."""
    running: list[BaseProcess] = [start(part) for part in parts]
    killed, deadline = 0, time.monotonic() + (600 if FULL else 90)
    most = 40 if FULL else 2
    try:
        while any(process.is_alive() for process in running):
            assert time.monotonic() < deadline, "it does not end"
            await asyncio.sleep(dice.uniform(0.1, 0.5))
            victim = dice.randrange(len(running))
            if killed < most and running[victim].is_alive():
                running[victim].kill()
                await asyncio.to_thread(running[victim].join)
                assert running[victim].exitcode == -9
                killed += 1
                running[victim] = start(parts[victim])
        assert [process.exitcode for process in running] == [0] * len(running)
    finally:
        for process in running:
            if process.is_alive():
                process.kill()
            process.join()
    return killed


def done_by(world: World) -> Counter[tuple[str, Any, str]]:
    """What the sandbox has done, by its own count: (what, whose, text)."""
    account = world.account
    counted: Counter[tuple[str, Any, str]] = Counter()
    counted.update(("create-task", one["entity_id"], one["text"]) for one in account.tasks)
    counted.update(
        ("add-note", one["entity_id"], one["params"]["text"])
        for one in account.notes
        if "text" in one["params"]
    )
    for talk_id, many in account.messages.items():
        talk = account.talks.get(talk_id)
        assert talk is not None
        counted.update(
            ("send-message", talk["entity_id"], one["text"]) for one in many if one["type"] == "outgoing"
        )
    return counted


def place_of(record: ActionRecord) -> tuple[str, Any, str]:
    return record.kind, record.request["entity_id"], record.request["text"]


@pytest.mark.seconds(5)
async def test_r3_lost_answers_and_kill_9_and_each_action_is_done_exactly_once(
    database_place: tuple[str, str],
) -> None:
    dice = random.Random()
    config = quiet_config(accounts=1, leads=40, contacts=10, companies=3, talks=12)
    async with running_sandbox(config) as kommo, Database.open(*database_place) as database:
        await database.ensure()
        await join(database, access_of(kommo))
        world = World(database, kommo)
        world.account.chats_quota = 10**6
        for number in range(rounds(3)):
            before = done_by(world)
            for method in ("POST", "PATCH"):
                world.drop_answers(DROPPED, method=method)
            asked = wanted(world, dice)
            twice = [*asked, *asked]
            dice.shuffle(twice)
            parts = [
                Part(database_place, world.access, twice[index::PROCESSES], TIMES, dice.randrange(10**6))
                for index in range(PROCESSES)
            ]
            begun = time.monotonic()
            killed = await killing(parts, dice)
            async with world.session(**TIMES) as session:
                await settle_due(session)
            records = {
                record.idempotency_key: record for record in await list_actions(database, limit=1_000_000)
            }
            ours = [records[one.key] for one in asked]
            states = Counter(record.state.value for record in ours)
            done = done_by(world) - before
            certain = Counter(
                place_of(one)
                for one in ours
                if one.kind != "update-deal-field" and one.state is ActionState.CONFIRMED
            )
            possible = certain + Counter(
                place_of(one)
                for one in ours
                if one.kind != "update-deal-field" and one.state is ActionState.UNKNOWN
            )
            print(  # noqa: T201 - shown with -s
                f"\nround {number}: {len(asked)} actions asked for twice, {killed} processes killed, "
                f"{sum(rule.struck for rule in kommo.world.faults.rules)} answers lost: {dict(states)}; "
                f"done {done.total()}, doubled {(done - possible).total()}, lost {(certain - done).total()}; "
                f"{sum(1 for one in ours if (one.result or {}).get('settled'))} settled by looking them up; "
                f"{time.monotonic() - begun:.0f} s"
            )
            assert done - possible == Counter(), "done more often than asked for"
            assert certain - done == Counter(), "said to be done, and is not"
            assert states["confirmed"] + states["unknown"] + states["failed"] == len(asked)
            assert all(one.reason for one in ours if one.state is not ActionState.CONFIRMED)
            # An update that a killed process has left behind may be overtaken by a later one; nothing else fails.
            assert {(one.kind, one.reason_code) for one in ours if one.state is ActionState.FAILED} <= {
                ("update-deal-field", "superseded")
            }
            _assert_last_prices(world, ours)
            kommo.world.faults.rules.clear()


def _assert_last_prices(world: World, records: Sequence[ActionRecord]) -> None:
    """Each deal has one of the prices that were written, and not one that was overtaken."""
    by_deal: dict[int, list[ActionRecord]] = {}
    for record in records:
        if record.kind == "update-deal-field":
            by_deal.setdefault(record.request["deal_id"], []).append(record)
    for deal, of_deal in by_deal.items():
        lead = world.account.entities["leads"].get(deal)
        assert lead is not None
        confirmed = [one for one in of_deal if one.state is ActionState.CONFIRMED]
        assert lead["price"] in {one.request["value"] for one in confirmed}
