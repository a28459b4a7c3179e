"""At a real terminal: questions, answers that cannot be, and Ctrl-C once; `q` ends the watch."""

import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks.app import KommoApp
from deployments.setup import known_app, register_blocks
from store.connections import get_connection, put_connection
from store.database import Database
from tests.cli.support import plain_environment
from tests.cli.terminal import IN_THE_FOREGROUND, Terminal, at_a_terminal

CTRL_C, CTRL_D = "\x03", "\x04"
INTERRUPTED = "Interrupted. What was saved is whole; run the command again to go on."
ID = "01234567-89ab-cdef-0123-456789abcdef"
pytestmark = [pytest.mark.seconds(3), pytest.mark.usefixtures("quick")]


@pytest.fixture
def environment(prefect_api: str, home: Path) -> dict[str, str]:
    home.mkdir()
    return plain_environment(
        PREFECT_API_URL=prefect_api,
        KOMMO_HOME=str(home),
        KOMMO_DATABASE_URL=f"sqlite:///{home}/kommo.db",
    )


@pytest.fixture
async def no_app(prefect_api: str) -> AsyncIterator[None]:
    """Prefect without our block, whatever a test before has left, and so again for the next."""
    del prefect_api
    await register_blocks()
    await _forget_app()
    yield
    await _forget_app()


async def _forget_app() -> None:
    if await known_app() is not None:
        await KommoApp.adelete("default")


@pytest.fixture
async def acme(environment: dict[str, str]) -> AsyncIterator[Database]:
    """A store in which the org acme is connected."""
    async with Database.open(environment["KOMMO_DATABASE_URL"]) as database:
        await database.ensure()
        await put_connection(
            database,
            org="acme",
            block_name="org-acme",
            host="acme.kommo.com",
            account_id=1,
            token_kind="long_lived",
            now=datetime.now(UTC),
        )
        yield database


def _is_empty(home: Path) -> bool:
    if not (home / "kommo.db").exists():
        return True
    with sqlite3.connect(home / "kommo.db") as database:
        return not database.execute("SELECT name FROM sqlite_master").fetchall()


def _interrupt(terminal: Terminal, before: list[object]) -> None:
    """Ctrl-C, once."""
    terminal.press(CTRL_C)
    assert terminal.end() == 130
    assert terminal.text.rstrip().endswith(f"error: {INTERRUPTED}")
    assert "Traceback" not in terminal.text
    assert terminal.settings() == before


@pytest.mark.usefixtures("no_app")
async def test_setup_asks_again_until_an_answer_can_be(environment: dict[str, str]) -> None:
    with at_a_terminal(environment, "setup", "--no-deployments") as terminal:
        for number, wrong in enumerate(("with blanks", "https://x.example/", "s" * 64), 1):
            terminal.wait_for("Integration ID: ", number)
            terminal.type(wrong)
            terminal.wait_for("That is no ID", number)
        terminal.wait_for("Integration ID: ", 4)
        terminal.type(f"  {ID} ")
        terminal.wait_for("Secret key of the integration: ")
        terminal.type("canary with blanks")
        terminal.wait_for("That is no secret key")
        terminal.wait_for("Secret key of the integration: ", 2)
        terminal.type("canary-secret")
        for number, wrong in enumerate(
            ("app.example.com", "http://app.example.com", "https://a.example/?a=1"), 1
        ):
            terminal.wait_for("Public address of the product, https://…: ", number)
            terminal.type(wrong)
            terminal.wait_for("That is no public address", number)
        terminal.wait_for("Public address of the product, https://…: ", 4)
        terminal.type("https://app.example.com")
        terminal.wait_for("This is the only time that it is shown")
        terminal.press(CTRL_C)  # what follows is the doctor, which has tests of its own
        terminal.end()
    assert "canary" not in terminal.raw
    app = await known_app()
    assert app is not None
    assert (app.client_id, app.client_secret.get_secret_value()) == (ID, "canary-secret")
    assert (app.app_url, app.is_complete) == ("https://app.example.com", True)


