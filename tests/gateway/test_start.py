"""Door 1: the product sends a person to Kommo's consent page."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from store.oauth_states import peek_state
from tests.gateway.support import APP_URL, START, House


async def test_a_start_leads_to_the_consent_page_with_a_state_of_32_characters(house: House) -> None:
    answer = await house.product.get(
        START, params={"domain": house.acme.host}, headers=house.signed("acme", house.key)
    )
    assert answer.status_code in {302, 307}
    consent = await house.start()
    parts = urlsplit(consent.url)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{house.kommo.url}/oauth"
    assert consent.query["client_id"] == house.kommo.world.integration.client_id
    assert consent.query["mode"] == "popup"
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", consent.state)
    assert house.requests() == 0


async def test_t5_the_state_is_stored_hashed_and_bound(house: House) -> None:
    back = f"{APP_URL}/settings?tab=crm"
    consent = await house.start("acme", redirect_uri=back, mode="post_message")
    row = await peek_state(house.services.database, hashlib.sha256(consent.state.encode()).hexdigest())
    assert row is not None
    assert (row.org, row.provider, row.return_to, row.mode) == ("acme", "kommo", back, "post_message")
    assert row.base_domain == house.acme.host
    assert row.redirect_uri == house.kommo.world.integration.redirect_uri
    assert row.browser_hash == hashlib.sha256(consent.secret.encode()).hexdigest()
    left = row.expires_at - datetime.now(tz=UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)


async def test_two_starts_have_nothing_in_common(house: House) -> None:
    first, second = await house.start(), await house.start()
    assert first.state != second.state
    assert first.secret != second.secret
    assert first.cookie != second.cookie, "two consents in one browser must not hinder each other"


async def test_the_cookie_is_kept_from_scripts_and_from_other_sites(house: House) -> None:
    consent = await house.start()
    assert "HttpOnly" in consent.attributes
    assert "SameSite=lax" in consent.attributes
    assert "Max-Age=900" in consent.attributes
    assert "Secure" not in consent.attributes  # loopback is plain HTTP
    app = await house.services.app()
    app.redirect_uri = "https://app.example.com/api/v1/crm/kommo/callback"
    consent = await house.start()
    assert consent.cookie.startswith("__Host-")
    assert "Secure" in consent.attributes
    assert "Path=/" in consent.attributes


async def test_a_program_gets_the_address_as_json(house: House) -> None:
    for query, more in (({"format": "json"}, {}), ({}, {"Accept": "application/json"})):
        answer = await house.product.get(
            START, params={"domain": "acme"} | query, headers=house.signed() | more
        )
        assert answer.status_code == 200
        assert answer.json()["url"].startswith(f"{house.kommo.url}/oauth?")
        assert "set-cookie" in answer.headers


async def test_the_key_may_come_in_a_header_of_its_own_and_the_org_in_the_query(house: House) -> None:
    answer = await house.product.get(
        START, params={"domain": "acme", "org": "acme"}, headers={"X-API-Key": house.key}
    )
    assert answer.status_code == 302


async def test_without_a_domain_the_product_is_told_so(house: House) -> None:
    for query in ({}, {"domain": ""}):
        answer = await house.product.get(START, params=query, headers=house.signed())
        assert (answer.status_code, answer.json()) == (400, {"error": "Domain is required"})


async def test_nobody_signed_in_is_nobody(house: House) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer kdp_wrong"},
        {"Authorization": "Basic a2RwOng="},
        {"Authorization": f"Bearer kdp_{'a' * 5000}"},
        {"X-API-Key": "kdp_" + "A" * 43},
    ):
        answer = await house.product.get(
            START, params={"domain": "acme"}, headers=headers | {"X-Kommo-Org": "acme"}
        )
        assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_acts_for_its_own_orgs_only(house: House) -> None:
    answer = await house.product.get(
        START, params={"domain": "acme"}, headers=house.signed("globex", house.key)
    )
    assert (answer.status_code, answer.json()) == (403, {"error": "This key may not act for that org."})


async def test_a_revoked_key_is_none(house: House) -> None:
    from store.api_keys import list_keys, revoke_key

    [mine] = [key for key in await list_keys(house.services.database) if key.name == "acme only"]
    assert await revoke_key(house.services.database, mine.key_id, now=datetime.now(tz=UTC))
    answer = await house.product.get(
        START, params={"domain": "acme"}, headers=house.signed("acme", house.key)
    )
    assert answer.status_code == 401


async def test_the_org_must_be_named_once_and_well(house: House) -> None:
    headers = {"Authorization": f"Bearer {house.every}"}
    for more, query in (
        ({}, {}),
        ({"X-Kommo-Org": "Not An Org"}, {}),
        ({"X-Kommo-Org": "acme"}, {"org": "globex"}),
    ):
        answer = await house.product.get(START, params={"domain": "acme"} | query, headers=headers | more)
        assert answer.status_code == 400
        assert "org" in answer.json()["error"]


async def test_a_redirect_into_the_product_is_taken(house: House) -> None:
    own = house.kommo.world.integration.redirect_uri
    for redirect_uri in (APP_URL, f"{APP_URL}/settings/crm?x=1", "HTTPS://APP.example.com:443/a", own, ""):
        assert (await house.start(redirect_uri=redirect_uri)).state


async def test_allowed_redirects_of_the_block_are_taken_too(house: House) -> None:
    app = await house.services.app()
    app.allowed_redirects = ["https://other.example.com/crm"]
    assert (await house.start(redirect_uri="https://other.example.com/crm/done")).state
    answer = await house.product.get(
        START,
        params={"domain": "acme", "redirect_uri": "https://other.example.com/crmx"},
        headers=house.signed(),
    )
    assert answer.status_code == 400
    assert "redirect_uri" in answer.json()["error"]
