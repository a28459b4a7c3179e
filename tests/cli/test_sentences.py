"""What the commands say where a newcomer stumbles; in this process, because starting `kommo` takes seconds."""

import asyncio
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)
from rich.console import Console

import deployments.cli.sync as shown
from blocks.settings import Settings
from deployments.cli import build_app
from deployments.cli.connect import connect
from deployments.cli.refresh import disconnect, refresh
from deployments.cli.run import WrongUseError, exit_code
from deployments.cli.snapshot import show
from deployments.cli.status import status
from deployments.cli.sync import sync
from kommo.clock import SystemClock
from kommo.errors import KommoError
from sandbox import AccountAccess, Sandbox, running_sandbox
from store.connections import set_state
from store.errors import UnknownConnectionError
from tasks.errors import NotConnectedError
from tasks.installation import open_database
from tests.syncing import connect as connected
from tests.syncing import quiet_config

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
async def kommo() -> AsyncIterator[Sandbox]:
    async with running_sandbox(
        quiet_config(accounts=1, leads=1, contacts=1, companies=1, talks=0)
    ) as sandbox:
        yield sandbox


@pytest.fixture
def acme(kommo: Sandbox, installation: Settings) -> AccountAccess:
    del installation  # it is in the environment
    return kommo.accounts[0]


@pytest.mark.parametrize("administrator", [True, False])
async def test_a_token_of_somebody_who_is_no_administrator_is_warned_of(
    acme: AccountAccess, capsys: pytest.CaptureFixture[str], *, administrator: bool
) -> None:
    token = acme.admin_token if administrator else acme.plain_token
    await connect("acme", domain=acme.host, token=token)
    told = capsys.readouterr()
    assert "Connected acme" in told.out
    assert ("not an administrator" in told.err) is not administrator


async def test_an_address_without_an_account_is_said_to_be_one(acme: AccountAccess) -> None:
    nobody = acme.host.replace("acme.", "nobody.")
    with pytest.raises(KommoError, match=r"no Kommo account at this address\. Check how"):
        await connect("acme", domain=nobody, token=acme.admin_token)


@pytest.mark.parametrize("token", ["eyJ-half-of", "two words", "täken"])
async def test_what_is_no_token_is_said_to_be_none_and_not_repeated(acme: AccountAccess, token: str) -> None:
    with pytest.raises(KommoError, match="does not look like a token") as failed:
        await connect("acme", domain=acme.host, token=token)
    assert token not in str(failed.value)


async def test_a_redirect_uri_that_kommo_does_not_know_is_named(
    acme: AccountAccess, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = kommo.world.integration
    monkeypatch.setenv("KOMMO_CLIENT_ID", known.client_id)
    monkeypatch.setenv("KOMMO_CLIENT_SECRET", known.client_secret)
    monkeypatch.setenv("KOMMO_REDIRECT_URI", "https://elsewhere.example.com/back?x=canary")
    with pytest.raises(KommoError, match=r"sent is https://elsewhere\.example\.com/back\.") as failed:
        await connect("acme", domain=acme.host, code="a-code")
    assert "canary" not in str(failed.value)


async def test_refreshing_asks_for_no_integration_where_none_is_needed(
    acme: AccountAccess, installation: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    await connected("acme", acme, installation)
    await refresh()
    assert "0 connections due" in capsys.readouterr().out
    with pytest.raises(NotConnectedError, match="long-lived token, which is not refreshed"):
        await refresh("acme")
    with pytest.raises(UnknownConnectionError, match="'amce' has no connection"):
        await refresh("amce")


async def test_an_ended_connection_shows_no_end_of_a_token(
    acme: AccountAccess, installation: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    await connected("acme", acme, installation)
    await status("acme")
    assert "token ends" in capsys.readouterr().out
    async with open_database(installation) as database:
        await set_state(database, "acme", "disconnected", "A person did it.", now=SystemClock().now())
    await status("acme")
    assert "token ends" not in capsys.readouterr().out


async def test_wrong_use_is_named() -> None:
    with pytest.raises(WrongUseError, match=r"Name what to show.*pipelines.*lead_fields"):
        await show("acme")
    with pytest.raises(WrongUseError, match="--json as well"):
        await show("acme", "pipelines", raw=True)
    with pytest.raises(WrongUseError, match="Name one org, or say --all-orgs"):
        await sync("acme", all_orgs=True)


@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN])
def test_being_told_to_end_ends_a_command_as_ctrl_c_does(interrupt: Any) -> None:
    """So that what it has started, Prefect's small server first of all, ends with it; also in a script's background."""
    at_first = signal.signal(signal.SIGINT, interrupt)
    try:
        _end_a_command()
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, at_first)


