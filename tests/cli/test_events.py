"""`kommo events`: what is told, what was given up, telling it again, and trying the product's address."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from store.database import Database
from tasks.signing import verified
from tests.cli.support import Cli, Ran
from tests.outbox.receiver import Receiver, Reply, running_receiver
from tests.outbox.support import SECRET, run, tell


async def _run(cli: Cli, *arguments: str, **more: str) -> Ran:
    """A command, while the product of this process answers."""
    return await asyncio.to_thread(cli, *arguments, **more)


async def _together(cli: Cli, *commands: Sequence[str]) -> list[Ran]:
    """Commands that do not need one another."""
    return await asyncio.to_thread(cli.together, *commands)


def _told_to(product: Receiver) -> dict[str, str]:
    return {"KOMMO_EVENTS_URL": product.url, "KOMMO_EVENTS_SECRET": SECRET.get_secret_value()}


@pytest.mark.whole_service
@pytest.mark.seconds(12)
async def test_events_can_be_listed_delivered_replayed_and_an_address_tried_from_the_command_line(
    sqlite_cli: Cli, home: Path
) -> None:
    cli = sqlite_cli
    async with running_receiver() as product:
        product.behave = lambda received: Reply(400 if received.event["type"] == "poison" else 200)
        setting = _told_to(product)
        async with Database.open(f"sqlite:///{home}/kommo.db") as database:
            await database.ensure()
            ids = await tell(database, "acme", "lead:1", 0, 1)
            [poison] = await tell(database, "acme", "lead:2", 0, kind="poison")
        listed, refused = await _together(cli, ("events", "list", "--json"), ("events", "replay"))
        [row] = listed.answer
        assert (row["org"], row["pending"], row["dead"]) == ("acme", 3, 0)
        assert (refused.code, "Say which" in refused.sentence) == (2, True)
        report = (await _run(cli, "events", "deliver", "--json", **setting, KOMMO_EVENTS_ATTEMPTS="1")).answer
        assert (report["delivered"], report["dead"], report["state"]) == (2, 1, "well")
        dead, told = await _together(
            cli,
            ("events", "dead", "--json"),
            ("events", "list", "acme", "--state", "delivered", "--json"),
        )
        [letter] = dead.answer
        assert (letter["event_id"], letter["last_error"]) == (poison, "The product answered 400.")
        assert "payload" not in letter
        assert [one["event_id"] for one in told.answer] == ids
        again = await _together(
            cli,
            ("events", "replay", "--dead", "--json"),
            ("events", "replay", "--ids", ids[0], "--json"),
        )
        assert [one.answer for one in again] == [{"replayed": 1}, {"replayed": 1}]
        product.behave = lambda _received: Reply(410)
        gone = await _run(cli, "events", "deliver", **setting)
        assert (gone.code, "is gone (410)" in gone.sentence) == (1, True)
        tried = await _run(cli, "events", "test", **setting)
        assert (tried.code, "did not take the event" in tried.sentence) == (1, True)
        product.behave = lambda _received: Reply()
        trial = (await _run(cli, "events", "test", "--json", **setting)).answer
        assert (trial["status"], trial["taken"], trial["resumed"]) == (200, True, True)
        test = product.taken[-1]
        assert (test.event["type"], test.headers["webhook-id"]) == ("kommo.test", trial["event_id"])
        assert verified(SECRET, test.headers, test.body)
        async with Database.open(f"sqlite:///{home}/kommo.db") as database:
            assert (await run(database, product.url)).delivered == 2


@pytest.mark.seconds(4)
async def test_without_an_address_or_a_secret_nothing_is_sent_and_a_sentence_says_so(
    sqlite_cli: Cli, home: Path
) -> None:
    async with Database.open(f"sqlite:///{home}/kommo.db") as database:
        await database.ensure()
        await tell(database, "acme", "lead:1", 0)
    unset, nobody, unsigned = await asyncio.gather(
        _run(sqlite_cli, "events", "test"),
        _run(sqlite_cli, "events", "deliver"),
        _run(sqlite_cli, "events", "deliver", KOMMO_EVENTS_URL="http://127.0.0.1:9/canary"),
    )
    for ran in (unset, nobody):
        assert (ran.code, "KOMMO_EVENTS_URL is not set" in ran.sentence) == (1, True)
    assert (unsigned.code, "KOMMO_EVENTS_SECRET is not set" in unsigned.sentence) == (1, True)
    assert "canary" not in unsigned.out + unsigned.err
