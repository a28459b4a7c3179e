"""R2, R3, R4 at the client: what is retried, what is told to the budget, what is sent once."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from pydantic import SecretStr

from kommo.budget import InProcessBudget, Lane, Slot
from kommo.catalogue import CATALOGUE
from kommo.client import BACKOFF_CAP, StaticToken
from kommo.clock import SystemClock
from kommo.errors import ErrorKind, KommoError
from kommo.sending import BLOCK_SECONDS
from kommo.transport import Transport
from tests.kommo_api.support import (
    Answering,
    Asked,
    InstantClock,
    client_of,
    raw_server,
    reply,
    silence,
)
from tests.turns import measured

PATH = "/api/v4/account"
OK = reply(200, {"id": 1}, [("X-Request-Id", "r-1")])
HTML = [("Content-Type", "text/html")]


async def cut_off(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(200, b'{"id":', declared=900))
    await writer.drain()
    writer.close()


FAULTS: dict[str, bytes | Answering | None] = {
    "reset": None,
    "cut off": cut_off,
    "half a JSON": reply(200, b'{"id":'),
    "a login page": reply(200, b"<html>", HTML),
    "a bare word": reply(200, b"null"),
    "500": reply(500, {"trace_id": "x"}),
    "502": reply(502, b"<html>", HTML),
    "503": reply(503),
    "504": reply(504, b"<html>", HTML),
    "429 JSON": reply(429, {"retry_after": 2}),
    "429 HTML": reply(429, b"<html>", HTML),
    "408": reply(408),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
async def test_r3_a_read_survives_a_fault_that_passes(fault: bytes | Answering | None) -> None:
    async with raw_server(fault, fault, OK) as server, client_of(server) as client:
        answer = await client.get(PATH)
        assert (answer.status, answer.data, answer.request_id) == (200, {"id": 1}, "r-1")
        assert (client.requests_sent, client.retries) == (3, 2)


async def test_r3_a_read_survives_a_timeout() -> None:
    async with (
        raw_server(silence, OK) as server,
        Transport(total_timeout=0.05) as transport,
        client_of(server, transport=transport) as client,
    ):
        assert (await client.get(PATH)).data == {"id": 1}


@pytest.mark.parametrize("status", [400, 401, 402, 404, 405, 422, 302, 409])
async def test_r3_a_fault_that_does_not_pass_is_not_retried(status: int) -> None:
    async with raw_server(reply(status, {"title": "x"})) as server, client_of(server) as client:
        with pytest.raises(KommoError) as caught:
            await client.get(PATH)
        assert len(server.asked) == 1
    assert caught.value.status == status
    assert caught.value.path == PATH


async def test_r3_reads_give_up_after_the_given_attempts_with_the_last_error() -> None:
    clock = InstantClock()
    async with raw_server(reply(500)) as server, client_of(server, clock=clock) as client:
        with pytest.raises(KommoError) as caught:
            await client.get(PATH)
        assert len(server.asked) == 8
    assert caught.value.kind is ErrorKind.SERVER_ERROR
    assert max(clock.slept) <= BACKOFF_CAP
    assert len(set(clock.slept)) > 5


async def test_r3_with_a_third_of_all_answers_broken_reads_still_succeed() -> None:
    dice = random.Random(7)
    faults = list(FAULTS.values())

    async def moody(asked: Asked, writer: asyncio.StreamWriter) -> None:
        answer = dice.choice(faults) if dice.random() < 0.3 else OK
        if answer is None:
            writer.transport.abort()
        elif isinstance(answer, bytes):
            writer.write(answer)
        else:
            await answer(asked, writer)

    async with raw_server(moody) as server, client_of(server) as client:
        for _ in range(150):
            assert (await client.get(PATH)).data == {"id": 1}
        assert client.retries > 30
        assert client.requests_sent == 150 + client.retries


async def test_no_content_is_no_data() -> None:
    async with raw_server(reply(204)) as server, client_of(server) as client:
        assert (await client.get(PATH)).data is None
        assert await client.read_all("leads") == []


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (reply(429, {"retry_after": 30}), 30.0),
        (reply(429, b"<html>", [("Retry-After", "12")]), 12.0),
        (reply(429, b"<html>"), 1.0),
    ],
)
async def test_r2_a_429_keeps_everyone_on_the_account_quiet_for_as_long_as_kommo_says(
    answer: bytes, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    async with (
        raw_server(answer, OK) as server,
        client_of(server, clock=clock, budget=budget, attempts=1) as client,
    ):
        with pytest.raises(KommoError) as caught:
            await client.get(PATH)
        assert caught.value.retry_after == seconds
        other = await budget.reserve(["account:2", "egress:default"], Lane.ACTION)
        assert other.wait == pytest.approx(seconds, abs=0.01)
        said = clock.time
        await client.get(PATH)
        assert clock.time - said >= seconds
    assert (
        f"Kommo answered 429: nothing is sent on account:1 and egress:default for {seconds:.0f} s."
        in caplog.text
    )


async def test_r2_a_turn_granted_before_the_429_came_in_is_not_used_after_it() -> None:
    clock = InstantClock()
    asked_for_a_turn, quiet = asyncio.Event(), asyncio.Event()

    class Slow(InProcessBudget):
        """A budget whose second answer is still on its way when the 429 comes in."""

        reservations = 0

        async def reserve(self, keys: Sequence[str], lane: str, *, instead_of: float | None = None) -> Slot:
            Slow.reservations += 1
            if Slow.reservations == 2:
                asked_for_a_turn.set()
                await quiet.wait()
                return Slot(granted=True, wait=0.0)
            return await super().reserve(keys, lane, instead_of=instead_of)

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        await asked_for_a_turn.wait()
        writer.write(reply(429, {"retry_after": 30}))

    budget = Slow(None, clock)
    async with (
        raw_server(answer, OK) as server,
        client_of(server, clock=clock, budget=budget, attempts=1) as client,
    ):
        first = asyncio.ensure_future(client.get(PATH))
        second = asyncio.ensure_future(client.get(PATH))
        with pytest.raises(KommoError):
            await first
        limited = clock.time
        quiet.set()
        await second
    assert clock.time - limited >= 29.9


@pytest.mark.parametrize("body", [b"403 Forbidden", b"<html>Forbidden</html>", b""])
async def test_r2_a_block_stops_everyone_at_once_and_is_not_retried(body: bytes) -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    async with (
        raw_server(reply(403, body)) as server,
        client_of(server, clock=clock, budget=budget) as client,
    ):
        with pytest.raises(KommoError) as caught:
            await client.get(PATH)
        assert caught.value.kind is ErrorKind.IP_BLOCKED
        with pytest.raises(KommoError, match="Kommo blocked our address") as stopped:
            await client.get(PATH)
        assert stopped.value.kind is ErrorKind.BUDGET_BLOCKED
        assert len(server.asked) == 1
        clock.time += BLOCK_SECONDS
        assert not (await budget.reserve(["egress:default"], Lane.SYNC)).blocked_reason


async def test_a_missing_right_blocks_nobody() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    answer = reply(403, {"title": "Forbidden"})
    async with raw_server(answer) as server, client_of(server, clock=clock, budget=budget) as client:
        with pytest.raises(KommoError) as caught:
            await client.read_all("users")
    assert caught.value.kind is ErrorKind.FORBIDDEN
    assert not (await budget.reserve(["egress:default"], Lane.ACTION)).blocked_reason


class Refreshing:
    """A token source that has newer tokens."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = [SecretStr(token) for token in tokens]
        self.refusals = 0

    async def current(self) -> SecretStr:
        return self.tokens[0]

    async def refused(self, token: SecretStr) -> SecretStr | None:
        assert token is self.tokens[0]
        self.refusals += 1
        self.tokens.pop(0)
        return self.tokens[0] if self.tokens else None


