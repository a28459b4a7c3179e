"""OAuth as a client meets it: consent, codes, pairs that rotate, hints, renamed accounts (fact sheet 1)."""

import asyncio
import base64
import hashlib
import hmac
import json
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from sandbox import running_sandbox
from tests.sandbox.oauth_support import Listener, code, consent, hint, pair, token
from tests.sandbox.support import SMALL, Api

MONTHS = 91 * 86_400


async def test_the_consent_page_offers_allow_and_decline(api: Api) -> None:
    page = await consent(api, state='"><script>')
    assert page.headers["content-type"].startswith("text/html")
    assert 'value="allow"' in page.text
    assert 'value="decline"' in page.text
    assert page.text.count("<script>") == 1  # its own
    assert "&quot;&gt;&lt;script&gt;" in page.text
    assert (await consent(api, client_id="nobody")).status_code == 404


async def test_allow_redirects_with_code_referer_client_platform_and_the_state_that_was_sent(
    api: Api,
) -> None:
    answer = await consent(api, state="abc", account="globex", auto="allow")
    assert answer.status_code == 302
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert set(query) == {"code", "state", "referer", "client_id", "platform"}
    assert query["referer"] == [f"globex.localhost:{api.sandbox.port}"]
    assert (query["state"], query["platform"]) == (["abc"], ["2"])
    assert query["code"][0].startswith("def502")
    silent = await consent(api, decision="allow")
    assert "state" not in parse_qs(urlsplit(silent.headers["location"]).query)


async def test_decline_redirects_with_access_denied(api: Api) -> None:
    answer = await consent(api, state="abc", auto="decline")
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    client_id = api.sandbox.world.integration.client_id
    assert query == {"error": ["access_denied"], "client_id": [client_id], "state": ["abc"]}


@pytest.mark.parametrize("form", [False, True])
async def test_a_code_is_exchanged_as_json_or_form(api: Api, form: bool) -> None:
    answer = (await token(api, "acme", form, code=await code(api))).json()
    assert set(answer) == {"token_type", "expires_in", "server_time", "access_token", "refresh_token"}
    assert (await api.get("account", token=answer["access_token"])).status_code == 200


async def test_the_access_token_is_a_jwt_with_the_claims_of_kommo(api: Api) -> None:
    head, payload, _ = (await pair(api))["access_token"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["alg"] == "RS256"
    assert claims["account_id"] == api.sandbox.account("acme").id
    assert claims["sub"] == str(api.sandbox.account("acme").admin_id)
    assert claims["exp"] - claims["iat"] == 86_400


async def test_codes_are_good_once_for_twenty_minutes_and_for_their_account(api: Api) -> None:
    used = await code(api)
    assert hint(await token(api, "globex", code=used)) == (400, "Invalid account")
    assert (await token(api, code=used)).status_code == 200
    assert hint(await token(api, code=used)) == (400, "Authorization code has been revoked")
    old = await code(api)
    await api.control("POST", "clock", {"advance": 20 * 60 + 1})
    assert hint(await token(api, code=old)) == (400, "Authorization code has expired")
    assert hint(await token(api, code="garbled")) == (400, "Cannot decrypt the authorization code")


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("client_id", "Check the `client_id` parameter"),
        ("client_secret", "Check the `client_secret` parameter"),
        ("redirect_uri", "Redirect URI is not associated with client"),
        ("grant_type", "Check the `grant_type` parameter"),
    ],
)
async def test_a_wrong_parameter_is_named_by_the_hint(api: Api, field: str, expected: str) -> None:
    fields = {"code": await code(api), field: "wrong"}
    assert hint(await token(api, **fields)) == (400, expected)


async def test_with_grace_an_old_refresh_token_works_until_the_new_pair_is_used(api: Api) -> None:
    first = await pair(api)
    lost = (await token(api, refresh_token=first["refresh_token"])).json()
    second = (await token(api, refresh_token=first["refresh_token"])).json()
    assert hint(await token(api, refresh_token=lost["refresh_token"])) == (401, "Token has been revoked")
    assert (await api.get("account", token=second["access_token"])).status_code == 200
    assert hint(await token(api, refresh_token=first["refresh_token"])) == (401, "Token has been revoked")
    assert (await api.get("account", token=first["access_token"])).status_code == 200
    assert (await token(api, refresh_token=second["refresh_token"])).status_code == 200


