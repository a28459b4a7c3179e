"""W5: what an hour without a gateway loses by Kommo's rules is made good, and how much had come is said truthfully."""

import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from blocks.settings import Settings
from flows.reconcile import reconcile
from flows.webhook_backlog import webhook_backlog
from flows.webhook_health import webhook_health
from gateway.app import create_app
from gateway.services import open_services
from kommo.clock import SystemClock
from sandbox import Sandbox, WebhookSettings, running_sandbox
from sandbox.state import Change
from store.backlog import backlog_counts
from store.completeness import Completeness, latest_completeness
from store.connections import ConnectionRecord
from store.outbox import list_outbox
from store.subscriptions import get_subscription
from tasks.installation import open_database
from tests.gateway.support import served
from tests.proofs.mirroring import KINDS, differences
from tests.proofs.support import FULL, control, rounds
from tests.syncing import connect, quiet_config

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("prefect_api")]

ORG = "acme"
MINUTE = 60
Key = tuple[str, int]
KINDS_BY_NAME = {"lead": "leads", "contact": "contacts", "company": "companies", "task": "tasks"}


class Witness:
    """What really happened, by the sandbox's own account: the last change of each record, and what it sent of it."""

    def __init__(self, kommo: Sandbox) -> None:
        self.last: dict[Key, Change] = {}
        self.made: Counter[str] = Counter()
        self._kommo = kommo
        kommo.world.listeners.append(self._see)

    def _see(self, change: Change) -> None:
        if change.entity in KINDS:
            record = change.after or change.before or {}
            self.last[change.entity, int(record["id"])] = change
            self.made[change.entity] += change.action == "add"

    def arrived(self) -> set[Key]:
        """The records of whose last change a webhook has told."""
        told: dict[tuple[Key, bool], float] = {}
        for delivery in self._kommo.world.webhooks.log:
            verb, _, noun = delivery.names[0].partition("_")
            if delivery.state != "delivered" or verb == "note" or noun not in KINDS_BY_NAME:
                continue
            for _, _, number in delivery.entities:
                key = ((KINDS_BY_NAME[noun], int(number)), verb == "delete")
                told[key] = max(told.get(key, 0.0), delivery.made)
        return {
            key
            for key, change in self.last.items()
            if told.get((key, change.action == "delete"), 0.0) >= change.moment
        }


class House:
    """An installation with one connected org, and a gateway that can be away."""

    def __init__(self, settings: Settings, kommo: Sandbox, port: int) -> None:
        self.settings = settings
        self.kommo = kommo
        self.witness = Witness(kommo)
        self._port = port

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[None]:
        """The gateway is there, at the address that Kommo knows."""
        with socket.create_server(("127.0.0.1", self._port)) as listening:
            async with (
                open_services(self.settings, first_sync=_nothing) as services,
                served(create_app(self.settings, services=services), listening),
            ):
                yield

    async def steer(self, name: str, **body: Any) -> Any:
        """One call of the sandbox's control API."""
        return await control(self.kommo.url, name, "POST", body)

    async def pass_time(self, minutes: float) -> None:
        """Time passes, and Kommo repeats what is to be repeated in it."""
        await self.steer("webhooks/advance", seconds=minutes * MINUTE)

    async def change_much(self, seed: int, leads: int = 16) -> None:
        """Whatever can happen to the four kinds of records."""
        kinds = ["edit", "status", "update", "responsible", "add", "delete", "restore", "delete"]
        for entity, changes in (("leads", leads), ("contacts", 8), ("companies", 8)):
            await self.steer("load", entity=entity, changes=changes, kinds=kinds, seed=seed)
        tasks = [record["id"] for record in self.kommo.account(ORG).tasks]
        for task in tasks[3 * seed : 3 * seed + 3]:
            done = {"is_completed": True, "result": {"text": f"Reached {seed}"}}
            self.kommo.change(ORG, "update_record", entity="tasks", id=task, values=done)
        self.kommo.change(ORG, "delete_record", entity="tasks", id=tasks[3 * seed])
        made = {"text": f"Task {seed}", "complete_till": 1_800_000_000}
        self.kommo.change(ORG, "add_record", entity="tasks", values=made)

    async def work(self) -> None:
        """The backlog is worked off."""
        await webhook_backlog(linger="0s")
        async with open_database(self.settings) as database:
            assert not [one for one in await backlog_counts(database) if one.pending or one.dead]

    async def not_level(self) -> list[str]:
        """Where the mirror is not what the sandbox holds."""
        async with open_database(self.settings) as database:
            return await differences(database, ORG, self.kommo.account(ORG), self.witness.last)

    async def completeness(self) -> Completeness:
        """The newest comparison."""
        async with open_database(self.settings) as database:
            return (await latest_completeness(database))[ORG]

    async def told(self) -> Counter[str]:
        """What the product was told, by type and source."""
        async with open_database(self.settings) as database:
            events = await list_outbox(database, org=ORG, limit=10_000)
        return Counter(
            f"{event.type} by {event.payload['source']}" for event in events if "source" in event.payload
        )

    async def state(self) -> str:
        """How the subscription stands, as we know it."""
        async with open_database(self.settings) as database:
            known = await get_subscription(database, ORG)
        return "" if known is None else known.state

    def disabled(self) -> bool:
        """How it stands at Kommo."""
        [hook] = self.kommo.account(ORG).webhooks
        return bool(hook["disabled"])


async def _nothing(_: ConnectionRecord) -> None:
    """The first sync is not what is looked at here."""


