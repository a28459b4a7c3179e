"""What Kommo's own servers call: installs by a widget, and the disable hook."""

import asyncio
import hashlib
import hmac

import pytest

from gateway.hooks import HOOK_SECONDS, REFUSED_INSTALLS, REFUSED_SECONDS
from store.connections import ConnectionState, set_state
from tests.gateway.support import CALLBACK, CLIENT_SECRET, DISABLED, House
from tests.turns import measured


async def _connect(house: House, org: str = "acme") -> None:
    consent = await house.start(org)
    assert (await house.come_back(consent, house.code_query(consent.state))).status_code == 302


def _signed(house: House, **changed: str) -> dict[str, str]:
    client_id = house.kommo.world.integration.client_id
    message = f"{client_id}|{house.acme.account_id}".encode()
    signature = hmac.new(CLIENT_SECRET.encode(), message, hashlib.sha256).hexdigest()
    query = {"client_uuid": client_id, "account_id": str(house.acme.account_id), "signature": signature}
    return query | changed


async def _settled(house: House) -> None:
    await house.services.background.finish(20)


async def test_an_install_of_a_known_account_connects_its_org_again(house: House) -> None:
    await _connect(house)
    before = await house.connection()
    await set_state(
        house.services.database, "acme", ConnectionState.DISCONNECTED, "gone", now=house.services.clock.now()
    )
    query = house.code_query(None, from_widget="1")
    began = asyncio.get_running_loop().time()
    answer = await house.product.get(CALLBACK, params=query)
    assert asyncio.get_running_loop().time() - began < 3
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    await _settled(house)
    after = await house.connection()
    assert before is not None
    assert after is not None
    assert after.state == "connected"
    assert after.token_fingerprint != before.token_fingerprint


