"""The consent page as a person's browser sees it (fact sheet 1.2)."""

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest

from sandbox import SandboxConfig
from tests.sandbox.oauth_support import consent, token
from tests.sandbox.support import SMALL, UNTHROTTLED, Api


def fields(page: str) -> dict[str, str]:
    """Name and value of the hidden inputs."""
    found = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page)
    return {name: unescape(value) for name, value in found}


async def test_the_form_keeps_what_the_page_was_asked_with(api: Api) -> None:
    page = (await consent(api, state='a"b<c', mode="post_message")).text
    client_id = api.sandbox.world.integration.client_id
    assert fields(page) == {"client_id": client_id, "state": 'a"b<c', "mode": "post_message"}
    assert set(fields((await consent(api)).text)) == {"client_id"}


async def test_the_popup_closes_and_a_message_window_stays(api: Api) -> None:
    for mode, closes in (("popup", True), ("", True), ("post_message", False)):
        page = (await consent(api, mode=mode)).text
        assert ("window.close()" in page) is closes


async def test_a_person_picks_among_a_few_accounts(api: Api) -> None:
    page = (await consent(api, account="globex")).text
    radios = re.findall(r'type="radio" name="account" value="(\w+)"( checked)?', page)
    assert radios == [("acme", ""), ("globex", " checked"), ("romashka", "")]
    assert "Ромашка" in page


@pytest.mark.parametrize("api", [SandboxConfig(limits=UNTHROTTLED, accounts=40)], indirect=True)
async def test_a_person_types_one_of_many_accounts(api: Api) -> None:
    page = (await consent(api, account="org39")).text
    assert 'type="radio"' not in page
    assert re.search(r'name="account"[^>]* value="org39"', page)
    answer = await consent(api, account="org39", decision="allow")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["referer"] == [
        f"org39.localhost:{api.sandbox.port}"
    ]


async def test_an_account_of_amocrm_says_platform_1(api: Api) -> None:
    answer = await consent(api, account="romashka", decision="allow")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["platform"] == ["1"]


async def test_what_is_not_there_is_said_on_a_page(api: Api) -> None:
    assert api.sandbox.config == SMALL
    for query in (
        {"account": "nobody"},
        {"account": "9" * 5000},
        {"decision": "allow", "user": "nobody"},
        {"decision": "allow", "user": "1"},
        {"decision": "allow", "user": "\u0663"},
        {"client_id": "nobody"},
    ):
        page = await consent(api, **query)
        assert page.status_code == 404
        assert page.text.startswith("<!doctype html>")


async def test_the_first_time_an_administrator_must_allow_it(api: Api) -> None:
    async def allowed(user: str) -> int:
        return (await consent(api, decision="allow", account="globex", user=user)).status_code

    assert [await allowed("plain"), await allowed("admin"), await allowed("plain")] == [403, 302, 302]
    await api.control("POST", "uninstall", {"account": "globex"})
    assert await allowed("plain") == 403


async def test_a_token_has_the_rights_of_whoever_allowed_it(api: Api) -> None:
    statuses = {}
    for user in ("admin", "plain"):
        url = (await consent(api, decision="allow", user=user)).headers["location"]
        code = parse_qs(urlsplit(url).query)["code"][0]
        pair = (await token(api, code=code)).json()
        statuses[user] = (await api.get("users", token=pair["access_token"])).status_code
    assert statuses == {"admin": 200, "plain": 403}