@asynccontextmanager
async def connected_house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A sandbox, an org that is connected to it while the gateway is there, and one clock for both sides."""
    # A busy machine must not decide what arrives: whoever is there may take his time.
    patient = WebhookSettings(seconds=30)
    config = quiet_config(accounts=1, leads=60, contacts=24, companies=12, talks=2, webhooks=patient)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
    monkeypatch.setenv("KOMMO_WEBHOOK_URL", f"http://127.0.0.1:{port}")
    async with running_sandbox(config) as kommo:
        world = kommo.world
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.fromtimestamp(world.clock(), UTC))
        house = House(Settings(), kommo, port)
        await connect(ORG, kommo.accounts[0], house.settings)
        assert await house.state() == "on"
        yield house


@pytest.mark.whole_service
@pytest.mark.seconds(12)
async def test_w5_an_hour_without_a_gateway_is_made_good_and_said_truthfully(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    del installation  # it is in the environment
    async with connected_house(monkeypatch) as house:
        for number in range(rounds(5)):
            await _one_outage(house, first=number == 0)


async def _one_outage(house: House, *, first: bool) -> None:
    kommo, witness = house.kommo, house.witness
    before = len(kommo.world.webhooks.log.deliveries)
    async with house.gateway():
        await house.change_much(0)
        await house.pass_time(6)  # whoever was refused because the machine was busy has come again
        await house.work()
        assert await house.not_level() == []
        assert not first or witness.arrived() == witness.last.keys()

    for step in range(1, 5):  # the gateway is away for an hour
        await house.change_much(step)
        await house.pass_time(15)
    lost = [known for known in kommo.world.webhooks.log.deliveries[before:] if known.state == "lost"]
    assert len(lost) > 150
    assert house.disabled()

    async with house.gateway():
        await house.change_much(5)  # the gateway is back, and is told nothing of this
        await house.pass_time(3)
        await house.work()
        assert await house.not_level()  # or this test would prove nothing
        missed = witness.last.keys() - witness.arrived()
        assert len(missed) > 50

        report = await webhook_health(compare_after="99d")
        assert report.failed == {}
        assert [(one.found, one.state) for one in report.orgs] == [("disabled", "on")]
        assert not house.disabled()
        assert await house.not_level() == []

        measured, changed = await house.completeness(), _since(witness, await house.completeness())
        assert measured.changes == len(changed)
        assert measured.arrived == len(changed & witness.arrived())
        assert measured.repaired <= measured.changes - measured.arrived
        assert measured.repaired > 50

        told = await house.told()
        again = await reconcile(ORG, since=measured.since)  # nothing is repaired or told a second time
        assert (again.total("changes"), again.total("arrived")) == (measured.changes, measured.arrived)
        assert (again.total("repaired"), again.told) == (0, {})
        assert await house.told() == told

        await house.change_much(6)  # webhooks come again
        await house.pass_time(6)
        await house.work()
        assert await house.not_level() == []
        after = await reconcile(ORG)
        assert (after.total("changes") > 20, after.share, after.total("repaired")) == (True, 1.0, 0)


def _since(witness: Witness, measured: Completeness) -> set[Key]:
    """The records that changed in the time that was compared."""
    begin, end = measured.since.timestamp(), measured.until.timestamp()
    return {key for key, change in witness.last.items() if begin <= change.moment <= end}


@pytest.mark.seconds(6)
async def test_w5_an_outage_that_kommo_outlasts_loses_nothing(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    del installation
    async with connected_house(monkeypatch) as house:
        await house.change_much(0, leads=8)
        await house.pass_time(12)
        assert house.kommo.world.webhooks.log.counts()["delivered"] == 0
        async with house.gateway():
            await house.pass_time(30)
            counts = house.kommo.world.webhooks.log.counts()
            assert (counts["lost"], counts["waiting"], counts["delivered"]) == (0, 0, counts["made"])
            await house.work()
            assert await house.not_level() == []
            report = await webhook_health(compare_after="1s")
            assert [(one.found, one.state) for one in report.orgs] == [("good", "on")]
            measured = await house.completeness()
            assert (measured.changes, measured.share) == (len(house.witness.last), 1.0)
            assert measured.repaired == 0


@pytest.mark.seconds(5)
@pytest.mark.parametrize("way", ["old", "recent"] if FULL else ["old"])
async def test_w1_and_w2_webhooks_doubled_disordered_and_in_bundles_take_effect_once(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    del installation
    old = {"account_block": "last", "plain_brackets": True, "empty_nulls": True, "odd_notes": True}
    async with connected_house(monkeypatch) as house, house.gateway():
        odd = {"duplicates": 0.4, "shuffle": 4 * MINUTE, "bundle": 6} | (old if way == "old" else {})
        await house.steer("webhooks/settings", **odd)
        for seed in range(2):
            await house.change_much(seed)
            await house.pass_time(2)
            await house.work()  # some of it is worked while the rest has not come yet
            await house.pass_time(8)
        await house.work()
        counts = house.kommo.world.webhooks.log.counts()
        copies = sum(known.copy_of is not None for known in house.kommo.world.webhooks.log)
        assert copies > 10
        assert counts["delivered"] == counts["made"]
        assert await house.not_level() == []
        told = await house.told()
        for entity, noun in (("leads", "lead"), ("contacts", "contact"), ("companies", "company")):
            assert told[f"kommo.{noun}.created by webhook"] == house.witness.made[entity]
        report = await reconcile(ORG)
        assert (report.total("changes"), report.share) == (len(house.witness.last), 1.0)
        assert (report.total("repaired"), report.told) == (0, {})
