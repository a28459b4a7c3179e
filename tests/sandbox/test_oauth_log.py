"""The token endpoint under faults, the log of its calls, and which connections are still alive."""

import hashlib

import httpx
import pytest

from tests.sandbox.oauth_support import Json, code, pair, token
from tests.sandbox.support import Api

REVOKED = "Token has been revoked"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def alive(api: Api, **which: object) -> dict[str, str]:
    found = (await api.control("POST", "alive", which))["alive"]
    return {token["fingerprint"]: token["state"] for token in found}


async def log(api: Api, account: str = "acme") -> Json:
    found: Json = await api.control("GET", f"oauth?account={account}")
    return found


async def test_every_call_is_logged_in_order_with_what_it_used_up_and_what_came_of_it(api: Api) -> None:
    given = await code(api)
    first = (await token(api, code=given)).json()["refresh_token"]
    second = (await token(api, refresh_token=first)).json()["refresh_token"]
    await token(api, refresh_token=second)
    await token(api, refresh_token=first)
    await token(api, "globex", refresh_token="def502nobody")
    await token(api, refresh_token=first, client_secret="wrong")
    found = await log(api)
    calls = [(call["grant"], call["used"], call["status"], call["hint"]) for call in found["calls"]]
    assert calls == [
        ("authorization_code", f"code:{sha(given)}", 200, None),
        ("refresh_token", sha(first), 200, None),
        ("refresh_token", sha(second), 200, None),
        ("refresh_token", sha(first), 401, REVOKED),
        ("refresh_token", sha(first), 400, "Check the `client_secret` parameter"),
    ]
    moments = [call["arrived"] for call in found["calls"]]
    assert moments == sorted(moments)
    assert found["tokens"][sha(first)] == {
        "account": "acme",
        "calls": 3,
        "issued": [sha(second)],
        "refused": {REVOKED: 1, "Check the `client_secret` parameter": 1},
    }
    assert found["accounts"]["acme"]["calls"] == 5
    assert len(found["accounts"]["acme"]["issued"]) == 3
    assert (await log(api, "globex"))["accounts"]["globex"]["refused"] == {"Invalid refresh token": 1}
    assert first not in str(found)
    await api.control("DELETE", "oauth")
    assert (await log(api))["calls"] == []


@pytest.mark.parametrize("mode", ["grace", "dead"])
@pytest.mark.parametrize("kind", ["reset_after", "504_after", "500", "truncate"])
async def test_an_answer_may_be_lost_after_the_pair_was_made(api: Api, kind: str, mode: str) -> None:
    first = await pair(api)
    await api.control("POST", "refresh_mode", {"mode": mode})
    await api.control("POST", "faults", {"kind": kind, "times": 1, "path": "/oauth2/access_token"})
    try:
        answer = await token(api, refresh_token=first["refresh_token"])
        assert answer.status_code >= 500
    except httpx.TransportError:
        assert kind in {"reset_after", "truncate"}
    call = (await log(api))["calls"][-1]
    assert (call["used"], call["fault"]) == (sha(first["refresh_token"]), kind)
    assert await alive(api, fingerprints=[call["issued"]]) == {call["issued"]: "good"}
    again = await token(api, refresh_token=first["refresh_token"])
    assert again.status_code == (200 if mode == "grace" else 401)
    assert await alive(api, fingerprints=[call["issued"]]) == (
        {} if mode == "grace" else {call["issued"]: "good"}
    )


@pytest.mark.parametrize("kind", ["reset", "502", "504", "429", "403_html", "401"])
async def test_a_fault_of_the_gateway_uses_nothing_up(api: Api, kind: str) -> None:
    first = await pair(api)
    await api.control("POST", "faults", {"kind": kind, "times": 1, "account": "acme", "path": "access_token"})
    try:
        await token(api, refresh_token=first["refresh_token"])
    except httpx.TransportError:
        assert kind == "reset"
    call = (await log(api))["calls"][-1]
    assert (call["issued"], call["fault"]) == (None, kind)
    assert (await log(api))["accounts"]["acme"]["refused"] == {kind: 1}
    assert await alive(api, account="acme") == {sha(first["refresh_token"]): "good"}


async def test_a_slow_token_endpoint_makes_the_pair_before_it_answers(api: Api) -> None:
    first = await pair(api)
    await api.control("POST", "faults", {"kind": "slow", "delay": 5, "path": "access_token"})
    with pytest.raises(httpx.ReadTimeout):
        await api.http.post(
            f"{api.sandbox.url}/oauth2/access_token",
            json={
                "client_id": api.sandbox.world.integration.client_id,
                "client_secret": api.sandbox.world.integration.client_secret,
                "redirect_uri": api.sandbox.world.integration.redirect_uri,
                "grant_type": "refresh_token",
                "refresh_token": first["refresh_token"],
            },
            timeout=0.05,
        )
    assert len(await alive(api, account="acme")) == 2


async def test_alive_are_the_tokens_that_would_be_taken(api: Api) -> None:
    acme = await pair(api)
    used = sha(acme["refresh_token"])
    newer = (await token(api, refresh_token=acme["refresh_token"])).json()
    assert await alive(api, account="acme") == {used: "grace", sha(newer["refresh_token"]): "good"}
    await api.get("account", token=newer["access_token"])
    assert await alive(api, accounts=["acme", "globex"]) == {sha(newer["refresh_token"]): "good"}
    assert await alive(api, fingerprints=[used, "unknown"]) == {}
    await api.control("POST", "clock", {"advance": 91 * 86_400})
    assert await alive(api) == {}