async def test_without_grace_an_old_refresh_token_is_dead_at_once(api: Api) -> None:
    await api.control("POST", "refresh_mode", {"mode": "dead"})
    first = await pair(api)
    assert (await token(api, refresh_token=first["refresh_token"])).status_code == 200
    assert hint(await token(api, refresh_token=first["refresh_token"])) == (401, "Token has been revoked")


async def test_access_ends_after_a_day_and_refresh_after_three_months(api: Api) -> None:
    first = await pair(api)
    await api.control("POST", "clock", {"advance": 86_401})
    assert (await api.get("account", token=first["access_token"])).status_code == 401
    second = (await token(api, refresh_token=first["refresh_token"])).json()
    assert (await api.get("account", token=second["access_token"])).status_code == 200
    await api.control("POST", "clock", {"advance": MONTHS})
    assert hint(await token(api, refresh_token=second["refresh_token"])) == (401, "Token has expired")
    assert hint(await token(api, refresh_token="def502x")) == (401, "Invalid refresh token")
    assert hint(await token(api, refresh_token="x")) == (401, "Cannot decrypt the refresh token")


async def test_a_token_of_another_integration_is_refused(api: Api) -> None:
    first = await pair(api)
    other = await api.control(
        "POST",
        "integrations",
        {"client_id": "11111111-1111-4111-8111-111111111111", "client_secret": "other"},
    )
    answer = await token(
        api,
        refresh_token=first["refresh_token"],
        client_id=other["client_id"],
        client_secret=other["client_secret"],
    )
    assert hint(answer) == (401, "Token is not linked to client")


async def test_a_revoked_integration_gets_401_everywhere(api: Api) -> None:
    first = await pair(api)
    assert (await api.control("POST", "revoke", {"account": "acme"}))["revoked"] > 0
    assert (await api.get("account", token=first["access_token"])).status_code == 401
    assert (await api.get("account")).status_code == 401
    assert hint(await token(api, refresh_token=first["refresh_token"])) == (401, "Token has been revoked")
    assert (await token(api, code=await code(api))).status_code == 200


async def test_a_renamed_account_is_found_by_its_refresh_token(api: Api) -> None:
    first = await pair(api)
    await api.control("POST", "rename", {"account": "acme", "subdomain": "acme-new"})
    assert (await token(api, refresh_token=first["refresh_token"])).status_code == 404
    found = await api.send(
        "GET",
        "/oauth2/account/current/subdomain",
        host="api-c",
        token="none",
        headers={"X-Refresh-Token": first["refresh_token"]},
    )
    moved = found.json()
    assert (moved["subdomain"], moved["domain"]) == ("acme-new", f"acme-new.localhost:{api.sandbox.port}")
    second = (await token(api, "acme-new", refresh_token=first["refresh_token"])).json()
    page = await api.get("leads?limit=1", host="acme-new", token=second["access_token"])
    assert page.json()["_links"]["self"]["href"].startswith(f"http://acme-new.localhost:{api.sandbox.port}/")


async def test_the_host_of_addresses_knows_the_whereabouts_of_living_tokens_only(api: Api) -> None:
    async def asked(
        host: str, token: str, path: str = "current/subdomain", method: str = "GET"
    ) -> httpx.Response:
        headers = {"X-Refresh-Token": token}
        return await api.send(method, f"/oauth2/account/{path}", host=host, token="none", headers=headers)

    first = await pair(api)
    refresh_token = first["refresh_token"]
    assert (await asked("acme", refresh_token)).json()["subdomain"] == "acme"
    assert (await asked("globex", refresh_token)).status_code == 401
    assert (await asked("api-c", "nobody's")).status_code == 401
    assert (await asked("api-c", refresh_token, method="POST")).status_code == 405
    await api.control("POST", "rename", {"account": "acme", "subdomain": "acme-new"})
    assert (await asked("acme", refresh_token)).status_code == 404
    assert (await asked("api-c", refresh_token)).json()["domain"] == f"acme-new.localhost:{api.sandbox.port}"
    bearer = {"host": "www", "token": first["access_token"]}
    assert (await api.get("/oauth2/account/subdomain", **bearer)).json()["subdomain"] == "acme-new"
    await api.control("POST", "revoke", {"account": "acme-new"})
    assert (await asked("api-c", refresh_token)).status_code == 401
    assert (await api.get("/oauth2/account/subdomain", **bearer)).status_code == 401


