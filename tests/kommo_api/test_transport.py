"""The wire: what is sent, what is made of every kind of answer, and what never happens."""

import asyncio
import gc
import gzip
import weakref

import pytest
from pydantic import SecretStr

from kommo.errors import ErrorKind, KommoError
from kommo.hosts import Host, parse_host
from kommo.transport import Transport
from tests.kommo_api.support import Asked, RawServer, raw_server, reply, silence

PATH = "/api/v4/account"


async def send(server: RawServer, method: str = "GET", **limits: float) -> KommoError:
    async with Transport(**limits) as transport:  # type: ignore[arg-type]  # numbers, whatever their names
        with pytest.raises(KommoError) as caught:
            await transport.send(method, server.host, PATH, bearer=SecretStr("t0ken"))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


async def test_a_request_carries_host_token_agent_and_query_as_given() -> None:
    async with (
        raw_server(reply(200, {"id": 1}, [("X-Request-Id", "ab c\t1")])) as server,
        Transport() as transport,
    ):
        answer = await transport.send(
            "POST",
            server.host,
            PATH,
            [("filter[id][]", "1"), ("filter[id][]", "2"), ("with", "a,b")],
            json=[{"name": "é"}],
            bearer=SecretStr("t0ken"),
        )
    asked = server.asked[0]
    assert asked.target == f"{PATH}?filter%5Bid%5D%5B%5D=1&filter%5Bid%5D%5B%5D=2&with=a%2Cb"
    assert asked.headers["host"] == f"acme.localhost:{server.port}"
    assert asked.headers["authorization"] == "Bearer t0ken"
    assert asked.headers["user-agent"].startswith("kommo-data-plane/")
    assert asked.headers["content-type"] == "application/json"
    assert asked.body == '[{"name":"é"}]'.encode()
    assert (answer.status, answer.body, answer.request_id) == (200, b'{"id": 1}', "ab_c_1")
    assert "id" not in repr(answer).replace("request_id", "")


async def test_secrets_in_a_body_and_in_headers_are_opened_for_kommo_only() -> None:
    async with raw_server(reply(204)) as server, Transport() as transport:
        body = {"a": SecretStr('s"é'), "b": [SecretStr("t")], "c": 1}
        headers: dict[str, str | SecretStr] = {"X-Refresh-Token": SecretStr("r"), "X-Plain": "p"}
        await transport.send("POST", server.host, PATH, json=body, headers=headers)
        await transport.send("POST", server.host, PATH, json={"a": "\ud800é"})
        with pytest.raises(TypeError, match="A bytes cannot be sent"):
            await transport.send("POST", server.host, PATH, json={"a": b"x"})
    first, second = server.asked
    assert first.body == '{"a":"s\\"é","b":["t"],"c":1}'.encode()
    assert (first.headers["x-refresh-token"], first.headers["x-plain"]) == ("r", "p")
    assert second.body == b'{"a":"\\ud800\\u00e9"}'