def _end_a_command() -> None:
    tidied: list[bool] = []

    async def waiting() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
        finally:
            tidied.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert exit_code(lambda: asyncio.run(waiting())) == 143
    assert tidied == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_flow_that_is_told_to_end_says_so_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Within a flow Prefect listens to the signal itself."""

    @flow(name="waits")
    async def waits() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(30)

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert exit_code(lambda: asyncio.run(waits())) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    told = capsys.readouterr().err
    assert "Interrupted" in told
    assert "Traceback" not in told


def test_a_prefect_server_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):

        @flow(name="nobody hears of it")
        async def unheard() -> None:
            """Nothing."""

        assert exit_code(lambda: asyncio.run(unheard())) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "Prefect's server at http://127.0.0.1:9/api does not answer" in told


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (None, "does not answer. Start it"),
        (401, "does not let us in. Set PREFECT_API_AUTH_STRING"),
    ],
)
def test_a_command_that_asks_prefects_server_names_why_it_cannot(
    status: int | None, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a flow: Prefect then lets the errors of its HTTP client through."""

    def answer(request: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("All connection attempts failed", request=request)
        return httpx.Response(status, request=request)

    async def ask() -> None:
        url = "http://127.0.0.1:9/api"
        async with PrefectClient(url, httpx_settings={"transport": httpx.MockTransport(answer)}) as client:
            await client.read_work_pools()

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
        assert exit_code(lambda: asyncio.run(ask())) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"Prefect's server at http://127.0.0.1:9/api {sentence}" in told


async def test_an_org_that_is_not_connected_is_said_before_a_flow_begins(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    del installation

    async def never(*_: object, **__: object) -> None:
        raise AssertionError("a flow began")

    monkeypatch.setattr("flows.full_sync.full_crm_sync", never)
    monkeypatch.setattr("flows.token_refresh.token_refresh", never)
    monkeypatch.setattr("flows.connect.disconnect_account", never)
    for command in (sync("nobody"), refresh("nobody"), disconnect("nobody")):
        with pytest.raises(UnknownConnectionError, match="nobody"):
            await command


def test_an_interrupted_command_leaves_in_time_and_takes_along_what_it_started() -> None:
    script = """
import atexit, subprocess, sys, time
from deployments.cli import run
run.LEAVES_WITHIN = 0.3
atexit.register(time.sleep, 60)
def stopped(*_, **__):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    raise KeyboardInterrupt
run.run_app(stopped)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 130
    assert "Interrupted" in done.stderr
    deadline = time.monotonic() + 10
    while _is_running(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["connect", "acme", "--domain", "acme.kommo.com", "--token", "-"], "token"),
        (["connect", "acme", "--domain", "acme.kommo.com", "--code", "-"], "code"),
        (["records", "sql", "-"], "question"),
    ],
)
def test_a_dash_for_standard_input_is_taken_where_the_help_says_so(words: list[str], name: str) -> None:
    _, bound, _ = build_app().parse_args(words, exit_on_error=False)
    assert bound.arguments[name] == "-"


def test_a_quiet_that_kommo_asks_for_is_said_where_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(shown, "err", Console(file=written, width=200))
    logger = logging.getLogger("kommo.sending")
    monkeypatch.setattr(logging.root, "level", logging.ERROR)  # as at a terminal
    with shown.shown_progress():
        logger.warning("Kommo answered 429: nothing is sent on %s for %d s.", "account:1", 300)
    assert written.getvalue() == "note: Kommo answered 429: nothing is sent on account:1 for 300 s.\n"
    assert not logger.handlers
