"""`kommo webhooks` and `kommo backlog`: what waits, what was given up, and trying it again."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from store.backlog import Failure, end_turn, fail_events, take_turn
from store.database import Database
from tests.cli.support import Cli
from tests.webhooks.backlog_support import deliver, happening, inbox, types_told


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
    assert (unknown.code, "There is no event 999999" in unknown.sentence) == (1, True)
    [row] = backlog.answer
    assert (row["org"], row["pending"], row["dead"]) == ("acme", 1, 1)
    [one] = dead.answer
    assert (one["id"], one["reason"]) == (letter.id, "No such id.")
    assert "payload" not in one
    assert shown.answer["event"]["entity_id"] == "not-a-number"
    assert shown.answer["delivery"]["delivery_id"] == letter.delivery_id
    assert (refused.code, "Say which" in refused.sentence) == (2, True)
    replayed, again = (
        cli("webhooks", "replay", "--ids", str(letter.id), "--json"),
        cli("webhooks", "replay", "acme", "--since", "2026-01-01", "--json"),
    )
    assert (replayed.answer, again.answer) == ({"replayed": 1}, {"replayed": 0})
    worked = cli("backlog", "--json").answer
    # Nobody is connected here: the org rests, and nothing is lost.
    assert worked["paused"].keys() == {"acme"}
    async with Database.open(place) as database:
        assert [event.state for event in await inbox(database)] == ["pending", "pending"]
        assert await types_told(database) == {}


async def _give_up(database: Database) -> None:
    turn = await take_turn(database, "test", 30.0)
    assert turn is not None
    [event] = [event for event in await inbox(database) if event.entity == "leads"]
    assert await fail_events(database, turn, [Failure(event.id, "No such id.", None)], now=datetime.now(UTC))
    await end_turn(database, turn)
