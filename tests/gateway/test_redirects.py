"""Where a person may be sent afterwards: only into the product, read as a browser would read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.redirects import is_allowed_redirect, origin_of

ALLOWED = ["https://app.example.com", "https://other.example.com/crm/"]


@pytest.mark.parametrize(
    "address",
    [
        "https://app.example.com",
        "https://app.example.com/",
        "https://app.example.com:443/a",
        "https://APP.example.com/a/b?next=https://evil.com#part",
        "https://other.example.com/crm",
        "https://other.example.com/crm/x",
    ],
)
def test_addresses_of_the_product_are_allowed(address: str) -> None:
    assert is_allowed_redirect(address, ALLOWED)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/manage",
        "//app.example.com/",
        "app.example.com",
        "http://app.example.com/",
        "https://app.example.com.evil.com/",
        "https://app.example.com@evil.com/",
        "https://evil.com@app.example.com/",
        "https://evil.com/https://app.example.com/",
        "https://evil.com#@app.example.com/",
        "https://evil.com\\@app.example.com/",
        "https://app.example.com\\.evil.com/",
        "https://app.example.com:8443/",
        "https://app.example.com:0/",
        "https://app.example.com:x/",
        "https://app.example.com /",
        "https://app.example.com\t.evil.com/",
        "https://аpp.example.com/",  # noqa: RUF001 - a Cyrillic letter is the point
        "https://other.example.com/",
        "https://other.example.com/crmx",
        "https://other.example.com/crm/../admin",
        "https://other.example.com/crm/%2e%2e/admin",
        "https://other.example.com/crm/..;/admin/..",
        "https://other.example.com//crm/",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://[::1",
        "https://app.example.com/" + "a" * 3000,
    ],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_allowed_redirect(address, ALLOWED)


@given(st.text(max_size=60), st.sampled_from(["https://app.example.com", "https://evil.com", "http:", ""]))
def test_nothing_makes_it_fail_and_what_is_allowed_begins_as_it_must(text: str, start: str) -> None:
    if is_allowed_redirect(start + text, ALLOWED):
        origin = origin_of(start + text)
        assert origin in {"https://app.example.com", "https://other.example.com"}


def test_nothing_is_allowed_where_nothing_is_configured() -> None:
    assert not is_allowed_redirect("https://app.example.com/", [])
    assert not is_allowed_redirect("https://app.example.com/", ["", "no address"])


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("https://APP.example.com/a?b", "https://app.example.com"),
        ("http://127.0.0.1:3000/", "http://127.0.0.1:3000"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("", None),
        ("ftp://app.example.com", None),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(address: str, origin: str | None) -> None:
    assert origin_of(address) == origin
