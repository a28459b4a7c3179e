"""R4: which addresses a token may be sent to."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kommo.errors import ErrorKind, HostNotAllowed, KommoError
from kommo.hosts import Host, parse_host

ALLOWED = re.compile(r"[a-z0-9-]+\.(kommo\.com|amocrm\.com|amocrm\.ru)")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("acme.kommo.com", "acme.kommo.com"),
        ("  Acme.KOMMO.com \n", "acme.kommo.com"),
        ("https://acme.amocrm.ru/leads/detail/1?x=1#y", "acme.amocrm.ru"),
        ("http://acme.amocrm.com", "acme.amocrm.com"),
        ("acme.kommo.com?code=1", "acme.kommo.com"),
        ("acme", "acme.kommo.com"),
        ("my-shop-2", "my-shop-2.kommo.com"),
    ],
)
def test_what_people_paste_is_understood(text: str, name: str) -> None:
    host = parse_host(text)
    assert host == Host(name)
    assert host.base_url == f"https://{name}"
    assert not host.loopback


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "www.kommo.com",
        "https://www.amocrm.ru/",
        "kommo.com",
        "kommo.com.evil.example",
        "acme.kommo.com.evil.example",
        "acme.kommo.com@evil.example",
        "evil.example/acme.kommo.com",
        "evil.example#acme.kommo.com",
        "user:hunter2@acme.kommo.com",
        "acme.kommo.com:8443",
        "acme.kommo.com:",
        "a.b.kommo.com",
        "-acme.kommo.com",
        "acme-.kommo.com",
        "acme_x.kommo.com",
        "acme.kommo.com.",
        "acme..kommo.com",
        "xn--80ak6aa92e.kommo.com",
        "\u0430cme.kommo.com",
        "acme.kommo\u3002com",
        "acme.kommo.com\x00.evil.example",
        "acme.kommo.com\\@evil.example",
        "evil.example\n.kommo.com",
        "ftp://acme.kommo.com",
        "//acme.kommo.com",
        "javascript:alert(1)",
        "127.0.0.1",
        "localhost",
        "acme.localhost:8025",
        "[::1]",
        "169.254.169.254",
        "acmekommo.com",
        "a" * 64 + ".kommo.com",
        "a" * 5000,
    ],
)
def test_everything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(HostNotAllowed) as caught:
        parse_host(text)
    assert caught.value.kind is ErrorKind.HOST_NOT_ALLOWED
    assert "hunter2" not in str(caught.value)
    assert "evil" not in str(caught.value)
    assert isinstance(caught.value, KommoError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "name", ["localhost", "localhost:8025", "acme.localhost:8025", "127.0.0.1:1", "[::1]:65535"]
)
def test_this_machine_is_allowed_only_when_asked_for(name: str) -> None:
    host = parse_host(f"http://{name}/api/v4", allow_loopback=True)
    assert host.loopback
    assert host.base_url == f"http://{name}"
    with pytest.raises(HostNotAllowed):
        parse_host(name)


@pytest.mark.parametrize(
    "name", ["localhost:0", "localhost:65536", "localhost.evil.example:80", "127.0.0.2:80"]
)
def test_other_machines_do_not_pass_as_this_one(name: str) -> None:
    with pytest.raises(HostNotAllowed):
        parse_host(name, allow_loopback=True)


@pytest.mark.parametrize(
    ("name", "loopback"), [("evil.example", False), ("evil.example", True), ("localhost", False)]
)
def test_a_host_outside_the_list_cannot_even_be_made(name: str, *, loopback: bool) -> None:
    with pytest.raises(HostNotAllowed):
        Host(name, loopback=loopback)


@given(st.text(max_size=60) | st.text(alphabet="acmeko.-:/@?#[]\\ %1wxn", max_size=40))
@example("https://https://acme.kommo.com")
def test_whatever_the_text_the_result_is_on_the_list_or_an_error(text: str) -> None:
    try:
        host = parse_host(text)
    except HostNotAllowed:
        return
    assert ALLOWED.fullmatch(host.name)
    assert not host.name.startswith("www.")
    assert parse_host(host.name) == host


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    st.sampled_from(["kommo.com", "amocrm.ru"]),
)
def test_every_ordinary_account_is_accepted(sub: str, domain: str) -> None:
    if sub in {"www", "localhost"} or sub.startswith("xn--"):
        return
    assert parse_host(f"HTTPS://{sub.upper()}.{domain}/").name == f"{sub}.{domain}"