async def test_the_connection_is_kept() -> None:
    ports = set()

    async def note(_: Asked, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername"))
        writer.write(reply(204))

    async with raw_server(note) as server, Transport() as transport:
        for _ in range(5):
            await transport.send("GET", server.host, PATH)
    assert len(ports) == 1


async def test_a_compressed_answer_is_unpacked() -> None:
    packed = reply(200, gzip.compress(b'{"id":1}'), [("Content-Encoding", "gzip")])
    async with raw_server(packed) as server, Transport() as transport:
        assert (await transport.send("GET", server.host, PATH)).body == b'{"id":1}'


async def test_r4_a_redirect_is_not_followed() -> None:
    async with raw_server(reply(200, {})) as other:
        moved = reply(302, b"", [("Location", f"http://127.0.0.1:{other.port}/steal")])
        async with raw_server(moved) as server, Transport() as transport:
            answer = await transport.send("GET", server.host, PATH, bearer=SecretStr("t0ken"))
        assert answer.status == 302
        assert not other.asked


async def test_cookies_are_not_kept() -> None:
    async with (
        raw_server(reply(200, {}, [("Set-Cookie", "session_id=1; Path=/")])) as server,
        Transport() as transport,
    ):
        await transport.send("GET", server.host, PATH)
        await transport.send("GET", server.host, PATH)
    assert "cookie" not in server.asked[1].headers


async def test_a_proxy_of_the_environment_never_sees_requests_to_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with raw_server(reply(204)) as server, Transport() as transport:
        assert (await transport.send("GET", server.host, PATH)).status == 204


@pytest.mark.parametrize("header", ["Authorization", "HOST", "cookie"])
async def test_r4_headers_cannot_replace_the_host_or_the_token(header: str) -> None:
    async with Transport() as transport:
        with pytest.raises(ValueError, match="may not be given"):
            await transport.send("GET", Host("acme.kommo.com"), PATH, headers={header: "x"})


@pytest.mark.parametrize("path", ["https://evil.example/", "//evil.example/x", "api", "/a?b=c", "/a#b"])
async def test_r4_a_path_cannot_lead_to_another_host(path: str) -> None:
    async with Transport() as transport:
        with pytest.raises(ValueError, match="must be absolute"):
            await transport.send("GET", Host("acme.kommo.com"), path)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_reset_is_unreachable_and_leaves_a_write_unknown(method: str) -> None:
    async with raw_server(None) as server:
        error = await send(server, method)
    assert error.kind is ErrorKind.UNREACHABLE
    assert error.outcome_unknown is (method == "POST")


async def test_a_write_that_never_got_a_connection_is_known_not_to_have_happened() -> None:
    async with raw_server(None) as server:
        gone = server
    error = await send(gone, "POST")
    assert error.kind is ErrorKind.UNREACHABLE
    assert not error.outcome_unknown


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_answer_in_time_is_a_timeout(method: str) -> None:
    async with raw_server(silence) as server:
        error = await send(server, method, total_timeout=0.05)
    assert error.kind is ErrorKind.TIMEOUT
    assert error.outcome_unknown is (method == "POST")


async def test_an_answer_that_trickles_for_ever_ends_at_the_total_timeout() -> None:
    async def trickle(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, b"{", declared=100_000))
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(trickle) as server:
        error = await send(server, total_timeout=0.1)
    assert error.kind is ErrorKind.TIMEOUT


async def test_a_body_that_breaks_off_is_malformed() -> None:
    async def cut(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, b'{"id":', declared=1000))
        await writer.drain()
        writer.close()

    async with raw_server(cut) as server:
        error = await send(server)
    assert error.kind is ErrorKind.MALFORMED
    assert error.retryable


async def test_an_oversized_body_is_refused_packed_or_not() -> None:
    packed = gzip.compress(b" " * 100_000)
    for answer in (reply(200, b" " * 5000), reply(200, packed, [("Content-Encoding", "gzip")])):
        async with raw_server(answer) as server:
            error = await send(server, largest_body=4000)
        assert error.kind is ErrorKind.TOO_LARGE
        assert not error.retryable


async def test_bytes_that_are_not_http_are_an_error_of_ours() -> None:
    async with raw_server(b"SSH-2.0-OpenSSH\r\n\r\n") as server:
        assert (await send(server)).kind is ErrorKind.UNREACHABLE


async def test_the_gate_is_passed_on_a_standing_connection_and_its_time_does_not_count() -> None:
    connected = 0

    async def gate() -> None:
        nonlocal connected
        connected = len(server.asked)
        await asyncio.sleep(0.15)

    async with raw_server(reply(204)) as server, Transport(total_timeout=0.1) as transport:
        await transport.send("GET", server.host, PATH, gate=gate)
    assert connected == 0
    assert len(server.asked) == 1


async def test_what_the_gate_raises_goes_through_and_nothing_is_sent() -> None:
    async def gate() -> None:
        raise OSError("the budget's database is gone")

    async with raw_server(reply(204)) as server, Transport() as transport:
        with pytest.raises(OSError, match="database is gone"):
            await transport.send("POST", server.host, PATH, gate=gate)
        assert not server.asked
        assert (await transport.send("GET", server.host, PATH)).status == 204


async def test_any_name_under_localhost_is_this_machine() -> None:
    async with raw_server(reply(204)) as server, Transport() as transport:
        for name in (f"deep.shop.localhost:{server.port}", f"127.0.0.1:{server.port}"):
            await transport.send("GET", parse_host(name, allow_loopback=True), PATH)
            assert server.asked[-1].headers["host"] == name


async def test_an_answer_goes_when_nobody_has_it_any_more() -> None:
    async with raw_server(reply(200, {"id": 1})) as server, Transport() as transport:

        async def ask() -> None:
            await transport.send("GET", server.host, PATH)

        gc.disable()
        try:
            asking = asyncio.create_task(ask())
            await asking
            gone = weakref.ref(asking)
            del asking
            await asyncio.sleep(0)  # the loop lets go of what it has called
            assert gone() is None, "the task with its answer is held by a circle"
        finally:
            gc.enable()