async def test_an_install_of_an_unknown_account_stores_nothing_and_uses_no_code(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    query = house.code_query(None, house.globex, from_widget="1")
    answer = await house.product.get(CALLBACK, params=query)
    assert answer.status_code == 200
    await _settled(house)
    assert await house.nothing_stored()
    assert house.requests() == 0
    assert "widget_install_unknown_account" in caplog.text
    assert query["code"] not in caplog.text


async def test_made_up_installs_cost_kommo_and_the_product_a_few_calls_only(house: House) -> None:
    await _connect(house)
    asked, told = house.requests(), len(await house.told())
    for number in range(REFUSED_INSTALLS + 3):
        query = house.code_query(None, from_widget="1") | {"code": f"made-up-{number}"}
        assert (await house.product.get(CALLBACK, params=query)).status_code == 200
        await _settled(house)
    assert house.requests() - asked == REFUSED_INSTALLS
    assert len(await house.told()) - told == REFUSED_INSTALLS
    # Another account's install is tried all the same, and so is this one's once the time is over.
    assert house.services.refused_installs.keys() == {house.acme.host}
    times = house.services.refused_installs[house.acme.host]
    times[0] -= REFUSED_SECONDS
    assert (
        await house.product.get(CALLBACK, params=house.code_query(None, from_widget="1"))
    ).status_code == 200
    await _settled(house)
    assert (await house.told())[-1][0] == "integration_connected"


async def test_an_install_with_a_code_of_another_account_changes_nothing(house: House) -> None:
    await _connect(house)
    before = await house.connection()
    query = house.code_query(None, house.globex, from_widget="1") | {"referer": house.acme.host}
    assert (await house.product.get(CALLBACK, params=query)).status_code == 200
    await _settled(house)
    assert await house.connection() == before
    assert (await house.told())[-1] == ("integration_error", "exchange_refused")


@pytest.mark.seconds(5)
@pytest.mark.timing
async def test_an_install_is_answered_in_time_also_when_kommo_is_slow(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _connect(house)
    assert HOOK_SECONDS <= 2, "Kommo waits for three"
    monkeypatch.setattr("gateway.hooks.HOOK_SECONDS", 0.2)
    house.kommo.world.faults.add(kind="slow", path="/oauth2/access_token", delay=1.5, times=1)
    began = asyncio.get_running_loop().time()
    answer = await house.product.get(CALLBACK, params=house.code_query(None, from_widget="1"))
    assert answer.status_code == 200
    with measured():
        assert asyncio.get_running_loop().time() - began < 1.2
    await _settled(house)
    assert len(await house.told()) == 2, "it went on after the answer"


async def test_an_install_must_name_our_client_and_a_code(house: House) -> None:
    query = house.code_query(None, from_widget="1")
    for changed in ({"client_id": "else"}, {"client_id": ""}, {"code": ""}, {"referer": ""}):
        answer = await house.product.get(CALLBACK, params=query | changed)
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid request"})
    assert house.requests() == 0


async def test_of_two_orgs_on_one_account_an_install_serves_the_one_that_needs_it(house: House) -> None:
    for org in ("acme", "globex"):
        await _connect(house, org)
    healthy = await house.connection("acme")
    await set_state(
        house.services.database,
        "globex",
        ConnectionState.REAUTHORIZATION_REQUIRED,
        "revoked",
        now=house.services.clock.now(),
    )
    assert (
        await house.product.get(CALLBACK, params=house.code_query(None, from_widget="1"))
    ).status_code == 200
    await _settled(house)
    assert await house.connection("acme") == healthy
    mended = await house.connection("globex")
    assert mended is not None
    assert mended.state == "connected"


async def test_an_uninstall_disconnects_every_org_of_the_account(house: House) -> None:
    for org in ("acme", "globex"):
        await _connect(house, org)
    house.kommo.world.oauth.revoke(house.acme.account_id, house.kommo.world.integration.client_id)
    answer = await house.product.get(DISABLED, params=_signed(house))
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    await _settled(house)
    for org in ("acme", "globex"):
        connection = await house.connection(org)
        assert connection is not None
        assert connection.state == "disconnected"
        assert (await house.told(org))[-1][0] == "integration_disconnected"


async def test_a_replayed_uninstall_is_not_believed(house: House) -> None:
    await _connect(house)
    before = await house.connection()
    for _ in range(2):
        answer = await house.product.get(DISABLED, params=_signed(house))
        assert answer.status_code == 200
        await _settled(house)
    assert await house.connection() == before


async def test_an_uninstall_of_an_account_that_nobody_has_is_taken_in(house: House) -> None:
    answer = await house.product.get(DISABLED, params=_signed(house))
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert house.requests() == 0


async def test_a_forged_uninstall_asks_nobody(house: House) -> None:
    await _connect(house)
    asked = house.requests()
    good = _signed(house)
    for changed in (
        {"signature": "0" * 64},
        {"signature": good["signature"].upper() + "0"},
        {"signature": "ünïcode"},
        {"account_id": "1"},
        {"client_uuid": "someone-else"},
    ):
        answer = await house.product.get(DISABLED, params=good | changed)
        assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"})
    for missing in ("client_uuid", "account_id", "signature"):
        answer = await house.product.get(DISABLED, params=good | {missing: ""})
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid request"})
    for odd in ("x", "-1", "1" * 30, "²"):
        answer = await house.product.get(DISABLED, params=good | {"account_id": odd})
        assert answer.status_code == 400
    assert house.requests() == asked


async def test_the_sandboxs_own_calls_are_understood(house: House) -> None:
    """Kommo's servers, as the stand-in has them: install and uninstall from its side."""
    await _connect(house)
    house.kommo.world.integration.disable_hook = f"{house.url}{DISABLED}"
    assert (await _control(house, "uninstall"))["status"] == 200
    await _settled(house)
    connection = await house.connection()
    assert connection is not None
    assert connection.state == "disconnected"
    assert (await _control(house, "widget"))["status"] == 200
    await _settled(house)
    connection = await house.connection()
    assert connection is not None
    assert connection.state == "connected"


async def _control(house: House, name: str) -> dict[str, object]:
    """One call of the sandbox's control API."""
    answer = await house.product.post(f"{house.kommo.url}/_sandbox/{name}", json={})
    told: dict[str, object] = answer.json()
    return told