@pytest.mark.usefixtures("no_app")
async def test_enter_takes_what_is_there(environment: dict[str, str]) -> None:
    known = KommoApp(
        client_id=ID,
        client_secret=SecretStr("canary-secret"),
        app_url="https://app.example.com",
        redirect_uri="https://app.example.com/elsewhere",
        webhook_secret=SecretStr("canary-hooks"),
        events_secret=SecretStr("canary-events"),
        sealing_keys=SecretStr("canary-keys"),
    )
    await known.asave("default")
    with at_a_terminal(environment, "setup", "--no-deployments") as terminal:
        terminal.wait_for(f"Integration ID ({ID}): ")
        terminal.type("")
        terminal.wait_for("Secret key of the integration (empty: as it is): ")
        terminal.type("")
        terminal.wait_for("(https://app.example.com): ")
        terminal.type("")
        terminal.wait_for("The Kommo App block 'default' is as it should be.")
        terminal.wait_for("This is the only time that it is shown")
        terminal.press(CTRL_C)
        terminal.end()
    assert "canary" not in terminal.raw
    assert await known_app() == known


@pytest.mark.usefixtures("no_app")
@pytest.mark.parametrize("answered", [0, 1, 2])
async def test_ctrl_c_once_ends_setup_and_nothing_is_begun(
    environment: dict[str, str], home: Path, answered: int
) -> None:
    questions = ("Integration ID: ", "Secret key of the integration: ", "Public address of the product")
    with at_a_terminal(environment, "setup", "--no-deployments") as terminal:
        before = terminal.settings()
        for question, answer in zip(questions, (ID, "canary-secret"), strict=False):
            terminal.wait_for(question)
            if question == questions[answered]:
                break
            terminal.type(answer)
        terminal.wait_for(questions[answered])
        _interrupt(terminal, before)
    assert _is_empty(home)
    assert await known_app() is None


@pytest.mark.usefixtures("no_app")
async def test_answers_that_end_are_said(environment: dict[str, str], home: Path) -> None:
    with at_a_terminal(environment, "setup") as terminal:
        terminal.wait_for("Integration ID: ")
        terminal.press(CTRL_D)
        assert terminal.end() == 2
    assert "The answers ended before the last question" in terminal.text
    assert _is_empty(home)
    assert await known_app() is None


async def test_ctrl_c_once_ends_the_question_for_a_token(environment: dict[str, str], home: Path) -> None:
    with at_a_terminal(environment, "connect", "acme", "--domain", "acme.kommo.com") as terminal:
        before = terminal.settings()
        terminal.wait_for("Long-lived token: ")
        assert terminal.settings() != before, "what is typed is not shown"
        _interrupt(terminal, before)
    assert _is_empty(home)


REMOVALS = pytest.mark.parametrize(
    "command", [("disconnect", "acme", "--purge"), ("org", "erase", "acme")], ids=["purge", "erase"]
)


@REMOVALS
async def test_ctrl_c_once_ends_what_cannot_be_undone_before_it_begins(
    environment: dict[str, str], acme: Database, command: tuple[str, ...]
) -> None:
    with at_a_terminal(environment, *command) as terminal:
        before = terminal.settings()
        terminal.wait_for("acme? Type its name: ")
        _interrupt(terminal, before)
    assert (await get_connection(acme, "acme")).state == "connected"


@REMOVALS
async def test_another_name_removes_nothing(
    environment: dict[str, str], acme: Database, command: tuple[str, ...]
) -> None:
    with at_a_terminal(environment, *command) as terminal:
        terminal.wait_for("acme? Type its name: ")
        terminal.type("acme-2")
        assert terminal.end() == 2
    assert "Nothing was removed." in terminal.text
    assert (await get_connection(acme, "acme")).state == "connected"


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("key", ["q", "Q", CTRL_C], ids=["q", "Q", "Ctrl-C"])
async def test_one_key_ends_the_watch_and_the_terminal_is_as_it_was(
    environment: dict[str, str], key: str
) -> None:
    # Long between two looks: the key itself must end it.
    command = ("status", "--watch", "--every", "600")
    with at_a_terminal(environment, *command, program=IN_THE_FOREGROUND) as terminal:
        before = terminal.settings()
        terminal.wait_for("q ends")
        assert terminal.settings() != before
        terminal.press("x")
        terminal.press(key)
        assert terminal.end() == 0
        assert terminal.settings() == before
    ends = [terminal.raw.rfind(order) for order in ("\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h")]
    assert -1 < ends[0] < ends[1], "the other screen was left"
    assert -1 < ends[2] < ends[3], "the cursor is seen again"
