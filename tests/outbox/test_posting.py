"""One attempt: what counts is the status, however the rest of the answer comes."""

import asyncio
import time

import pytest
from pydantic import SecretStr

from tasks.endpoint import parse_endpoint
from tasks.errors import EventsSetupError
from tasks.posting import Outcome, Posted, Poster
from tests.outbox.receiver import Receiver

HEAD = b"HTTP/1.1 %s X\r\nretry-after: 7\r\ncontent-length: 1000\r\n\r\n"


@pytest.mark.parametrize(("status", "patience"), [(b"200", 5.0), (b"503", 0.3)])
async def test_an_answer_whose_body_comes_byte_by_byte_is_its_status_and_takes_no_longer_than_a_second(
    status: bytes, patience: float
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD % status)
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except (ConnectionError, asyncio.CancelledError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = SecretStr(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/events")
    async with server, Poster(parse_endpoint(url, allow_loopback=True), timeout=patience) as poster:
        begun = time.monotonic()
        assert await poster.post({}, b"{}") == Posted(Outcome.ANSWERED, int(status), 7.0)
        assert time.monotonic() - begun < 1.8


async def test_a_connection_is_kept_after_an_answer_that_was_read_to_its_end(product: Receiver) -> None:
    endpoint = parse_endpoint(SecretStr(product.url), allow_loopback=True)
    async with Poster(endpoint) as poster:
        for _ in range(3):
            assert (await poster.post({}, b"{}")).status == 200
    assert product.connections == 1


def test_an_address_with_an_impossible_host_is_told_without_being_repeated() -> None:
    endpoint = parse_endpoint(SecretStr("https://xn--a/events?key=canary"))
    with pytest.raises(EventsSetupError, match="its host") as caught:
        Poster(endpoint)
    assert "canary" not in f"{caught.value!r} {caught.value.__context__!r}"