@pytest.mark.parametrize("writes", [False, True])
async def test_a_refused_token_is_replaced_once(*, writes: bool) -> None:
    source = Refreshing("old", "new")
    async with raw_server(reply(401, {}), OK) as server, client_of(server, token=source) as client:
        await (client.write("PATCH", PATH, {"id": 1}) if writes else client.get(PATH))
        assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer old", "Bearer new"]


async def test_a_newer_token_that_is_refused_too_is_final() -> None:
    source = Refreshing("old", "new", "newest")
    async with raw_server(reply(401, {})) as server, client_of(server, token=source) as client:
        with pytest.raises(KommoError) as caught:
            await client.get(PATH)
        assert len(server.asked) == 2
    assert caught.value.kind is ErrorKind.UNAUTHORIZED
    assert caught.value.final
    assert source.refusals == 1


@pytest.mark.parametrize("name", [name for name in FAULTS if "429" not in name])
async def test_r3_a_write_is_sent_once_and_its_outcome_is_unknown_after_a_fault(name: str) -> None:
    async with raw_server(FAULTS[name], OK) as server, client_of(server) as client:
        with pytest.raises(KommoError, match="look it up before sending it again") as caught:
            await client.write("POST", "/api/v4/leads", [{"name": "x"}])
        assert caught.value.outcome_unknown
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 402, 404, 422, 429])
async def test_r3_a_write_that_kommo_refused_is_known_not_to_have_happened(status: int) -> None:
    async with raw_server(reply(status, {"title": "x"}), OK) as server, client_of(server) as client:
        with pytest.raises(KommoError) as caught:
            await client.write("POST", "/api/v4/leads", [{"name": "x"}])
        assert not caught.value.outcome_unknown
        assert len(server.asked) == 1


