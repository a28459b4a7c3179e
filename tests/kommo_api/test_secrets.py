"""T5: a token appears in no error, traceback, repr or log, in whichever way the client fails."""

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence

import pytest
from pydantic import SecretStr

from kommo.auth import OAuthApp, OAuthClient
from kommo.budget import InProcessBudget, Slot
from kommo.client import KommoClient, StaticToken
from kommo.errors import KommoError
from kommo.transport import Transport
from tests.kommo_api.support import (
    Answering,
    Asked,
    InstantClock,
    RawServer,
    client_of,
    raw_server,
    reply,
    silence,
)

CANARY = "canary-4d1f0b77-token"
BODY_CANARY = "jane@acme.example"
QUERY_CANARY = "+31201234567"
PATH = "/api/v4/leads"


async def cut_off(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(200, f'{{"token":"{CANARY}"'.encode(), declared=9000))
    await writer.drain()
    writer.close()


ECHO = {"title": CANARY, "detail": f"Bearer {CANARY} {BODY_CANARY}", "hint": None}
WAYS: dict[str, bytes | Answering | None] = {
    "reset": None,
    "silence": silence,
    "cut off": cut_off,
    "half a JSON": reply(200, f'{{"token":"{CANARY}"'.encode()),
    "not HTTP": f"Bearer {CANARY}\r\n\r\n".encode(),
    "echo in a 400": reply(
        400, {**ECHO, "validation-errors": [{"errors": [{"code": "X", "detail": CANARY}]}]}
    ),
    "401": reply(401, ECHO),
    "echo in a 403 page": reply(403, f"<html>{CANARY}</html>".encode()),
    "redirect": reply(302, b"", [("Location", f"https://evil.example/?token={CANARY}")]),
    "429": reply(429, ECHO),
    "500": reply(500, ECHO),
    "oversized": reply(200, b" " * 90_000),
    "a list that is none": reply(200, {"_embedded": {"leads": ["x"]}}),
    "an endless list": reply(
        200, {"_embedded": {"leads": [{"id": 1}]}, "_links": {"next": {"href": "/x?page=2"}}}
    ),
}


def everything_visible(error: BaseException) -> str:
    seen = [str(error), repr(error), *traceback.format_exception(error)]
    deep = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in deep.stack if "tests" not in (frame.filename or "")]
    seen += [f"{frame.name} {frame.locals}" for frame in frames if "/kommo/" in frame.filename]
    chain: BaseException | None = error
    while chain is not None:
        seen += [str(chain), repr(chain)]
        chain = chain.__cause__ or chain.__context__
    return "\n".join(seen)


Doing = Callable[[KommoClient], Awaitable[object]]
DOINGS: dict[str, Doing] = {
    "get": lambda client: client.get(PATH, [("query", QUERY_CANARY)]),
    "write": lambda client: client.write("POST", PATH, [{"name": BODY_CANARY}]),
    "read_all": lambda client: client.read_all("leads", [("query", QUERY_CANARY)]),
}