async def test_a_name_that_was_given_up_may_be_taken_by_another_account(api: Api) -> None:
    first = await pair(api)
    taken = await api.http.post(
        f"{api.sandbox.url}/_sandbox/rename", json={"account": "globex", "subdomain": "acme"}
    )
    assert taken.status_code == 400
    await api.control("POST", "rename", {"account": "acme", "subdomain": "acme-new"})
    await api.control("POST", "rename", {"account": "globex", "subdomain": "acme"})
    assert hint(await token(api, refresh_token=first["refresh_token"])) == (400, "Invalid account")
    assert (await token(api, "acme-new", refresh_token=first["refresh_token"])).status_code == 200
    assert (await token(api, "globex", refresh_token=first["refresh_token"])).status_code == 404


async def test_the_clock_of_the_sandbox_is_the_one_in_its_answers(api: Api) -> None:
    moment = 1_900_000_000
    assert (await api.control("POST", "clock", {"at": moment}))["now"] == pytest.approx(moment, abs=1)
    first = await pair(api)
    assert first["server_time"] == pytest.approx(moment, abs=5)
    payload = first["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["iat"] == first["server_time"]


async def test_a_token_keeps_the_scopes_of_its_authorization(api: Api) -> None:
    before = await pair(api)
    await api.control("POST", "integrations", {"scopes": ["files"]})
    after = await pair(api)
    kept = (await token(api, refresh_token=before["refresh_token"])).json()
    assert (await api.get("account", token=kept["access_token"])).status_code == 200
    assert (await api.get("account", token=after["access_token"])).status_code == 403


async def test_after_an_uninstall_a_new_installation_gives_new_tokens(api: Api) -> None:
    first, unused = await pair(api), await code(api)
    away = await api.control("POST", "uninstall", {"account": "acme"})
    assert away == {"hook_url": "", "status": None}
    assert hint(await token(api, code=unused)) == (400, "Authorization code has been revoked")
    assert hint(await token(api, refresh_token=first["refresh_token"])) == (401, "Token has been revoked")
    again = await pair(api)
    assert (await api.get("account", token=again["access_token"])).status_code == 200
    assert (await api.get("account", token=first["access_token"])).status_code == 401
    assert (await token(api, refresh_token=again["refresh_token"])).status_code == 200


async def test_the_disable_hook_of_two_uninstalls_is_the_same_call(api: Api) -> None:
    await api.control("POST", "integrations", {"disable_hook": "http://127.0.0.1:9/off?from=kommo"})
    hooks = [await api.control("POST", "uninstall", {"account": "acme"}) for _ in range(2)]
    assert hooks[0] == hooks[1]
    assert set(parse_qs(urlsplit(hooks[0]["hook_url"]).query)) == {
        "from",
        "client_uuid",
        "account_id",
        "signature",
    }
    assert hooks[0]["status"] is None


async def test_a_widget_install_calls_the_redirect_uri_from_the_server_without_state(api: Api) -> None:
    listener = Listener()
    async with await asyncio.start_server(listener.answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await api.control("POST", "integrations", {"redirect_uri": f"http://127.0.0.1:{port}/cb"})
        answer = await api.control("POST", "widget", {"account": "acme"})
    assert answer["status"] == 204
    query = parse_qs(urlsplit(listener.heads[0].split()[1]).query)
    assert set(query) == {"code", "referer", "client_id", "platform", "from_widget"}
    assert (await token(api, code=query["code"][0])).status_code == 200


async def test_an_uninstall_revokes_and_calls_the_signed_disable_hook(api: Api) -> None:
    listener, known, account = Listener(), api.sandbox.world.integration, api.sandbox.account("acme")
    first = await pair(api)
    async with await asyncio.start_server(listener.answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await api.control("POST", "integrations", {"disable_hook": f"http://127.0.0.1:{port}/off"})
        await api.control("POST", "uninstall", {"account": "acme"})
    query = parse_qs(urlsplit(listener.heads[0].split()[1]).query)
    message = f"{known.client_id}|{account.id}".encode()
    assert query["signature"] == [hmac.new(known.client_secret.encode(), message, hashlib.sha256).hexdigest()]
    assert "User-Agent: amoService-oAuth-Code-Sender/1.0" in listener.heads[0]
    assert (await api.get("account", token=first["access_token"])).status_code == 401


async def test_a_code_of_the_life_before_does_not_come_again() -> None:
    codes = set()
    for _ in range(2):
        async with running_sandbox(SMALL) as sandbox, httpx.AsyncClient(trust_env=False) as http:
            codes.add(await code(Api(sandbox, http)))
    assert len(codes) == 2
