"""An integration: the address of its consent page, and the hook that tells of an uninstall (§1.2, §1.9)."""

import hashlib
import hmac
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from kommo.auth import OAuthApp, authorize_url, disable_signature, disable_signature_matches

APP = OAuthApp("7c8d1f8e-0000-4000-8000-000000000001", SecretStr("canary-s3cret"), "https://app.example/cb")


def test_the_consent_page_is_told_client_state_and_mode_and_nothing_else() -> None:
    assert authorize_url(APP, "abc") == (
        "https://www.kommo.com/oauth?client_id=7c8d1f8e-0000-4000-8000-000000000001&state=abc&mode=popup"
    )
    assert "mode=post_message" in authorize_url(APP, "abc", mode="post_message")


@given(st.text())
def test_any_state_comes_back_as_it_was(state: str) -> None:
    url = authorize_url(APP, state)
    assert url.isascii()
    assert parse_qs(urlsplit(url).query, keep_blank_values=True)["state"] == [state]


@pytest.mark.parametrize(
    ("base", "begins"),
    [
        ("https://www.amocrm.ru", "https://www.amocrm.ru/oauth?"),
        ("https://www.kommo.com/", "https://www.kommo.com/oauth?"),
        ("http://www.localhost:8025", "http://www.localhost:8025/oauth?"),
        ("http://localhost:8025", "http://localhost:8025/oauth?"),
        ("http://127.0.0.1:8025", "http://127.0.0.1:8025/oauth?"),
        ("http://[::1]:8025", "http://[::1]:8025/oauth?"),
    ],
)
def test_the_consent_page_may_be_elsewhere(base: str, begins: str) -> None:
    app = OAuthApp(APP.client_id, APP.client_secret, APP.redirect_uri, authorize_base=base)
    assert authorize_url(app, "s").startswith(begins)


@pytest.mark.parametrize(
    "base",
    [
        "",
        "www.kommo.com",
        "http://www.kommo.com",
        "http://localhost.evil.example",
        "http://evil.example/localhost",
        "https://user:canary-s3cret@www.kommo.com",
        "https://www.kommo.com/oauth",
        "https://www.kommo.com?x=1",
        "https://www.kommo.com#x",
        "https://",
        "https://www.kommo.com evil.example",
        "https://[",
        "javascript:alert(1)",
        "ftp://www.kommo.com",
    ],
)
def test_a_base_that_is_not_secure_is_refused_without_repeating_it(base: str) -> None:
    app = OAuthApp(APP.client_id, APP.client_secret, APP.redirect_uri, authorize_base=base)
    with pytest.raises(ValueError, match="consent page must") as caught:
        authorize_url(app, "s")
    assert "canary" not in str(caught.value)


def test_t5_an_integration_does_not_show_its_secret() -> None:
    assert "canary" not in f"{APP} {APP!r}"
    assert "canary" not in authorize_url(APP, "s")


def matches(**changes: str) -> bool:
    sound = {
        "client_uuid": APP.client_id,
        "account_id": "31234567",
        "signature": disable_signature(APP, 31234567),
    }
    return disable_signature_matches(APP, **(sound | changes))


def test_the_hook_is_signed_as_kommo_says() -> None:
    message = f"{APP.client_id}|31234567".encode()
    assert disable_signature(APP, 31234567) == hmac.new(b"canary-s3cret", message, hashlib.sha256).hexdigest()
    assert matches()


@pytest.mark.parametrize(
    "changes",
    [
        {"account_id": "31234568"},
        {"account_id": "031234567"},
        {"account_id": " 31234567"},
        {"account_id": "31234567\n"},
        {"account_id": "\u0663\u0661"},
        {"account_id": ""},
        {"account_id": "1" * 1_000_000},
        {"client_uuid": "00000000-0000-4000-8000-000000000000"},
        {"client_uuid": ""},
        {"client_uuid": "\u0430"},
        {"signature": ""},
        {"signature": disable_signature(APP, 31234567)[:-1]},
        {"signature": disable_signature(APP, 31234567) + "0"},
        {"signature": "\ud800é" * 32},
        {"signature": "x" * 1_000_000},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_anything_else_is_not_signed(changes: dict[str, str]) -> None:
    assert not matches(**changes)


@given(st.text(), st.text(), st.text())
def test_no_input_makes_the_check_fail_or_agree(client_uuid: str, account_id: str, signature: str) -> None:
    assert not disable_signature_matches(
        APP, client_uuid=client_uuid, account_id=account_id, signature=signature
    )


@pytest.mark.parametrize(
    "app", [OAuthApp(APP.client_id, SecretStr(""), "x"), OAuthApp("", SecretStr(""), "x")]
)
def test_without_a_secret_nobody_can_sign(app: OAuthApp) -> None:
    forged = hmac.new(b"", f"{app.client_id}|7".encode(), hashlib.sha256).hexdigest()
    assert not disable_signature_matches(app, client_uuid=app.client_id, account_id="7", signature=forged)
