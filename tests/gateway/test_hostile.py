"""Bad input (design.md §6): refused with a clear body, no request goes out, nothing is stored, nothing is told."""

import asyncio

import pytest

from tests.gateway.support import CALLBACK, DISABLED, START, House

HOSTS = [
    "evil.com",
    "acme.kommo.com.evil.com",
    "acme.kommo.com@evil.com",
    "evil.com/acme.kommo.com",
    "evil.com?acme.kommo.com",
    "evil.com#.kommo.com",
    "https://evil.com",
    "https://user:password@acme.kommo.com",
    "acme.kommo.com:8443",
    "acme.kommo.com:@evil.com",
    "www.kommo.com",
    "kommo.com",
    ".kommo.com",
    "acme..kommo.com",
    "a.b.kommo.com",
    "acmе.kommo.com",  # noqa: RUF001 - a Cyrillic letter is the point
    "acme.kommo.cоm",  # noqa: RUF001 - a Cyrillic o is the point
    "acme。kommo。com",
    "xn--acm-qdd.kommo.com",
    "acme.kommo.com%00.evil.com",
    "acme.kommo.com\\evil.com",
    "acme.kommo.com evil.com",
    "acme.kommo.com\r\nHost: evil.com",
    "169.254.169.254",
    "0x7f.1",
    "[::ffff:127.0.0.1]",
    "localhost.evil.com",
    "file:///etc/passwd",
    "\x00",
    "a" * 3000,
]


async def test_r4_a_hostile_host_is_refused_at_both_doors_and_nothing_goes_out(house: House) -> None:
    for host in HOSTS:
        answer = await house.product.get(START, params={"domain": host}, headers=house.signed())
        assert answer.status_code == 400, host
        assert "not the address of a Kommo account" in answer.json()["error"], host
        assert host in "acme.kommo.com" or host not in answer.text
        consent = await house.start()
        answer = await house.come_back(consent, house.code_query(consent.state) | {"referer": host})
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid request"}), host
    assert house.requests() == 0
    assert await house.connection() is None
    assert await house.told() == len(HOSTS) * [("integration_error", "host_not_allowed")]


async def test_r4_a_loopback_host_is_hostile_where_no_sandbox_is_allowed(house: House) -> None:
    consent = await house.start()
    (await house.services.app()).allow_loopback = False
    for host in (house.acme.host, "127.0.0.1", "localhost:8020"):
        answer = await house.product.get(START, params={"domain": host}, headers=house.signed())
        assert answer.status_code == 400
    answer = await house.come_back(consent, house.code_query(consent.state))
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid request"})
    assert house.requests() == 0


async def test_a_redirect_out_of_the_product_is_refused(house: House) -> None:
    for redirect_uri in (
        "https://evil.com/",
        "https://app.example.com.evil.com/",
        "https://app.example.com@evil.com/",
        "http://app.example.com/",
        "//evil.com",
        "/manage",
        "javascript:alert(1)",
        "https://app.example.com/../../evil",
        "https://app.example.com\\@evil.com",
    ):
        answer = await house.product.get(
            START, params={"domain": "acme", "redirect_uri": redirect_uri}, headers=house.signed()
        )
        assert answer.status_code == 400, redirect_uri
        assert answer.json()["error"].startswith("This redirect_uri is not allowed")
        assert "location" not in answer.headers
        assert "evil" not in answer.text


async def test_an_oversized_parameter_is_refused_at_once(house: House) -> None:
    for path in (START, CALLBACK, DISABLED, "/api/v1/orgs/acme/connection"):
        for name in ("domain", "code", "state", "referer", "redirect_uri", "org", "signature"):
            for size in (20_000, 1_000_000):
                began = asyncio.get_running_loop().time()
                status, body = await _raw(house, f"GET {path}?{name}={'a' * size} HTTP/1.1")
                assert status in {400, 414}
                assert len(body) < 1000
                assert asyncio.get_running_loop().time() - began < 2
    assert house.requests() == 0


async def test_an_oversized_parameter_that_fits_the_line_is_told_in_the_doors_own_shape(house: House) -> None:
    answer = await house.product.get(CALLBACK, params={"code": "a" * 20_000})
    assert (answer.status_code, answer.json()) == (414, {"error": "The address is too long."})
    answer = await house.product.get("/api/v1/orgs/acme/connection", params={"x": "a" * 20_000})
    assert answer.status_code == 414
    assert answer.headers["content-type"] == "application/problem+json"


async def test_oversized_headers_and_bodies_are_refused(house: House) -> None:
    answer = await house.product.get("/healthz", headers={"X-Long": "a" * 40_000})
    assert answer.status_code == 431
    answer = await house.product.post("/healthz", content=b"a" * 1_100_000)
    assert answer.status_code == 413
    status, _ = await _raw(house, "POST /healthz HTTP/1.1\r\nContent-Length: -1")
    assert status == 400


async def test_garbage_is_an_invalid_request(house: House) -> None:
    for query in (
        "code=%FF%FE&state=%C0%80&referer=%00",
        "code=a&state=" + "x" * 300 + "&referer=acme.kommo.com",
        "code=" + "x" * 9000 + "&state=abc&referer=acme.kommo.com",
        "code[]=a&state[]=b&referer[]=c",
        "&&&=&=",
        "code=%ED%A0%80&state=%ED%A0%80&referer=%ED%A0%80",
        "error=access_denied",
        "from_widget=1",
        "from_widget=1&code=a&referer=evil.com&client_id=x",
    ):
        answer = await house.product.get(f"{CALLBACK}?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["error"] in {"Invalid request", "Invalid or expired state"}
    assert house.requests() == 0


async def test_a_failure_of_our_own_tells_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> object:
        raise RuntimeError("canary: password=hunter2")

    monkeypatch.setattr("gateway.crm.finish_authorization", broken)
    answer = await house.product.get(
        CALLBACK, params={"code": "a", "state": "b", "referer": "acme.kommo.com"}
    )
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["error"]
    assert "canary" not in answer.text
    assert "Traceback" not in answer.text


async def _raw(house: House, head: str) -> tuple[int, bytes]:
    """A request that a well-behaved client would not send."""
    port = int(house.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 10)
        return int(line.split()[1]), await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return 400, b""  # the server hung up in the middle of a megabyte
    finally:
        writer.close()
