"""Status, health, the OpenAPI document, and what all answers have in common."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.app import create_app
from gateway.endings import ENDINGS
from gateway.pages import Message, page
from kommo.clock import SystemClock
from store.completeness import Completeness, save_completeness
from store.connections import ConnectionState, set_state
from store.subscriptions import Subscription, SubscriptionState, save_subscription
from tasks.authorize import Ending
from tests.gateway.support import AS_BROWSER, CALLBACK, START, House

STATUS = "/api/v1/orgs/{}/connection"


async def _connect(house: House) -> None:
    consent = await house.start()
    assert (await house.come_back(consent, house.code_query(consent.state))).status_code == 302


async def test_the_status_is_real_and_holds_no_secrets(house: House) -> None:
    await _connect(house)
    answer = await house.product.get(STATUS.format("acme"), headers=house.signed("acme", house.key))
    assert answer.status_code == 200
    told = answer.json()
    assert (told["org"], told["provider"], told["state"]) == ("acme", "kommo", "connected")
    name = house.kommo.account("acme").profile["name"]
    assert told["account"] == {"id": house.acme.account_id, "name": name, "host": house.acme.host}
    assert (told["reason"], told["reason_code"], told["last_sync"], told["last_synced_at"]) == 4 * (None,)
    assert datetime.fromisoformat(told["expires_at"]) > datetime.now(tz=UTC)
    assert set(told) == {
        *("org", "provider", "state", "reason", "reason_code", "since", "account", "scopes", "expires_at"),
        *("last_synced_at", "last_sync", "webhooks"),
    }


async def test_the_status_says_how_webhooks_stand(house: House) -> None:
    await _connect(house)
    now = house.services.clock.now()
    async with house.services.database.begin() as connection:
        seen = Subscription(
            org="acme",
            key_hash=None,
            destination_host="hooks.example.com",
            settings=(),
            state=SubscriptionState.DISABLED,
            reason="Kommo has switched it off.",
            checked_at=now,
        )
        await save_subscription(connection, seen)
        await save_completeness(
            connection,
            Completeness("acme", now, now, changes=4, arrived=3, repaired=1, by_entity={}, measured_at=now),
        )
    told = (await house.product.get(STATUS.format("acme"), headers=house.signed("acme", house.key))).json()
    webhooks = told["webhooks"]
    assert (webhooks["state"], webhooks["reason"]) == ("disabled", "Kommo has switched it off.")
    counted = {"share": 0.75, "changes": 4, "arrived": 3, "repaired": 1}
    assert counted.items() <= webhooks["completeness"].items()


async def test_the_status_says_why_and_since_when(house: House) -> None:
    await _connect(house)
    now = house.services.clock.now()
    await set_state(
        house.services.database,
        "acme",
        ConnectionState.REAUTHORIZATION_REQUIRED,
        "Kommo refused the refresh token.",
        reason_code="token_refused",
        now=now,
    )
    told = (await house.product.get(STATUS.format("acme"), headers=house.signed())).json()
    assert (told["state"], told["reason_code"]) == ("reauthorization_required", "token_refused")
    assert told["reason"] == "Kommo refused the refresh token."
    assert abs((datetime.fromisoformat(told["since"]) - now).total_seconds()) < 0.01


async def test_problems_are_told_as_rfc_9457(house: House) -> None:
    for path, headers, status in (
        (STATUS.format("acme"), {}, 401),
        (STATUS.format("globex"), house.signed("globex", house.key), 403),
        (STATUS.format("acme"), house.signed(), 404),
        (STATUS.format("Not%20An%20Org"), house.signed(), 400),
        ("/nowhere", {}, 404),
    ):
        answer = await house.product.get(path, headers=headers)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        assert problem["type"] == "about:blank"
        assert problem["title"]
        assert problem["detail"]
    answer = await house.product.post(START)
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


async def test_health_and_readiness(house: House) -> None:
    assert (await house.product.get("/healthz")).json() == {"status": "ok"}
    answer = await house.product.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "database": "ok", "integration": "ok"},
    )


async def test_without_a_database_it_is_alive_but_not_ready_and_every_door_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from store.database import Database
    from store.errors import DatabaseUnavailableError

    consent = await house.start()

    def away(self: Database) -> Any:
        del self
        raise DatabaseUnavailableError("The database postgresql://canary-host/name does not answer.")

    monkeypatch.setattr(Database, "read", away)
    monkeypatch.setattr(Database, "begin", away)
    assert (await house.product.get("/healthz")).status_code == 200
    answer = await house.product.get("/readyz")
    assert (answer.status_code, answer.json()["database"]) == (503, "failing")
    for answer in (
        await house.product.get(START, params={"domain": "acme"}, headers=house.signed()),
        await house.come_back(consent, house.code_query(consent.state)),
        await house.product.get(STATUS.format("acme"), headers=house.signed()),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "canary" not in answer.text


async def test_an_integration_that_is_not_set_up_is_told_to_its_owner_only(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from blocks.settings import Settings

    await house.services.app()  # what it was started with has been read
    monkeypatch.delenv("KOMMO_CLIENT_SECRET")
    house.services.settings = Settings()
    house.services._app = None
    answer = await house.product.get(START, params={"domain": "acme"}, headers=house.signed())
    assert answer.status_code == 503
    assert "KOMMO_CLIENT_SECRET" not in answer.text
    assert "KOMMO_CLIENT_SECRET" in caplog.text
    assert (await house.product.get("/readyz")).json()["integration"] == "failing"
    monkeypatch.setenv("KOMMO_CLIENT_SECRET", "now-it-is-there")
    house.services.settings = Settings()
    assert (await house.product.get("/readyz")).status_code == 200, "it is looked for again"


async def test_a_changed_block_is_noticed_without_a_restart(house: House) -> None:
    from blocks.app import KommoApp

    assert (await house.services.app()).allowed_redirects == []
    block = KommoApp(allowed_redirects=["https://other.example.com"])
    await block.asave("default", overwrite=True)
    try:
        house.services.clock = _Ahead()
        assert (await house.services.app()).allowed_redirects == [], "nobody waits for it"
        await house.services.background.finish(10)
        assert (await house.services.app()).allowed_redirects == ["https://other.example.com"]
    finally:
        await KommoApp.adelete("default")


class _Ahead(SystemClock):
    """The real clock, ten minutes ahead."""

    def monotonic(self) -> float:
        return super().monotonic() + 600


async def test_every_answer_is_guarded(house: House) -> None:
    consent = await house.start()
    answers = [
        await house.product.get("/healthz"),
        await house.product.get("/nowhere"),
        await house.product.get(START, params={"domain": "acme"}, headers=house.signed()),
        await house.product.get(CALLBACK, params={"code": "x" * 20_000}),
        await house.come_back(None, house.code_query("x" * 32), headers=AS_BROWSER),
        await house.come_back(consent, house.code_query(consent.state)),
    ]
    for answer in answers:
        headers = answer.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert re.fullmatch(r"[0-9a-f]{12}", headers["x-request-id"])
        assert "server" not in headers or headers["server"] == "uvicorn"  # `kommo gateway` switches it off
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


async def test_a_page_runs_its_own_style_and_script_only(house: House) -> None:
    shown = await house.come_back(None, house.code_query("x" * 32), headers=AS_BROWSER)
    policy = shown.headers["content-security-policy"]
    found = re.search(r"script-src 'nonce-([\w-]+)'", policy)
    assert found
    assert shown.text.count(f'nonce="{found[1]}"') == len(re.findall(r"<(?:script|style)\b", shown.text)) == 2
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|\sstyle=|https?://(?!app\.example\.com)", shown.text)
    again = await house.come_back(None, house.code_query("x" * 32), headers=AS_BROWSER)
    assert again.headers["content-security-policy"] != policy
    assert '<html lang="en">' in shown.text
    assert "<title>" in shown.text
    assert shown.headers["x-request-id"] in shown.text


def test_every_ending_has_words_of_its_own() -> None:
    assert set(ENDINGS) == set(Ending)
    assert len({told.title for told in ENDINGS.values()}) == len(ENDINGS)
    for ending, told in ENDINGS.items():
        assert told.what
        assert told.next
        assert (told.status == 200) == (told.error == "") == (ending is Ending.CONNECTED)


def test_nothing_that_comes_from_outside_gets_out_of_its_place_in_a_page() -> None:
    evil = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(1)>&"
    shown = page(
        ENDINGS[Ending.CONNECTED],
        nonce="n",
        reference="r",
        who=evil,
        back=f"https://app.example.com/{evil}",
        message=Message({"org": evil}, "https://app.example.com"),
    )
    text = bytes(shown.body).decode()
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>") == 2
    data = re.search(r'id="told"[^>]*>(.*?)</script>', text)
    assert data
    assert json.loads(data[1])["message"]["org"] == evil


async def test_the_log_has_paths_and_no_queries(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    consent = await house.start()
    query = house.code_query(consent.state)
    await house.come_back(consent, query)
    await house.product.get("/api/webhooks/kommo/a-key-that-is-long-and-must-not-be-shown?x=canary-query")
    await house.product.get("/api/webhook/kommo/a-key-that-is-long-and-must-not-be-shown?x=canary-query")
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.access"]
    assert [line.split(" ")[:3] for line in lines] == [
        ["GET", START, "302"],
        ["GET", CALLBACK, "302"],
        ["GET", "/api/webhooks/kommo/…", "405"],
        ["GET", "/api/webhook/kommo/…", "404"],
    ]
    for secret in (consent.state, query["code"], "canary", "?", "must-not-be-shown"):
        assert not any(secret in line for line in lines)


def test_the_openapi_document_is_complete() -> None:
    document = create_app().openapi()
    assert set(document["paths"]) == {
        *(START, CALLBACK, "/api/v1/crm/kommo/disabled", "/api/v1/agents/{id}/sync-crm"),
        *("/healthz", "/readyz", "/metrics", "/api/webhooks/kommo", "/api/webhooks/kommo/{hook_key}"),
        *("/api/v1/orgs", "/api/v1/orgs/{org}/connection", "/api/v1/orgs/{org}/snapshots/{kind}"),
        *("/api/v1/orgs/{org}/drift", "/api/v1/orgs/{org}/syncs/{run_id}"),
        *(f"/api/v1/orgs/{{org}}/{what}" for what in ("messages", "tasks", "deal-fields", "notes")),
        "/api/v1/orgs/{org}/actions/{action_id}",
    }
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "ApiKeyHeader"}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert operation["tags"], path
            assert "HTTPValidationError" not in json.dumps(operation["responses"])
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (path, parameter["name"])
            for status, answer in operation["responses"].items():
                assert answer["description"] != "Successful Response", path
                assert status in {"200", "302", "304"} or answer["content"], (path, status)
    for reference in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]
    assert "security" in document["paths"][START]["get"]


async def test_the_document_is_served_and_viewers_from_elsewhere_are_not(house: House) -> None:
    assert (await house.product.get("/openapi.json")).json()["info"]["title"] == "Kommo data plane"
    for path in ("/docs", "/redoc"):
        assert (await house.product.get(path)).status_code == 404
