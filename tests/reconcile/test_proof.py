"""W5, with dice: whatever is lost, doubled, late or refused, one look at the webhooks makes the mirror level.

The sandbox's own log of deliveries says what was delivered; the published completeness must agree with it.
"""

import random
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest

from store.database import Database
from store.mirror import record_states
from tests.proofs.support import rounds
from tests.reconcile.support import Office, opened
from tests.syncing import quiet_config

STEPS = 60
ENTITIES = ("leads", "contacts", "companies", "tasks")
_WORDS = {"leads": "leads", "contacts": "contacts", "companies": "contacts", "tasks": "task"}


class Life:
    """What people do in the account, and what becomes of it."""

    def __init__(self, office: Office, seed: int) -> None:
        self.office = office
        self.dice = random.Random(seed)
        self.binned: list[tuple[str, int]] = []
        self.gone: list[int] = []
        self.touched: set[tuple[str, int]] = set()

    def step(self) -> None:
        office, dice = self.office, self.dice
        entity = dice.choice(ENTITIES)
        kind = dice.choices(["rename", "add", "delete", "restore"], [10, 2, 2, 2])[0]
        ids = office.ids(entity)
        if kind == "restore" and self.binned:
            entity, number = self.binned.pop(dice.randrange(len(self.binned)))
            office.change("restore_record", entity=entity, id=number)
        elif kind == "add" and entity != "tasks":
            number = office.change("add_record", entity=entity, values={"name": "New"})["id"]
        elif kind == "delete" and len(ids) > 2:
            number = dice.choice(ids)
            office.change("delete_record", entity=entity, id=number)
            if entity == "tasks":
                self.gone.append(number)
            else:
                self.binned.append((entity, number))
        else:
            number = dice.choice(ids)
            office.rename(entity, number, f"changed {dice.random()}")
        self.touched.add((entity, number))

    async def weather(self) -> None:
        """Time passes; the gateway goes down or comes back; what has come is worked on, or waits."""
        office, dice = self.office, self.dice
        await office.pass_time(dice.choice([0, 1, 30, 400]))
        if dice.random() < 0.15:
            await office.sent()
            taken = office.take_in if office.receiver.status == 200 else office.lose
            await taken()
            office.receiver.status = dice.choice([200, 200, 503, 404])
        elif office.receiver.status == 200:
            await office.take_in()
        else:
            await office.lose()
        if dice.random() < 0.4:
            await office.work()


def delivered(office: Office) -> dict[tuple[str, int], list[bool]]:
    """For each record, whether each webhook of it was delivered, by the sandbox's log."""
    found: dict[tuple[str, int], list[bool]] = defaultdict(list)
    account = office.sandbox.account("acme")
    companies = {record["id"] for record in account.entities["companies"]}
    for one in office.sandbox.world.webhooks.log:
        for word, _, number in one.entities:
            for entity, known in _WORDS.items():
                is_company = int(number) in companies if word == "contacts" else entity == "companies"
                if known == word and is_company is (entity == "companies"):
                    found[entity, int(number)].append(one.state == "delivered")
    return found


@pytest.mark.proof
@pytest.mark.seconds(8)
@pytest.mark.parametrize("seed", range(rounds(12)))
async def test_w5_one_look_makes_the_mirror_level_and_says_how_much_had_come(db: Database, seed: int) -> None:
    config = quiet_config(accounts=1, leads=8, contacts=6, companies=6, seed=seed)
    async with opened(db, config) as office:
        life = Life(office, seed)
        office.sandbox.world.webhooks.configure(
            duplicates=0.1, loss=life.dice.choice([0.0, 0.1, 0.5]), shuffle=20.0
        )
        await office.subscribe()
        await office.pass_time(10)
        for _ in range(STEPS):
            life.step()
            await life.weather()
        if office.receiver.status == 200:
            await office.pass_time(6_000)
            await office.take_in()
        else:
            await office.pass_time(6_000)
            await office.lose()
            office.receiver.status = 200

        (health,) = (await office.check(compare_after=timedelta(0))).orgs
        assert health.state == "on"
        report = health.reconciled
        assert report is not None
        await office.work()

        account = office.sandbox.account("acme")
        for entity in ENTITIES:
            held: dict[int, Any] = {
                record["id"]: record
                for record in (account.tasks if entity == "tasks" else account.entities[entity])
                if not record.get("is_deleted")
            }
            numbers = [number for kind, number in life.touched if kind == entity]
            states = await record_states(db, "acme", entity, numbers)
            for number in numbers:
                if number in held:
                    assert states[number].state == "present", (entity, number)
                else:
                    assert states[number].state == "deleted", (entity, number)
            await office.assert_level(entity, [number for number in numbers if number in held])

        log = delivered(office)
        surely = sum(all(log[one]) for one in life.touched if one in log)
        never = sum(not any(log[one]) for one in life.touched)
        # A record whose webhooks were partly delivered may count either way: its last change is what counts.
        assert report.total("changes") == len(life.touched)
        assert surely <= report.total("arrived") <= len(life.touched) - never
