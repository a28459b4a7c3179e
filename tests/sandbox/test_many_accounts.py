"""Thousands of accounts: there at once, each real as soon as somebody looks at it."""

import base64
import json

import pytest

from sandbox import SandboxConfig
from sandbox.accounts import Accounts
from sandbox.config import FULL_ACCOUNTS
from sandbox.seed import build_account
from sandbox.world import World
from tests.sandbox.oauth_support import hint, token
from tests.sandbox.support import UNTHROTTLED, Api

MANY = SandboxConfig(limits=UNTHROTTLED, accounts=1_000)
many = pytest.mark.parametrize("api", [MANY], indirect=True)


def test_a_card_says_what_the_account_says() -> None:
    accounts = Accounts(SandboxConfig(accounts=20, leads=5, contacts=5, companies=2, talks=2), "localhost:1")
    for card, account in zip(accounts.cards, accounts, strict=True):
        assert (card.id, card.subdomain, card.host) == (account.id, account.subdomain, account.host)
        assert (card.name, card.flavour) == (account.profile["name"], account.flavour)
        assert card.admin_id == account.admin_id
        plain = account.users.get(card.plain_id)
        assert plain is not None
        assert (plain["rights"]["is_admin"], plain["rights"]["is_active"]) == (False, True)
        assert accounts.named(card.subdomain) is accounts.named(str(card.id)) is card


def test_accounts_beyond_the_first_are_tiny_and_the_first_are_as_ever() -> None:
    config = SandboxConfig(accounts=FULL_ACCOUNTS + 1)
    accounts = Accounts(config, "localhost:1")
    assert len(accounts[FULL_ACCOUNTS - 1].entities["leads"]) == config.leads
    assert len(accounts[FULL_ACCOUNTS].entities["leads"]) == 3
    alone = build_account(5, config, "localhost:1")
    assert [*alone.entities["leads"]] == [*accounts[5].entities["leads"]]


def test_nothing_is_built_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def counted(index: int, *arguments: object, **more: object) -> object:
        built.append(index)
        return build_account(index, *arguments, **more)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr("sandbox.accounts.build_account", counted)
    world = World(SandboxConfig(accounts=3_000, leads=1, contacts=1, companies=1, talks=0), 1)
    assert len(world.accounts) == len(world.long_lived) == 3_000
    assert built == [0, 1, 2, 3]
    assert world.account_named("org2999") is world.account_with_id(world.accounts.cards[2998].id)
    assert built == [0, 1, 2, 3, 2998]


@many
async def test_pairs_by_the_thousand_are_pairs_like_any_other(api: Api) -> None:
    pairs = await api.control("POST", "pairs", {"accounts": "all"})
    assert [found["account_id"] for found in pairs] == [card.id for card in api.sandbox.world.accounts.cards]
    one = pairs[700]
    assert set(one) >= {"host", "token_type", "expires_in", "server_time", "access_token", "refresh_token"}
    head, payload, signature = one["access_token"].split(".")
    assert head.startswith("eyJ0eXAi")
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["alg"] == "RS256"
    assert len(base64.urlsafe_b64decode(signature + "==")) == 256
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["account_id"] == one["account_id"]
    name = one["subdomain"]
    assert (await api.get("account", host=name, token=one["access_token"])).json()["id"] == one["account_id"]
    assert (
        len((await api.get("leads", host=name, token=one["access_token"])).json()["_embedded"]["leads"]) == 3
    )
    assert (await token(api, name, refresh_token=one["refresh_token"])).status_code == 200
    other = pairs[701]["subdomain"]
    assert hint(await token(api, other, refresh_token=one["refresh_token"])) == (400, "Invalid account")


@many
async def test_pairs_may_be_asked_for_a_few_and_old(api: Api) -> None:
    for which, count in ((["acme", "org900"], 2), (3, 3), ([31_234_567], 1)):
        assert len(await api.control("POST", "pairs", {"accounts": which})) == count
    aged = (await api.control("POST", "pairs", {"accounts": ["org30"], "age": 86_401}))[0]
    assert (await api.get("account", host="org30", token=aged["access_token"])).status_code == 401
    assert (await token(api, "org30", refresh_token=aged["refresh_token"])).status_code == 200
    gone = (await api.control("POST", "pairs", {"accounts": ["org30"], "age": 91 * 86_400}))[0]
    assert hint(await token(api, "org30", refresh_token=gone["refresh_token"])) == (401, "Token has expired")
    for body in ({"accounts": "some"}, {"accounts": True}, {"accounts": ["nobody"]}):
        answer = await api.http.post(f"{api.sandbox.url}/_sandbox/pairs", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]


@many
async def test_many_may_be_revoked_at_once_and_listed_in_part(api: Api) -> None:
    await api.control("POST", "pairs", {"accounts": 50})
    assert (await api.control("POST", "revoke", {"accounts": 40}))[
        "revoked"
    ] == 40 * 4  # two long-lived ones and a pair each
    left = (await api.control("POST", "alive", {"accounts": "all"}))["alive"]
    assert [found["account_id"] for found in left] == [
        card.id for card in api.sandbox.world.accounts.cards[40:50]
    ]
    assert len(await api.control("GET", "accounts?first=7")) == 7
    assert len(await api.control("GET", "accounts")) == 1_000


@many
async def test_an_account_may_move_before_anybody_looked_at_it(api: Api) -> None:
    await api.control("POST", "rename", {"account": "org500", "subdomain": "moved"})
    found = (await api.control("POST", "pairs", {"accounts": ["moved"]}))[0]
    account = (await api.get("account", host="moved", token=found["access_token"])).json()
    assert (account["subdomain"], account["id"]) == ("moved", found["account_id"])
    assert (await api.get("account", host="org500", token=found["access_token"])).status_code == 404