@pytest.mark.parametrize("doing", DOINGS.values(), ids=list(DOINGS))
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
async def test_t5_however_the_client_fails_nothing_secret_shows(
    way: bytes | Answering | None, doing: Doing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    failed: KommoError | None = None
    async with raw_server(way) as server, Transport(total_timeout=0.05, largest_body=50_000) as transport:
        token = StaticToken(SecretStr(CANARY))
        async with client_of(server, token=token, transport=transport, attempts=2) as client:
            try:
                await doing(client)
            except KommoError as error:
                failed = error
            assert any(asked.headers["authorization"] == f"Bearer {CANARY}" for asked in server.asked)
            looks = [repr(client), repr(token), repr(transport), repr(vars(client))]
    if failed is not None:
        looks += [str(failed), repr(failed)]
        for secret in (BODY_CANARY, QUERY_CANARY):
            assert secret not in str(failed) + repr(failed) + "".join(traceback.format_exception(failed))
        assert CANARY not in everything_visible(failed)
        assert failed.__cause__ is None
        assert failed.__context__ is None
    assert CANARY not in "\n".join(looks)
    # What the server says is not ours to hide at DEBUG; what we send is.
    own = [record.getMessage() for record in caplog.records if record.name.startswith("kommo")]
    assert CANARY not in "\n".join(own)
    assert QUERY_CANARY not in "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.INFO)


async def test_t5_the_token_we_send_is_in_no_log_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = StaticToken(SecretStr(CANARY))
    async with raw_server(reply(200, {"id": 1})) as server, client_of(server, token=token) as client:
        answer = await client.get(PATH)
    assert CANARY not in caplog.text
    assert CANARY not in json.dumps(answer.data) + repr(answer)


async def test_t5_a_failing_budget_does_not_carry_the_token_out() -> None:
    class Broken(InProcessBudget):
        async def reserve(self, keys: Sequence[str], lane: str, *, instead_of: float | None = None) -> Slot:  # noqa: ARG002 - it fails - the protocol
            raise OSError("the database is gone")

    async with raw_server(reply(204)) as server:
        token = StaticToken(SecretStr(CANARY))
        async with client_of(server, token=token, budget=Broken(None, InstantClock())) as client:
            with pytest.raises(OSError, match="database is gone") as caught:
                await client.get(PATH)
        assert not server.asked
    assert CANARY not in everything_visible(caught.value)


APP_CANARY = "canary-77ab-client-secret"
APP = OAuthApp("7c8d1f8e", SecretStr(APP_CANARY), "https://app.example/cb")
GOT_CANARY = "canary-90fe-received-token"
PAIR: dict[str, object] = {"access_token": GOT_CANARY, "refresh_token": GOT_CANARY, "expires_in": 60}
AUTH_WAYS: dict[str, bytes | Answering | None] = WAYS | {
    "a hint": reply(401, {"hint": "Token has been revoked", "detail": CANARY}),
    "our settings": reply(400, {"hint": "Check the `client_secret` parameter", "detail": APP_CANARY}),
    "half a pair": reply(200, {**PAIR, "refresh_token": None}),
    "a pair without an end": reply(200, {**PAIR, "expires_in": GOT_CANARY}),
    "a pair": reply(200, PAIR),
    "an address": reply(200, {"domain": GOT_CANARY}),
}
Asking = Callable[[OAuthClient, RawServer, SecretStr], Awaitable[object]]
ASKINGS: dict[str, Asking] = {
    "refresh": lambda oauth, server, token: oauth.refresh(server.host, token),
    "exchange_code": lambda oauth, server, token: oauth.exchange_code(server.host, token),
    "current_address": lambda oauth, server, token: oauth.current_address(server.host, token),
}
ALL_CANARIES = (CANARY, APP_CANARY, GOT_CANARY)


def every_frame(error: BaseException) -> str:
    """What a log with local variables would show, of all frames but the tests'."""
    deep = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "\n".join(f"{frame.name} {frame.locals}" for frame in deep.stack if "tests" not in frame.filename)


@pytest.mark.parametrize("asking", ASKINGS.values(), ids=list(ASKINGS))
@pytest.mark.parametrize("way", AUTH_WAYS.values(), ids=list(AUTH_WAYS))
async def test_t5_however_the_token_endpoint_answers_nothing_secret_shows(
    way: bytes | Answering | None, asking: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock, looks, chained = InstantClock(), "", None
    async with (
        raw_server(way) as server,
        Transport(total_timeout=0.05, largest_body=50_000) as transport,
        OAuthClient(APP, budget=InProcessBudget(None, clock), clock=clock, transport=transport) as oauth,
    ):
        try:
            looks += repr(await asking(oauth, server, SecretStr(CANARY)))
        except KommoError as error:
            looks += everything_visible(error) + every_frame(error)
            chained = error.__cause__ or error.__context__
        sent = server.asked[0].body.decode() + str(server.asked[0].headers)
        assert CANARY in sent
        assert (APP_CANARY in sent) is (asking is not ASKINGS["current_address"])
        looks += repr(oauth) + repr(vars(oauth)) + repr(oauth.app)
    assert chained is None
    own = [record.getMessage() for record in caplog.records if record.name.startswith("kommo")]
    for canary in ALL_CANARIES:
        assert canary not in looks
        assert canary not in "\n".join(own)


@pytest.mark.parametrize("asking", ASKINGS.values(), ids=list(ASKINGS))
async def test_t5_what_we_send_to_the_token_endpoint_is_in_no_log_at_any_level(
    asking: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock = InstantClock()
    said = {"access_token": "a", "refresh_token": "r", "expires_in": 60, "domain": "acme.kommo.com"}
    async with (
        raw_server(reply(200, said)) as server,
        OAuthClient(APP, budget=InProcessBudget(None, clock), clock=clock) as oauth,
    ):
        await asking(oauth, server, SecretStr(CANARY))
    assert CANARY not in caplog.text
    assert APP_CANARY not in caplog.text


@pytest.mark.parametrize("asking", ASKINGS.values(), ids=list(ASKINGS))
async def test_t5_a_failing_budget_carries_nothing_of_the_token_endpoint_out(asking: Asking) -> None:
    class Broken(InProcessBudget):
        async def reserve(self, keys: Sequence[str], lane: str, *, instead_of: float | None = None) -> Slot:  # noqa: ARG002 - it fails
            raise OSError("the database is gone")

    clock = InstantClock()
    async with (
        raw_server(reply(204)) as server,
        OAuthClient(APP, budget=Broken(None, clock), clock=clock) as oauth,
    ):
        with pytest.raises(OSError, match="database is gone") as caught:
            await asking(oauth, server, SecretStr(CANARY))
    shown = everything_visible(caught.value) + every_frame(caught.value)
    assert "auth_flow" in shown or "_send" in shown
    for canary in ALL_CANARIES:
        assert canary not in shown


@pytest.mark.parametrize(
    "token", [f"{CANARY}\r\nHost: evil", f"{CANARY}\u0430", f"{CANARY}\ud800", f"{CANARY} x"]
)
async def test_t5_a_token_that_cannot_be_sent_is_not_repeated(token: str) -> None:
    async with (
        raw_server(reply(200, {})) as server,
        client_of(server, token=StaticToken(SecretStr(token))) as client,
    ):
        with pytest.raises(KommoError, match="characters that no token has") as caught:
            await client.get(PATH)
        assert not server.asked
    assert CANARY not in everything_visible(caught.value) + every_frame(caught.value)
    assert caught.value.final
