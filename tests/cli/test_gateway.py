"""`kommo gateway` and `kommo keys api` as real processes."""

import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from blocks.app import CALLBACK_PATH
from tests.cli.support import Cli, SandboxProcess
from tests.quick.running import KOMMO

_APP = {
    "KOMMO_CLIENT_ID": "0c6f3d2e-0000-4000-8000-000000000001",
    "KOMMO_CLIENT_SECRET": "canary-client-secret",
    "APP_URL": "https://app.example.com",
}


@contextmanager
def _gateway(environment: Mapping[str, str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [*KOMMO, "gateway", "--port", "0", "--json"]
    with subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                text += line
            yield json.loads(text)["url"], process
        finally:
            process.kill()


def _get(url: str, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - loopback
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=30) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers if error.code == 302 else json.load(error)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *_: Any) -> None:
        return None


@pytest.mark.seconds(6)
def test_a_key_is_shown_once_listed_without_itself_and_revoked(cli: Cli) -> None:
    made = cli("keys", "api", "create", "the product", "--org", "acme", "--org", "globex", "--json").answer
    assert re.fullmatch(r"kdp_[\w-]{43}", made["key"])
    assert made["orgs"] == ["acme", "globex"]
    everywhere = cli("keys", "api", "create", "all of it", "--all-orgs")
    assert everywhere.code == 0
    assert "kdp_" in everywhere.out
    listed = cli("keys", "api", "list")
    assert made["key_id"] in listed.out
    assert "every org" in listed.out
    assert "kdp_" not in listed.out
    assert cli("keys", "api", "revoke", made["key_id"]).code == 0
    again = cli("keys", "api", "revoke", made["key_id"])
    assert (again.code, "no such key" in again.sentence) == (2, True)
    [kept] = [key for key in cli("keys", "api", "list", "--json").answer if key["key_id"] == made["key_id"]]
    assert kept["revoked_at"]


def test_a_key_must_be_for_some_org_or_for_all(sqlite_cli: Cli) -> None:
    for wrong in ([], ["--org", "acme", "--all-orgs"], ["--org", "Not An Org"]):
        assert sqlite_cli("keys", "api", "create", "x", *wrong).code == 2


@pytest.mark.seconds(6)
def test_a_gateway_serves_keeps_queries_out_of_its_log_and_stops_when_told(cli: Cli) -> None:
    key = cli("keys", "api", "create", "product", "--all-orgs", "--json").answer["key"]
    with _gateway({**cli.environment, **_APP}) as (url, process):
        status, headers = _get(f"{url}/healthz")
        assert status == 200
        assert "server" not in headers
        assert _get(f"{url}/readyz")[0] == 200
        signed = {"Authorization": f"Bearer {key}", "X-Kommo-Org": "acme"}
        status, headers = _get(f"{url}/api/v1/crm/kommo/oauth?domain=acme", **signed)
        assert status == 302
        assert headers["Location"].startswith("https://www.kommo.com/oauth?client_id=0c6f3d2e")
        query = "code=canary-code&state=canary-state&referer=acme.kommo.com"
        status, body = _get(f"{url}/api/v1/crm/kommo/callback?{query}")
        assert (status, body) == (400, {"error": "Invalid or expired state"})
        assert _get(f"{url}/api/v1/orgs/acme/connection", **signed)[0] == 404
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "GET /api/v1/crm/kommo/callback 400" in log
    for secret in ("canary", key, "domain=", "Traceback"):
        assert secret not in log


@pytest.mark.seconds(6)
def test_t2_a_gateway_that_is_told_to_stop_finishes_a_code_whose_browser_has_gone(
    cli: Cli, sandbox_process: SandboxProcess
) -> None:
    integration = sandbox_process.control("integrations")[0]
    application = {
        "KOMMO_CLIENT_ID": integration["client_id"],
        "KOMMO_CLIENT_SECRET": integration["client_secret"],
        "KOMMO_REDIRECT_URI": integration["redirect_uri"],
        "KOMMO_AUTHORIZE_BASE": sandbox_process.url,
        "APP_URL": "https://app.example.com",
    }
    key = cli("keys", "api", "create", "product", "--org", "acme", "--json").answer["key"]
    signed = {"Authorization": f"Bearer {key}", "X-Kommo-Org": "acme"}
    sandbox_process.control(
        "faults", {"kind": "slow", "path": "/oauth2/access_token", "delay": 2.0, "times": 1}
    )
    with _gateway({**cli.environment, **application}) as (url, process):
        _, headers = _get(f"{url}/api/v1/crm/kommo/oauth?domain={sandbox_process.acme['host']}", **signed)
        [state] = parse_qs(urlsplit(headers["Location"]).query)["state"]
        target = sandbox_process.control("authorize", {"state": state})["callback_url"]
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as browser:
            head = f"GET {CALLBACK_PATH}?{urlsplit(target).query} HTTP/1.1\r\nHost: x\r\n"
            lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
            browser.sendall(f"{head}{lines}\r\n".encode())
            time.sleep(1)  # the code is on its way to Kommo now
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert cli("status", "acme", "--json").answer["state"] == "connected"


def test_a_gateway_without_an_integration_says_what_is_missing(sqlite_cli: Cli) -> None:
    ran = sqlite_cli("gateway", "--port", "0")
    assert ran.code == 1
    assert "KOMMO_CLIENT_ID" in ran.sentence
    assert "Traceback" not in ran.err


@pytest.mark.seconds(8)
def test_w4_a_gateway_whose_integration_lies_on_a_prefect_that_is_away_takes_webhooks_in(
    sqlite_cli: Cli,
) -> None:
    environment = {**sqlite_cli.environment, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    with _gateway(environment) as (url, process):
        answer = httpx.post(f"{url}/api/webhooks/kommo/{'x' * 43}", content=b"a=1", timeout=10)
        assert answer.status_code == 404, "the key was looked up"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert "Prefect does not answer" in log
    assert process.returncode == 0, log


@pytest.mark.seconds(6)
def test_a_gateway_on_a_port_that_is_taken_says_so(sqlite_cli: Cli) -> None:
    environment = {**sqlite_cli.environment, **_APP}
    with _gateway(environment) as (url, _):
        ran = Cli(environment)("gateway", "--port", url.rpartition(":")[2])
    assert ran.code == 2
    assert "cannot be used" in ran.sentence


@pytest.mark.seconds(6)
def test_a_gateway_needs_no_prefect_server_to_start(sqlite_cli: Cli) -> None:
    environment = {
        name: value for name, value in sqlite_cli.environment.items() if not name.startswith("PREFECT_API")
    } | _APP
    for prefect in (
        {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        {"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"},
    ):
        with _gateway(environment | prefect) as (url, _):
            assert _get(f"{url}/readyz")[0] == 200
