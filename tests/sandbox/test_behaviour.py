"""What a client of the sandbox sees: the check list of the fact sheet, over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox import AccountAccess, LimitSettings, Sandbox, SandboxConfig, running_sandbox


@dataclass(frozen=True)
class Answer:
    """One answer, as bytes came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    sandbox: Sandbox, path: str, *, method: str = "GET", host: str = "", token: str = "", body: Any = None
) -> Answer:
    """A request by hand: what the client library under test does cannot hide anything here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    data = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host or f'127.0.0.1:{sandbox.port}'}",
        f"Content-Length: {len(data)}",
        "Content-Type: application/json",
        "Connection: close",
    ]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)
    await writer.drain()
    raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, payload = raw.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in headers)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in pairs}, payload)


@pytest.fixture
async def kommo() -> AsyncIterator[Sandbox]:
    async with running_sandbox(SandboxConfig(limits=LimitSettings(per_ip=0, per_account=0))) as sandbox:
        yield sandbox


def _first(sandbox: Sandbox) -> AccountAccess:
    return sandbox.accounts[0]


async def test_pages_together_hold_every_item_once(kommo: Sandbox) -> None:
    account = _first(kommo)
    seen: list[int] = []
    path = "/api/v4/leads/custom_fields?page=1&limit=7"
    while path:
        answer = (await ask(kommo, path, host=account.host, token=account.admin_token)).json()
        seen += [field["id"] for field in answer["_embedded"]["custom_fields"]]
        link = answer["_links"].get("next", {}).get("href", "")
        path = link.partition(account.host)[2]
    assert sorted(seen) == sorted(field["id"] for field in kommo.account("acme").fields["leads"])
    assert len(seen) > 50


async def test_an_empty_list_is_204_and_an_unknown_path_404(kommo: Sandbox) -> None:
    account = _first(kommo)
    nothing = await ask(kommo, "/api/v4/leads/999999999", host=account.host, token=account.admin_token)
    assert (nothing.status, nothing.body) == (204, b"")
    channels = await ask(kommo, "/api/v4/channels", host=account.host, token=account.admin_token)
    assert channels.status == 404
    assert channels.json()["detail"].startswith("Cannot GET http")
    assert channels.headers["content-type"].startswith("application/problem+json")
    assert channels.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/v4/leads?limit=251", 422), ("/api/v4/account", 401), ("/api/v4/users", 403)],
)
async def test_errors_have_their_status(kommo: Sandbox, path: str, status: int) -> None:
    account = _first(kommo)
    token = {401: "wrong", 403: account.plain_token}.get(status, account.admin_token)
    assert (await ask(kommo, path, host=account.host, token=token)).status == status


async def test_a_token_opens_its_own_account_only(kommo: Sandbox) -> None:
    mine, other = kommo.accounts[:2]
    assert (await ask(kommo, "/api/v4/account", host=other.host, token=mine.admin_token)).status == 401


async def test_the_eighth_request_in_a_second_is_refused_and_repeated_refusals_block_the_address() -> None:
    limits = LimitSettings(per_ip=7, per_account=7, retry_after=3, block_after=5)
    async with running_sandbox(SandboxConfig(limits=limits, accounts=1)) as kommo:
        account = _first(kommo)

        async def once() -> Answer:
            return await ask(kommo, "/api/v4/account", host=account.host, token=account.admin_token)

        answers = await asyncio.gather(*(once() for _ in range(14)))
        statuses = [answer.status for answer in answers]
        assert statuses.count(200) == 7
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.json()["retry_after"] == 3
        blocked = await once()
        assert blocked.status == 403
        assert "json" not in blocked.headers["content-type"]
        windows = (await ask(kommo, "/_sandbox/windows")).json()
        assert windows


async def test_the_same_seed_gives_the_same_answer_to_the_byte() -> None:
    bodies = []
    for _ in range(2):
        async with running_sandbox(SandboxConfig(accounts=1, port=0)) as kommo:
            account = _first(kommo)
            answer = await ask(
                kommo, "/api/v4/leads/custom_fields?limit=250", host=account.host, token=account.admin_token
            )
            bodies.append(answer.body.replace(account.host.encode(), b"HOST"))
    assert bodies[0] == bodies[1]


async def test_a_refresh_uses_up_its_token_with_grace_until_the_new_pair_is_used(kommo: Sandbox) -> None:
    account, integration = _first(kommo), kommo.world.integration
    allowed = (await ask(kommo, "/_sandbox/authorize", method="POST", body={"account": "acme"})).json()
    base = {
        "client_id": integration.client_id,
        "client_secret": integration.client_secret,
        "redirect_uri": integration.redirect_uri,
    }

    async def token(**grant: str) -> Answer:
        return await ask(kommo, "/oauth2/access_token", method="POST", host=account.host, body=base | grant)

    first = (await token(grant_type="authorization_code", code=allowed["code"])).json()
    assert (await token(grant_type="authorization_code", code=allowed["code"])).status == 400
    second = (await token(grant_type="refresh_token", refresh_token=first["refresh_token"])).json()
    again = await token(grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert again.status == 200
    newest = again.json()["access_token"]
    assert (await ask(kommo, "/api/v4/account", host=account.host, token=newest)).status == 200
    late = await token(grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert late.status == 401
    assert late.json()["hint"] == "Token has been revoked"
    assert second["access_token"] != newest


@pytest.mark.parametrize("kind", ["500", "502", "429", "truncate", "403_html"])
async def test_a_fault_on_demand_strikes_once_and_is_logged(kommo: Sandbox, kind: str) -> None:
    account = _first(kommo)
    await ask(kommo, "/_sandbox/faults", method="POST", body={"kind": kind, "times": 1})
    struck = await ask(kommo, "/api/v4/account", host=account.host, token=account.admin_token)
    healthy = await ask(kommo, "/api/v4/account", host=account.host, token=account.admin_token)
    assert struck.status != 200 or len(struck.body) < int(struck.headers["content-length"])
    assert healthy.status == 200
    assert healthy.json()["id"] == account.account_id
    log = (await ask(kommo, "/_sandbox/requests")).json()
    assert [bool(entry["fault"]) for entry in log] == [True, False]


async def test_writes_are_validated_and_answered_thinly(kommo: Sandbox) -> None:
    account = _first(kommo)

    async def write(method: str, path: str, body: Any) -> Answer:
        return await ask(kommo, path, method=method, host=account.host, token=account.admin_token, body=body)

    made = await write("POST", "/api/v4/leads", [{"name": "New", "price": 5, "request_id": "mine"}])
    assert made.status == 200
    [lead] = made.json()["_embedded"]["leads"]
    assert lead["request_id"] == "mine"
    assert "price" not in lead
    refused = await write("PATCH", f"/api/v4/leads/{lead['id']}", {"price": "many"})
    assert refused.status == 400
    assert refused.json()["validation-errors"][0]["errors"][0]["code"] == "InvalidType"
    note = await write(
        "POST", f"/api/v4/leads/{lead['id']}/notes", [{"note_type": "whatsapp_message", "params": {}}]
    )
    assert note.status == 400