async def test_r3_a_write_that_waited_long_for_its_turn_goes_over_a_new_connection() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    await budget.slow_down(["egress:default"], 300.0)
    peers = set()

    async def note(_: Asked, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        writer.write(OK)

    async with raw_server(note) as server, client_of(server, clock=clock, budget=budget) as client:
        await client.write("POST", "/api/v4/leads", [{}])
        assert client.requests_sent == len(server.asked) == 1
    assert clock.time >= 1300.0


async def test_every_request_of_a_long_list_waits_for_its_turn() -> None:
    def page(number: int) -> bytes:
        href = f"http://shard151.kommo.com/api/v4/leads?page={number + 1}&limit=250"
        links = {"next": {"href": href}} if number < 20 else {}
        return reply(200, {"_embedded": {"leads": [{"id": number}]}, "_links": links})

    clock = InstantClock()
    async with (
        raw_server(*(page(n) for n in range(1, 21))) as server,
        client_of(server, clock=clock) as client,
    ):
        begun = clock.time
        found = [item["id"] async for items in client.iterate("leads") for item in items]
        assert found == list(range(1, 21))
        assert clock.time - begun >= 19 / 7
        assert client.requests_sent == 20
        assert {asked.headers["host"] for asked in server.asked} == {server.host.name}
        assert server.asked[0].target.endswith("with=contacts%2Closs_reason%2Csource_id%2Ccatalog_elements")


async def test_a_resource_may_be_given_itself() -> None:
    answer = reply(200, {"_total_items": 1, "_embedded": {"pipelines": [{"id": 1}]}})
    async with raw_server(answer) as server, client_of(server) as client:
        assert await client.read_all(replace(CATALOGUE["pipelines"], name="mine")) == [{"id": 1}]
        with pytest.raises(KeyError):
            await client.read_all("galaxies")


@pytest.mark.timing
async def test_r1_at_the_wire_no_more_requests_of_many_tasks_than_the_limit_meet_in_a_second() -> None:
    clock = SystemClock()
    arrived: list[float] = []

    async def note(_: Asked, writer: asyncio.StreamWriter) -> None:
        arrived.append(clock.monotonic())
        writer.write(OK)

    budget = InProcessBudget({"account": 70, "egress": 70}, clock)
    async with raw_server(note) as server, client_of(server, clock=clock, budget=budget) as client:
        await asyncio.gather(*(client.get(PATH) for _ in range(90)))
    assert len(arrived) == 90
    # Ten times the speed: the window is the same second, and the wire may be a little late for both ends of it.
    with measured():
        assert min(b - a for a, b in zip(arrived, arrived[70:], strict=False)) > 0.97


async def test_a_shared_transport_stays_open_and_an_own_one_is_closed() -> None:
    async with raw_server(OK) as server, Transport() as transport:
        for _ in range(2):
            async with client_of(server, transport=transport) as client:
                await client.get(PATH)
        async with client_of(server) as client:
            assert "t0ken" not in repr(client)
        with pytest.raises(RuntimeError):
            await client.get(PATH)


async def test_a_static_token_has_no_newer_one() -> None:
    token = SecretStr("t0ken")
    assert await StaticToken(token).current() is token
    assert await StaticToken(token).refused(token) is None


async def test_the_system_clock_tells_time_in_utc_and_really_sleeps() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.01)
    await clock.sleep(-1)
    assert clock.monotonic() - before >= 0.009
    offset = clock.now().utcoffset()
    assert offset is not None
    assert not offset
    assert 0 <= clock.random() < 1
