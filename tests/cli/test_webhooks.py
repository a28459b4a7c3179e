"""`kommo webhooks` and `kommo backlog`: what waits, what was given up, and trying it again."""

from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from store.backlog import Failure, end_turn, fail_events, take_turn
from store.connections import put_connection
from store.database import Database
from store.inbox import save_deliveries
from tasks.deliveries import NOBODYS
from tests.cli.support import Cli
from tests.gateway.hooks import ACCOUNT, form
from tests.webhooks.backlog_support import deliver, delivery, happening, inbox, types_told


@pytest.mark.whole_service
@pytest.mark.seconds(8)
async def test_dead_letters_can_be_seen_replayed_and_worked_off_from_the_command_line(
    sqlite_cli: Cli, home: Path
) -> None:
    cli, place = sqlite_cli, f"sqlite:///{home}/kommo.db"
    async with Database.open(place) as database:
        await database.ensure()
        await deliver(database, "acme", happening("messages", "add", "a-b", text="Hello"))
        await deliver(database, "acme", happening("leads", "update", "not-a-number"))
        await _give_up(database)
        letter = next(event for event in await inbox(database) if event.state == "dead")
    backlog, dead, shown, refused, unknown = cli.together(
        ("webhooks", "backlog", "--json"),
        ("webhooks", "dead", "--json"),
        ("webhooks", "show", str(letter.id), "--json"),
        ("webhooks", "replay"),
        ("webhooks", "show", "999999"),
    )
    assert (unknown.code, "There is no event or delivery 999999" in unknown.sentence) == (1, True)
    [row] = backlog.answer
    assert (row["org"], row["pending"], row["dead"]) == ("acme", 1, 1)
    [one] = dead.answer["events"]
    assert (one["id"], one["reason"]) == (letter.id, "No such id.")
    assert "payload" not in one
    assert shown.answer["event"]["entity_id"] == "not-a-number"
    assert shown.answer["delivery"]["delivery_id"] == letter.delivery_id
    assert (refused.code, "Say which" in refused.sentence) == (2, True)
    replayed, again = (
        cli("webhooks", "replay", "--ids", str(letter.id), "--json"),
        cli("webhooks", "replay", "acme", "--since", "2026-01-01", "--json"),
    )
    nothing = {"read": 0, "events": 0, "still": {}}
    assert (replayed.answer, again.answer) == ({"replayed": 1, **nothing}, {"replayed": 0, **nothing})
    worked = cli("backlog", "--json").answer
    # Nobody is connected here: the org rests, and nothing is lost.
    assert worked["paused"].keys() == {"acme"}
    async with Database.open(place) as database:
        assert [event.state for event in await inbox(database)] == ["pending", "pending"]
        assert await types_told(database) == {}


@pytest.mark.seconds(5)
async def test_w1_deliveries_that_could_not_be_read_can_be_seen_and_read_again(
    sqlite_cli: Cli, home: Path
) -> None:
    cli, place = sqlite_cli, f"sqlite:///{home}/kommo.db"
    body = form(1001, account=ACCOUNT)
    garbage = replace(delivery("acme"), body=b"", reason="The body is empty.")
    async with Database.open(place) as database:
        await database.ensure()
        nobodys = replace(delivery(""), account_id=ACCOUNT, door="signed", body=body, reason="Nobody's.")
        await save_deliveries(database, [garbage, nobodys])
    dead, shown, early = cli.together(
        ("webhooks", "dead", "--json"),
        ("webhooks", "show", nobodys.delivery_id, "--json"),
        ("webhooks", "replay", "--ids", nobodys.delivery_id, "--json"),
    )
    assert {(one["delivery_id"], one["org"], one["bytes"]) for one in dead.answer["deliveries"]} == {
        (garbage.delivery_id, "acme", 0),
        (nobodys.delivery_id, "", len(body)),
    }
    assert (shown.answer["event"], b64decode(shown.answer["delivery"]["body"])) == (None, body)
    assert early.answer["still"] == {nobodys.delivery_id: NOBODYS}
    async with Database.open(place) as database:
        for org in ("acme", "beta"):
            await put_connection(
                database,
                org=org,
                block_name=org,
                host="acme.kommo.com",
                token_kind="long_lived",
                account_id=ACCOUNT,
                now=datetime.now(UTC),
            )
    again, twice = cli("webhooks", "replay", "--all", "--json"), cli("webhooks", "replay", "--all", "--json")
    assert (again.answer["read"], again.answer["events"]) == (1, 2)
    assert again.answer["still"].keys() == twice.answer["still"].keys() == {garbage.delivery_id}
    assert twice.answer["read"] == 0
    async with Database.open(place) as database:
        assert sorted((one.org, one.entity_id, one.state) for one in await inbox(database)) == [
            ("acme", "1001", "pending"),
            ("beta", "1001", "pending"),
        ]


async def _give_up(database: Database) -> None:
    turn = await take_turn(database, "test", 30.0)
    assert turn is not None
    [event] = [event for event in await inbox(database) if event.entity == "leads"]
    assert await fail_events(database, turn, [Failure(event.id, "No such id.", None)], now=datetime.now(UTC))
    await end_turn(database, turn)
