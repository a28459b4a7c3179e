"""Door 2: the way back from Kommo. Every ending, for programs and for people, and nothing stored where it failed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import cast
from urllib.parse import urlencode

from blocks.connection import KommoConnection
from blocks.names import block_name
from kommo.clock import SystemClock
from store.oauth_states import peek_state, put_state
from store.token_journal import chain
from tasks.installation import budget_of
from tests.gateway.support import APP_URL, AS_BROWSER, CALLBACK, House


async def test_allow_connects_the_org_and_sends_the_browser_back(house: House) -> None:
    consent = await house.start()
    answer = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert answer.status_code == 302
    assert answer.headers["location"] == f"{APP_URL}/manage/acme/ai-agents"
    connection = await house.connection()
    assert connection is not None
    assert (connection.state, connection.token_kind) == ("connected", "pair")
    assert (connection.account_id, connection.host) == (house.acme.account_id, house.acme.host)
    assert "crm" in connection.scopes
    assert connection.expires_at is not None
    assert timedelta(hours=23) < connection.expires_at - datetime.now(tz=UTC) <= timedelta(hours=24)
    block = cast("KommoConnection", await KommoConnection.aload(block_name("acme")))
    assert block.access_token.get_secret_value()
    assert await house.told() == [("integration_connected", None)]
    await asyncio.sleep(0)
    assert [found.org for found in house.synced] == ["acme"]


async def test_the_browser_goes_where_the_start_asked_for(house: House) -> None:
    consent = await house.start(redirect_uri=f"{APP_URL}/settings?tab=crm")
    answer = await house.come_back(consent, house.code_query(consent.state))
    assert (answer.status_code, answer.headers["location"]) == (302, f"{APP_URL}/settings?tab=crm")


async def test_the_product_may_bring_the_callback_with_its_key_instead_of_a_cookie(house: House) -> None:
    consent = await house.start()
    answer = await house.come_back(
        None, house.code_query(consent.state), headers=house.signed("acme", house.key)
    )
    assert answer.status_code == 302
    assert (await house.connection()) is not None


async def test_the_host_may_carry_a_scheme(house: House) -> None:
    for shown in (f"http://{house.acme.host}", f"https://{house.acme.host}/", house.acme.host.upper()):
        consent = await house.start()
        query = house.code_query(consent.state) | {"referer": shown}
        assert (await house.come_back(consent, query)).status_code == 302


async def test_connecting_again_replaces_the_pair(house: House) -> None:
    fingerprints = []
    for _ in range(2):
        consent = await house.start()
        assert (await house.come_back(consent, house.code_query(consent.state))).status_code == 302
        connection = await house.connection()
        assert connection is not None
        fingerprints.append(connection.token_fingerprint)
    assert fingerprints[0] != fingerprints[1]


async def test_a_missing_parameter_is_an_invalid_request(house: House) -> None:
    consent = await house.start()
    query = house.code_query(consent.state)
    for missing in ("code", "state", "referer"):
        without = {name: text for name, text in query.items() if name != missing}
        for tried in (without, without | {missing: ""}):
            answer = await house.come_back(consent, tried)
            assert (answer.status_code, answer.json()) == (400, {"error": "Invalid request"})
    assert await house.nothing_stored()
    assert (await house.come_back(consent, query)).status_code == 302, "the state was not used up by that"


async def test_a_foreign_client_id_or_a_doubled_parameter_is_an_invalid_request(house: House) -> None:
    consent = await house.start()
    query = house.code_query(consent.state)
    answer = await house.come_back(consent, query | {"client_id": "somebody-else"})
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid request"})
    doubled = f"{CALLBACK}?{urlencode(query)}&referer=evil.com"
    answer = await house.product.get(doubled, headers={"Cookie": f"{consent.cookie}={consent.secret}"})
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid request"})
    assert house.requests() == 0


async def test_an_unknown_state_is_refused(house: House) -> None:
    answer = await house.come_back(None, house.code_query("x" * 32))
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid or expired state"})
    shown = await house.come_back(None, house.code_query("x" * 32), headers=AS_BROWSER)
    assert shown.status_code == 400
    assert "not known here" in shown.text
    assert await house.nothing_stored()


async def test_an_expired_state_is_refused(house: House) -> None:
    consent = await house.start()
    house.services.clock = _Later(minutes=15)
    answer = await house.come_back(consent, house.code_query(consent.state))
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid or expired state"})
    shown = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert "took too long" in shown.text
    assert await house.nothing_stored()


async def test_a_state_is_good_for_one_use(house: House) -> None:
    consent = await house.start()
    assert (await house.come_back(consent, house.code_query(consent.state))).status_code == 302
    calls = house.token_calls()
    answer = await house.come_back(consent, house.code_query(consent.state))
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid or expired state"})
    shown = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert "used before" in shown.text
    assert house.token_calls() == calls


async def test_of_racing_callbacks_with_one_state_one_wins(house: House) -> None:
    consent = await house.start()
    query = house.code_query(consent.state)
    answers = await asyncio.gather(*(house.come_back(consent, query) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [302] + 7 * [400]
    assert {answer.text for answer in answers if answer.status_code == 400} == {
        '{"error":"Invalid or expired state"}'
    }
    assert house.token_calls() == 1
    assert await house.told() == [("integration_connected", None)]


async def test_a_strangers_browser_is_refused_and_spoils_nothing(house: House) -> None:
    consent, other = await house.start(), await house.start("globex")
    query = house.code_query(consent.state)
    strangers = (None, other)
    for stranger in strangers:
        answer = await house.come_back(stranger, query)
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid or expired state"})
        shown = await house.come_back(stranger, query, headers=AS_BROWSER)
        assert "somewhere else" in shown.text
    assert await house.nothing_stored()
    assert (await house.come_back(consent, query)).status_code == 302


async def test_a_state_of_another_org_is_refused(house: House) -> None:
    consent = await house.start("globex")
    for headers in (house.signed("acme"), house.signed("acme", house.key), house.signed("globex", house.key)):
        answer = await house.come_back(None, house.code_query(consent.state), headers=headers)
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid or expired state"})
    shown = await house.come_back(
        None, house.code_query(consent.state), headers=house.signed("acme") | AS_BROWSER
    )
    assert "somewhere else" in shown.text
    assert await house.nothing_stored("acme")
    assert await house.nothing_stored("globex")


async def test_a_declined_consent_uses_the_state_up_and_is_told(house: House) -> None:
    consent = await house.start()
    query = {
        "error": "access_denied",
        "client_id": house.kommo.world.integration.client_id,
        "state": consent.state,
    }
    shown = await house.come_back(consent, query, headers=AS_BROWSER)
    assert shown.status_code == 400
    assert "did not allow access" in shown.text
    assert f"{APP_URL}/manage/acme/ai-agents" in shown.text
    assert await house.told() == [("integration_error", "declined")]
    assert await house.nothing_stored()
    answer = await house.come_back(consent, house.code_query(consent.state))
    assert answer.json() == {"error": "Invalid or expired state"}
    declined = await house.start()
    answer = await house.come_back(declined, query | {"state": declined.state})
    assert (answer.status_code, answer.json()) == (400, {"error": "Access denied"})


async def test_a_code_that_kommo_refuses_stores_nothing(house: House) -> None:
    consent = await house.start()
    query = house.code_query(consent.state)
    house.kommo.world.clock_offset += 21 * 60
    answer = await house.come_back(consent, query)
    assert (answer.status_code, answer.json()) == (400, {"error": "Failed to get tokens"})
    assert await house.told() == [("integration_error", "exchange_refused")]
    assert await house.connection() is None
    consent = await house.start()
    shown = await house.come_back(
        consent, house.code_query(consent.state) | {"code": "def502nonsense"}, headers=AS_BROWSER
    )
    assert shown.status_code == 400
    assert "did not accept" in shown.text


async def test_a_code_of_another_account_is_refused(house: House) -> None:
    consent = await house.start()
    query = house.code_query(consent.state, house.globex) | {"referer": house.acme.host}
    answer = await house.come_back(consent, query)
    assert (answer.status_code, answer.json()) == (400, {"error": "Failed to get tokens"})
    assert await house.connection() is None


async def test_wrong_keys_of_ours_are_not_blamed_on_the_person(house: House) -> None:
    house.kommo.world.integration.client_secret = "another-secret"
    consent = await house.start()
    shown = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert shown.status_code == 400
    assert "not your fault" in shown.text
    assert await house.told() == [("integration_error", "misconfigured")]


async def test_a_kommo_that_does_not_answer_is_no_refusal(house: House) -> None:
    house.kommo.world.faults.add(kind="502", path="/oauth2/access_token")
    consent = await house.start()
    answer = await house.come_back(consent, house.code_query(consent.state))
    assert (answer.status_code, answer.json()) == (502, {"error": "Failed to get tokens"})
    consent = await house.start()
    shown = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert "did not answer" in shown.text
    assert await house.told() == 2 * [("integration_error", "unreachable")]


async def test_an_org_is_not_moved_to_another_account_by_a_consent(house: House) -> None:
    consent = await house.start()
    assert (await house.come_back(consent, house.code_query(consent.state))).status_code == 302
    before = await house.connection()
    consent = await house.start()
    shown = await house.come_back(consent, house.code_query(consent.state, house.globex), headers=AS_BROWSER)
    assert shown.status_code == 409
    assert "different Kommo account" in shown.text
    assert await house.connection() == before
    assert (await house.told())[-1] == ("integration_error", "wrong_account")
    kept = await chain(house.services.database, "acme")
    assert [edge.fingerprint for edge in kept.edges] == kept.path(), "what nobody asked for is not kept"


async def test_with_post_message_the_page_tells_its_opener_and_nobody_else(house: House) -> None:
    consent = await house.start(mode="post_message")
    shown = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert shown.status_code == 200
    assert f'"target": "{APP_URL}"' in shown.text
    assert '"type": "kommo-oauth", "status": "connected", "org": "acme"' in shown.text
    assert "'*'" not in shown.text
    consent = await house.start(mode="post_message")
    answer = await house.come_back(consent, house.code_query(consent.state))
    assert (answer.status_code, answer.json()) == (200, {"org": "acme", "status": "connected"})


async def test_without_an_address_of_the_product_the_person_gets_a_page(house: House) -> None:
    app = await house.services.app()
    app.app_url = ""
    consent = await house.start()
    shown = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert shown.status_code == 200
    assert "Kommo is connected" in shown.text
    assert house.acme.host in shown.text
    assert "Back to the app" not in shown.text


async def test_old_states_are_swept_out(house: House) -> None:
    now = datetime.now(tz=UTC)
    long_ago = now - timedelta(days=3)
    await put_state(
        house.services.database,
        state_hash="old",
        org="acme",
        redirect_uri="",
        expires_at=long_ago,
        now=long_ago,
    )
    await house.start()
    assert await peek_state(house.services.database, "old") is None


class _Later(SystemClock):
    """The real clock, put forward."""

    def __init__(self, **ahead: float) -> None:
        self._ahead = timedelta(**ahead)

    def now(self) -> datetime:
        return super().now() + self._ahead


async def test_r2_whoever_would_have_to_wait_for_minutes_is_told_so_at_once(house: House) -> None:
    budget = budget_of(house.services.database, house.services.settings)
    consent = await house.start()
    await budget.slow_down(["egress:default"], 300)
    async with asyncio.timeout(10):
        answer = await house.come_back(consent, house.code_query(consent.state), headers=AS_BROWSER)
    assert answer.status_code == 502
    assert "out of reach or too busy" in answer.text
    assert await house.nothing_stored()
