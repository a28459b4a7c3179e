"""`kommo status` for a fleet: who is broken, why, since when, and what to do."""

import io
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from blocks.settings import Settings
from deployments.cli.watching import drawn
from store.connections import ConnectionState, put_connection
from store.database import Database
from store.subscriptions import Subscription, SubscriptionState, save_subscription
from tasks.installation import open_database
from tasks.status import FleetView, look_at_fleet
from tests.cli.support import ROOT, Cli

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
FLEET = {
    "anna": (ConnectionState.CONNECTED, None, 5),
    "bert": (ConnectionState.REAUTHORIZATION_REQUIRED, "Kommo gave its final word.", 3),
    "carl": (ConnectionState.DEGRADED, "Channels cannot be read.", 1),
    "deaf": (ConnectionState.CONNECTED, None, 4),
    "ende": (ConnectionState.DISCONNECTED, None, 2),
}
BROKEN = ["bert", "carl", "deaf"]


async def _fleet(database: Database) -> None:
    for org, (state, reason, days) in FLEET.items():
        await put_connection(
            database,
            org=org,
            block_name=f"kommo-{org}",
            host=f"{org}.kommo.com",
            token_kind="pair",
            token_fingerprint=f"fp-{org}",
            account_name=f"{org.title()} GmbH",
            state=state,
            reason=reason,
            now=NOW - timedelta(days=days),
        )
    async with database.begin() as connection:
        await save_subscription(
            connection,
            Subscription(
                org="deaf",
                key_hash=None,
                destination_host=None,
                settings=(),
                state=SubscriptionState.DISABLED,
                reason="Kommo switched it off.",
                checked_at=NOW,
                disabled_seen_at=NOW,
            ),
        )


@pytest.fixture
async def fleet(installation: Settings) -> None:
    async with open_database(installation) as database:
        await _fleet(database)


@pytest.mark.parametrize(
    ("view", "orgs"),
    [
        (FleetView(), ["anna", "bert", "carl", "deaf", "ende"]),
        (FleetView(sort="state"), ["bert", "carl", "deaf", "anna", "ende"]),
        (FleetView(sort="since"), ["deaf", "bert", "carl", "anna", "ende"]),
        (FleetView(broken=True), BROKEN),
        (FleetView(states=("degraded", "disconnected")), ["carl", "ende"]),
        (FleetView(search="FINAL"), ["bert"]),
        (FleetView(search="%"), []),
        (FleetView(limit=2, offset=2), ["carl", "deaf"]),
        (FleetView(offset=4), ["ende"]),
    ],
)
@pytest.mark.usefixtures("fleet")
async def test_a_fleet_is_filtered_sorted_and_paged(
    view: FleetView, orgs: list[str], installation: Settings
) -> None:
    async with open_database(installation) as database:
        look = await look_at_fleet(database, view)
    assert [row["org"] for row in look.connections] == orgs
    assert (look.totals.connected, look.totals.well, look.totals.broken, look.totals.ended) == (4, 1, 3, 1)


@pytest.mark.usefixtures("fleet")
async def test_each_broken_one_says_why_and_what_to_do(cli: Cli) -> None:
    said = cli("status", "--broken")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == (
        "4 connected: 1 well, 3 broken (1 reauthorization_required, 1 degraded, 1 webhooks off); 1 disconnected"
    )
    assert [line.split()[0] for line in lines[2:]] == BROKEN
    for line, why, step in (
        (lines[2], "Kommo gave its final word.", "kommo connect bert"),
        (lines[3], "Channels cannot be read.", "kommo sync carl"),
        (lines[4], "Kommo switched it off.", "kommo webhooks health deaf"),
    ):
        assert why in line
        assert step in line
    rows = json.loads(cli("status", "--json").out)
    assert {row["org"] for row in rows if row["broken"]} == set(BROKEN)
    assert all((row["next_step"] is not None) == row["broken"] for row in rows)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--state", "ill"],
        ["--sort", "size"],
        ["--page", "0"],
        ["--limit", "0"],
        ["--watch", "--json"],
        ["anna", "--broken"],
        ["--watch", "--every", "0"],
    ],
)
def test_wrong_use_is_said_with_code_2(wrong: list[str], sqlite_cli: Cli) -> None:
    assert sqlite_cli("status", *wrong).code == 2


@pytest.mark.usefixtures("fleet")
async def test_a_screen_of_the_watch_has_the_summary_and_how_to_leave(installation: Settings) -> None:
    from rich.console import Console

    async with open_database(installation) as database:
        look = await look_at_fleet(database, FleetView(sort="state"))
    console = Console(width=200, height=24, record=True, file=io.StringIO())
    console.print(drawn(look, 2.0))
    screen = console.export_text()
    assert "4 connected: 1 well, 3 broken" in screen
    assert "q ends" in screen
    assert screen.index("bert") < screen.index("anna")


async def test_a_piped_watch_tells_changes_and_ends_well(installation: Settings) -> None:
    async with open_database(installation) as database:
        await _fleet(database)
        command = [
            sys.executable,
            "-c",
            "from deployments.cli import main; main()",
            *["status", "-w", "--every", "0.2"],
        ]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:  # noqa: ASYNC220 - alone
            assert watching.stdout is not None
            assert "3 broken" in watching.stdout.readline()
            await put_connection(
                database,
                org="bert",
                block_name="kommo-bert",
                host="bert.kommo.com",
                token_kind="pair",
                token_fingerprint="fp-2",
                now=NOW,
            )
            assert "bert: connected" in watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 0
