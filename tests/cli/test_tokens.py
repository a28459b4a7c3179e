"""Connecting by the consent page, refreshing and disconnecting, as a person does it: real processes."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Cli, SandboxProcess

# What a person does in the browser: follow the link, press Allow (or Decline), be sent back.
BROWSER = """
import sys, urllib.request
decision = {decision!r}
urllib.request.urlopen(sys.argv[1] + "&account=acme&auto=" + decision, timeout=30).read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def integration(sandbox_process: SandboxProcess) -> Iterator[dict[str, Any]]:
    """The sandbox's integration, sending people back to a free port of this machine."""
    [before] = sandbox_process.control("integrations")
    known = sandbox_process.control(
        "integrations", {"redirect_uri": f"http://127.0.0.1:{free_port()}/connected"}
    )
    yield known
    sandbox_process.control("integrations", {"redirect_uri": before["redirect_uri"]})


def environment(integration: dict[str, Any], sandbox: SandboxProcess, **more: str) -> dict[str, str]:
    return {
        "KOMMO_CLIENT_ID": integration["client_id"],
        "KOMMO_CLIENT_SECRET": integration["client_secret"],
        "KOMMO_REDIRECT_URI": integration["redirect_uri"],
        "KOMMO_AUTHORIZE_BASE": sandbox.url,
        **more,
    }


def browser(folder: Path, decision: str) -> str:
    script = folder / f"{decision}.py"
    script.write_text(BROWSER.format(decision=decision))
    return f"{sys.executable} {script} %s"


@pytest.mark.whole_service
@pytest.mark.seconds(20)
def test_from_the_consent_page_to_the_end_of_a_connection(
    sqlite_cli: Cli, sandbox_process: SandboxProcess, integration: dict[str, Any], tmp_path: Path
) -> None:
    environ = environment(integration, sandbox_process, BROWSER=browser(tmp_path, "allow"))
    connected = sqlite_cli("connect", "acme", "--browser", **environ)
    assert connected.code == 0, connected.err
    assert "Connected acme" in connected.out

    [status] = sqlite_cli("status", "--json").answer
    assert (status["state"], status["token_kind"]) == ("connected", "pair")

    refreshed = sqlite_cli("refresh", "acme", "--json", **environ)
    synced = sqlite_cli("sync", "acme", "--json", **environ)
    assert refreshed.answer["refreshed"] == 1
    assert synced.answer["state"] == "completed"
    assert json.loads(sqlite_cli("status", "--json").out)[0]["token_serial"] == 2

    code = sandbox_process.control("authorize", {"account": "acme"})
    by_code = sqlite_cli(
        "connect", "acme", "--domain", code["host"], "--code", code["code"], "--json", **environ
    )
    assert by_code.answer["state"] == "connected"
    again = sqlite_cli("connect", "acme", "--domain", code["host"], "--code", code["code"], **environ)
    assert again.code == 1
    assert "refused the authorization" in again.sentence

    ended = sqlite_cli("disconnect", "acme", **environ)
    assert ended.code == 0, ended.err
    assert sqlite_cli("snapshot", "show", "acme", "pipelines", "--json").answer["items"]
    assert sqlite_cli("sync", "acme", **environ).code == 1


@pytest.mark.seconds(3)
def test_declining_connects_nothing(
    sqlite_cli: Cli, sandbox_process: SandboxProcess, integration: dict[str, Any], tmp_path: Path
) -> None:
    environ = environment(integration, sandbox_process, BROWSER=browser(tmp_path, "decline"))
    declined = sqlite_cli("connect", "acme", "--browser", **environ)
    assert declined.code != 0
    assert "declined" in declined.sentence
    assert sqlite_cli("status", "--json").answer == []


@pytest.mark.seconds(4)
def test_what_is_missing_is_named(sqlite_cli: Cli) -> None:
    assert "KOMMO_CLIENT_ID" in sqlite_cli("connect", "acme", "--browser").sentence
    wrong = sqlite_cli.together(
        ("connect", "acme", "--browser", "--code", "x"), ("connect", "acme"), ("refresh", "--within", "soon")
    )
    assert [ran.code for ran in wrong] == [2, 2, 2]
