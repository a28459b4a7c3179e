"""The token endpoint against the sandbox and against servers that misbehave (T1, R1, R2, R4)."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from kommo.auth import (
    MovedAddress,
    OAuthApp,
    OAuthClient,
    TokenPair,
    Verdict,
    fingerprint,
    verdict_on_refresh,
)
from kommo.budget import InProcessBudget, Lane, Slot
from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import Host, parse_host
from kommo.tokenpair import ASSUMED_LIFE
from kommo.transport import Transport
from sandbox import LimitSettings, Sandbox, SandboxConfig, running_sandbox
from tests.kommo_api.support import (
    Answering,
    Asked,
    InstantClock,
    RawServer,
    raw_server,
    reply,
    silence,
)

CONFIG = SandboxConfig(
    limits=LimitSettings(per_ip=0, per_account=0), accounts=2, leads=2, contacts=2, companies=1, talks=0
)
APP = OAuthApp(
    client_id="7c8d1f8e-0000-4000-8000-000000000001",
    client_secret=SecretStr("s3cret"),
    redirect_uri="https://app.example/cb?x=1",
)


@dataclass
class Kommo:
    """A sandbox and a client of its token endpoint."""

    sandbox: Sandbox
    oauth: OAuthClient
    clock: InstantClock

    def host(self, subdomain: str = "acme") -> Host:
        return parse_host(f"{subdomain}.localhost:{self.sandbox.port}", allow_loopback=True)

    def code(self, subdomain: str = "acme") -> SecretStr:
        world = self.sandbox.world
        account = self.sandbox.account(subdomain)
        return SecretStr(world.oauth.new_code(account, world.integration, account.admin_id))

    async def pair(self, subdomain: str = "acme") -> TokenPair:
        return await self.oauth.exchange_code(self.host(subdomain), self.code(subdomain))

    def with_app(self, **changes: Any) -> OAuthClient:
        known = self.oauth.app
        fields = {"client_id": known.client_id, "client_secret": known.client_secret}
        app = OAuthApp(**{**fields, "redirect_uri": known.redirect_uri, **changes})
        return OAuthClient(app, budget=InProcessBudget(None, self.clock), clock=self.clock)


@pytest.fixture
async def kommo() -> AsyncIterator[Kommo]:
    clock = InstantClock()
    async with running_sandbox(CONFIG) as sandbox:
        known = sandbox.world.integration
        app = OAuthApp(known.client_id, SecretStr(known.client_secret), known.redirect_uri)
        async with OAuthClient(app, budget=InProcessBudget(None, clock), clock=clock) as oauth:
            yield Kommo(sandbox, oauth, clock)


async def refused(work: Any) -> KommoError:
    with pytest.raises(KommoError) as caught:
        await work
    return caught.value


async def test_a_code_becomes_a_pair_that_opens_the_account(kommo: Kommo) -> None:
    code = kommo.code("globex")
    pair = await kommo.oauth.exchange_code(kommo.host("globex"), code)
    account = kommo.sandbox.account("globex")
    assert pair.used == f"code:{fingerprint(code)}"
    assert pair.fingerprint == fingerprint(pair.refresh_token)
    assert pair.account_id == account.id
    assert "crm" in pair.scopes
    assert pair.api_domain == f"api-c.localhost:{kommo.sandbox.port}"
    assert pair.issued_at is not None
    assert pair.server_skew is not None
    async with KommoClient(
        kommo.host("globex"),
        StaticToken(pair.access_token),
        budget=InProcessBudget(None, kommo.clock),
        account_key=f"account:{account.id}",
        clock=kommo.clock,
    ) as client:
        assert (await client.get("/api/v4/account")).status == 200


async def test_each_refresh_names_the_token_that_it_used_up(kommo: Kommo) -> None:
    first = await kommo.pair()
    second = await kommo.oauth.refresh(kommo.host(), first.refresh_token, account_key="account:1")
    third = await kommo.oauth.refresh(kommo.host(), second.refresh_token, account_key="account:1")
    assert [second.used, third.used] == [first.fingerprint, second.fingerprint]
    assert kommo.sandbox.world.oauth.refreshes == 2
    assert kommo.oauth.requests_sent == 3


async def test_what_is_sent_is_what_kommo_documents() -> None:
    async with raw_server(reply(200, answer())) as server, client_of(server) as oauth:
        await oauth.refresh(server.host, SecretStr('re"fresh'), account_key="account:1")
        await oauth.exchange_code(server.host, SecretStr("c0de"))
    refresh, exchange = server.asked
    assert (refresh.method, refresh.target) == ("POST", "/oauth2/access_token")
    assert refresh.headers["content-type"] == "application/json"
    assert "authorization" not in refresh.headers
    keys = {
        "client_id": APP.client_id,
        "client_secret": "s3cret",
        "redirect_uri": "https://app.example/cb?x=1",
    }
    assert json.loads(refresh.body) == {
        **keys,
        "grant_type": "refresh_token",
        "refresh_token": 're"fresh',
    }
    assert json.loads(exchange.body) == {**keys, "grant_type": "authorization_code", "code": "c0de"}


async def test_a_refresh_token_is_refused_with_the_hints_of_kommo(kommo: Kommo) -> None:
    first = await kommo.pair()
    kommo.sandbox.world.oauth.mode = "dead"
    await kommo.oauth.refresh(kommo.host(), first.refresh_token)
    for token, hint in (
        (first.refresh_token, "Token has been revoked"),
        (SecretStr("def502abc"), "Invalid refresh token"),
        (SecretStr("garbage"), "Cannot decrypt the refresh token"),
        (SecretStr("\ud800\u00e9"), "Cannot decrypt the refresh token"),
    ):
        error = await refused(kommo.oauth.refresh(kommo.host(), token))
        assert (error.kind, error.status, error.hint) == (ErrorKind.OAUTH_REFUSED, 401, hint)
        assert verdict_on_refresh(error) is Verdict.FINAL
        assert not error.outcome_unknown


async def test_a_code_is_refused_when_used_old_or_of_another_account(kommo: Kommo) -> None:
    used, old = kommo.code(), kommo.code()
    await kommo.oauth.exchange_code(kommo.host(), used)
    hints = [
        (await refused(kommo.oauth.exchange_code(kommo.host(), used))).hint,
        (await refused(kommo.oauth.exchange_code(kommo.host("globex"), old))).hint,
    ]
    kommo.sandbox.world.clock_offset += 20 * 60 + 1
    hints.append((await refused(kommo.oauth.exchange_code(kommo.host(), old))).hint)
    assert hints == [
        "Authorization code has been revoked",
        "Invalid account",
        "Authorization code has expired",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "00000000-0000-4000-8000-000000000000"},
        {"client_secret": SecretStr("other")},
        {"redirect_uri": "https://other.example/cb"},
        {"redirect_uri": ""},
    ],
    ids=["client_id", "client_secret", "redirect_uri", "no redirect_uri"],
)
async def test_t4_wrong_settings_of_ours_say_nothing_about_the_connection(
    kommo: Kommo, wrong: dict[str, Any]
) -> None:
    pair = await kommo.pair()
    async with kommo.with_app(**wrong) as oauth:
        error = await refused(oauth.refresh(kommo.host(), pair.refresh_token))
    assert verdict_on_refresh(error) is Verdict.MISCONFIGURED
    assert "our own settings" in str(error)
    assert (await kommo.oauth.refresh(kommo.host(), pair.refresh_token)).used == pair.fingerprint


async def test_a_renamed_account_is_found_by_its_refresh_token(kommo: Kommo) -> None:
    pair = await kommo.pair()
    kommo.sandbox.world.rename(kommo.sandbox.account("acme"), "acme-new")
    error = await refused(kommo.oauth.refresh(kommo.host(), pair.refresh_token))
    assert (error.status, verdict_on_refresh(error)) == (404, Verdict.MAYBE_MOVED)
    assert pair.api_domain is not None
    knowing = parse_host(pair.api_domain, allow_loopback=True)
    address = await kommo.oauth.current_address(knowing, pair.refresh_token, allow_loopback=True)
    assert address == MovedAddress(kommo.host("acme-new"), "acme-new", pair.account_id)
    assert (await kommo.oauth.refresh(address.host, pair.refresh_token)).used == pair.fingerprint
    error = await refused(kommo.oauth.current_address(knowing, SecretStr("nobody's")))
    assert (error.status, verdict_on_refresh(error)) == (401, Verdict.MAYBE_MOVED)


@pytest.mark.parametrize(
    "said",
    [
        {"domain": "evil.example"},
        {"domain": "acme.kommo.com@evil.example"},
        {"domain": "www.kommo.com"},
        {"domain": "acme-new"},
        {"domain": ["acme.kommo.com"]},
        {"domain": "acme.localhost:1"},
        {},
        [],
    ],
    ids=str,
)
async def test_r4_a_refresh_token_is_not_led_astray_by_an_address(said: Any) -> None:
    async with raw_server(reply(200, said)) as server, client_of(server) as oauth:
        error = await refused(oauth.current_address(server.host, SecretStr("r"), allow_loopback=False))
    assert error.kind is ErrorKind.MALFORMED
    assert "evil" not in str(error)


async def test_an_address_with_an_odd_id_is_an_address() -> None:
    said = {"id": "7", "subdomain": "x", "domain": "Acme-New.kommo.com"}
    async with raw_server(reply(200, said)) as server, client_of(server) as oauth:
        address = await oauth.current_address(server.host, SecretStr("r"))
        assert server.asked[0].headers["x-refresh-token"] == "r"
    assert address == MovedAddress(Host("acme-new.kommo.com"), "acme-new", None)


def access_token(**claims: Any) -> str:
    return jwt.encode({"account_id": 7, "scopes": ["crm"], "iat": 1_793_500_000} | claims, "k" * 32)


def answer(**changes: Any) -> dict[str, Any]:
    whole = {
        "token_type": "Bearer",
        "expires_in": 86_400,
        "access_token": access_token(),
        "refresh_token": "def502next",
    }
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def client_of(server: RawServer, clock: Any = None, **more: Any) -> OAuthClient:
    assert server
    clock = clock or InstantClock()
    return OAuthClient(APP, **({"budget": InProcessBudget(None, clock), "clock": clock} | more))


async def pair_from(said: Any, clock: InstantClock | None = None) -> TokenPair:
    async with raw_server(reply(200, said)) as server, client_of(server, clock) as oauth:
        return await oauth.refresh(server.host, SecretStr("old"))


@pytest.mark.parametrize(("ahead", "early"), [(None, 0), (0, 0), (300, 0), (-300, 300), (90_000, 0)])
async def test_the_end_is_rather_too_early_than_too_late(ahead: int | None, early: int) -> None:
    clock = InstantClock()
    clock.time += 0.25
    named = {} if ahead is None else {"server_time": clock.now().timestamp() + ahead}
    pair = await pair_from(answer(expires_in=3600, **named), clock)
    assert pair.expires_at == clock.now() + timedelta(seconds=3600 - early)
    assert pair.received_at == clock.now()
    assert pair.server_skew == ahead


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("86400", 86_400),
        *((odd, ASSUMED_LIFE) for odd in (..., -1, 0, 1e300, 10**12, "soon", "", True, None)),
    ],
)
async def test_t3_a_pair_whose_end_is_not_told_is_not_thrown_away(said: Any, seconds: int) -> None:
    clock = InstantClock()
    pair = await pair_from(answer(expires_in=said), clock)
    assert pair.expires_at == clock.now() + timedelta(seconds=seconds)


async def test_the_end_counts_from_the_moment_the_request_went_out() -> None:
    clock = InstantClock()

    async def slow(_: Asked, writer: asyncio.StreamWriter) -> None:
        clock.time += 8
        writer.write(reply(200, answer(expires_in=3600)))

    async def gate() -> None:
        clock.time += 0.001

    async with raw_server(slow) as server, client_of(server, clock) as oauth:
        begun = clock.now()
        pair = await oauth.refresh(server.host, SecretStr("old"), gate=gate)
    assert pair.expires_at - begun == timedelta(seconds=3600.001)
    assert pair.received_at - begun == timedelta(seconds=8.001)


async def test_a_clock_that_is_off_by_days_does_not_make_every_token_old() -> None:
    clock = InstantClock()
    early = (clock.now() - timedelta(days=3)).timestamp()
    pair = await pair_from(answer(server_time=int(early)), clock)
    assert pair.expires_at == clock.now() + timedelta(days=1)
    assert pair.server_skew == pytest.approx(-3 * 86_400)


@pytest.mark.parametrize("odd", ["1793500000", -1, 1e300, True, [], 0])
async def test_a_server_time_that_is_none_is_left_out(odd: object) -> None:
    assert (await pair_from(answer(server_time=odd))).server_skew is None


@pytest.mark.parametrize("token", ["no-jwt", "a.b.c", "x" * 16_384, "eyJh.eyJh.eyJh"])
async def test_an_access_token_that_is_no_jwt_works_without_claims(token: str) -> None:
    pair = await pair_from(answer(access_token=token))
    assert pair.access_token == SecretStr(token)
    assert (pair.account_id, pair.scopes, pair.api_domain, pair.issued_at) == (None, (), None, None)


async def test_claims_are_read_as_claims_and_not_as_truth() -> None:
    odd = access_token(
        scopes=["crm", "a\x00b", "x" * 300, *map(str, range(99))], api_domain="api c", iat=10**17
    )
    pair = await pair_from(answer(access_token=odd))
    assert pair.account_id == 7
    assert pair.scopes[:2] == ("crm", "0")
    assert len(pair.scopes) == 64
    assert (pair.api_domain, pair.issued_at) == (None, None)
    for claims in ({"account_id": -1}, {"account_id": 2**63}, {"account_id": "x"}, {"scopes": "crm"}):
        assert (await pair_from(answer(access_token=access_token(**claims)))).account_id is None


BROKEN = {
    "no access token": answer(access_token=...),
    "no refresh token": answer(refresh_token=...),
    "empty access token": answer(access_token=""),
    "null refresh token": answer(refresh_token=None),
    "a number for a token": answer(refresh_token=12345),
    "a token with a line break": answer(refresh_token="def502\r\nHost: evil"),
    "a token that is not ASCII": answer(access_token="\u0430\u0431"),
    "half a surrogate pair": answer(access_token="\ud800"),
    "an absurd token": answer(refresh_token="x" * 16_385),
    "a list": [answer()],
    "nothing": None,
    "a page": b"<html>login</html>",
    "half of it": json.dumps(answer()).encode()[:-20],
    "not a number": b'{"expires_in":NaN}',
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=list(BROKEN))
async def test_t3_an_answer_that_is_no_pair_leaves_the_outcome_unknown(said: Any) -> None:
    with pytest.raises(KommoError) as caught:
        await pair_from(said)
    assert caught.value.kind is ErrorKind.MALFORMED
    assert caught.value.outcome_unknown
    assert caught.value.__context__ is None
    assert verdict_on_refresh(caught.value) is Verdict.TEMPORARY


async def cut_off(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(200, b'{"access_token":', declared=900))
    await writer.drain()
    writer.close()


FAULTS: dict[str, tuple[bytes | Answering | None, bool]] = {
    "reset": (None, True),
    "silence": (silence, True),
    "cut off": (cut_off, True),
    "oversized": (reply(200, b" " * 90_000), True),
    "408": (reply(408), True),
    "409": (reply(409), True),
    "500": (reply(500, {"trace_id": "x"}), True),
    "502": (reply(502, b"<html>"), True),
    "503": (reply(503), True),
    "504": (reply(504, b"<html>"), True),
    "400": (reply(400, {"title": "x"}), False),
    "402": (reply(402, {}), False),
    "403": (reply(403, b"<html>"), False),
    "403 JSON": (reply(403, {}), False),
    "429": (reply(429, {"retry_after": 2}), False),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("doing", ["refresh", "exchange_code"])
async def test_t1_a_token_is_used_up_by_one_request_whatever_comes_of_it(name: str, doing: str) -> None:
    fault, unknown = FAULTS[name]
    async with (
        raw_server(fault, reply(200, answer())) as server,
        Transport(total_timeout=0.05, largest_body=50_000) as transport,
        client_of(server, transport=transport) as oauth,
    ):
        error = await refused(getattr(oauth, doing)(server.host, SecretStr("old")))
        assert len(server.asked) == 1
        assert error.outcome_unknown is unknown
        assert verdict_on_refresh(error) is Verdict.TEMPORARY
        assert (error.__cause__, error.__context__) == (None, None)


async def test_a_refresh_that_never_got_a_connection_is_known_not_to_have_happened() -> None:
    async with raw_server(None) as server:
        gone = server
    async with client_of(gone) as oauth:
        error = await refused(oauth.refresh(gone.host, SecretStr("old")))
    assert error.kind is ErrorKind.UNREACHABLE
    assert not error.outcome_unknown


async def test_t1_what_the_gate_raises_goes_through_and_nothing_is_sent() -> None:
    class ClaimLostError(Exception):
        pass

    async def gate() -> None:
        raise ClaimLostError

    async with raw_server(reply(200, answer())) as server, client_of(server) as oauth:
        with pytest.raises(ClaimLostError):
            await oauth.refresh(server.host, SecretStr("old"), gate=gate)
        with pytest.raises(ClaimLostError):
            await oauth.exchange_code(server.host, SecretStr("code"), gate=gate)
        assert not server.asked
        assert oauth.requests_sent == 0


async def test_the_gate_is_passed_in_the_turn_and_before_the_first_byte() -> None:
    order: list[str] = []

    class Noting(InProcessBudget):
        async def reserve(self, keys: Sequence[str], lane: str, *, instead_of: float | None = None) -> Slot:
            order.append(f"{lane} {'+'.join(keys)}")
            return await super().reserve(keys, lane, instead_of=instead_of)

    async def gate() -> None:
        order.append(f"gate {len(server.asked)}")

    clock = InstantClock()
    async with (
        raw_server(reply(200, answer())) as server,
        client_of(
            server, clock, budget=Noting(None, clock), lane=Lane.BACKFILL, egress_key="egress:eu"
        ) as oauth,
    ):
        await oauth.refresh(server.host, SecretStr("old"), account_key="account:7", gate=gate)
        await oauth.exchange_code(server.host, SecretStr("code"), gate=gate)
    assert order[:2] == ["backfill account:7+egress:eu", "gate 0"]
    assert order[-2:] == ["backfill egress:eu", "gate 1"]


async def test_r1_a_gate_that_outlasts_its_turn_is_passed_again_in_another_one() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    late = [0.5, 0.5, 0.0]

    async def gate() -> None:
        clock.time += late.pop(0)

    async with raw_server(reply(200, answer())) as server, client_of(server, clock, budget=budget) as oauth:
        await oauth.refresh(server.host, SecretStr("old"), gate=gate)
        assert late == []
        late += [1.0] * 50
        error = await refused(oauth.refresh(server.host, SecretStr("old"), gate=gate))
        assert (error.kind, error.outcome_unknown) == (ErrorKind.TOO_BUSY, False)
        assert len(server.asked) == 1


async def test_r2_a_429_of_the_token_endpoint_keeps_everyone_quiet() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    async with (
        raw_server(reply(429, {"retry_after": 30}), reply(200, answer())) as server,
        client_of(server, clock, budget=budget) as oauth,
    ):
        error = await refused(oauth.refresh(server.host, SecretStr("old"), account_key="account:7"))
        assert (error.kind, error.retry_after) == (ErrorKind.RATE_LIMITED, 30.0)
        for key in ("account:7", "egress:default"):
            assert (await budget.reserve([key], Lane.ACTION)).wait == pytest.approx(30, abs=0.5)
        said = clock.time
        await oauth.refresh(server.host, SecretStr("old"))
        assert clock.time - said >= 30


async def test_r2_a_block_seen_by_the_token_endpoint_stops_the_address() -> None:
    clock = InstantClock()
    budget = InProcessBudget(None, clock)
    async with (
        raw_server(reply(403, b"<html>403 Forbidden</html>")) as server,
        client_of(server, clock, budget=budget) as oauth,
    ):
        await refused(oauth.refresh(server.host, SecretStr("old"), account_key="account:7"))
        error = await refused(oauth.refresh(server.host, SecretStr("old"), account_key="account:8"))
        assert (error.kind, error.outcome_unknown) == (ErrorKind.BUDGET_BLOCKED, False)
        assert len(server.asked) == 1
    assert (await budget.reserve(["account:7"], Lane.ACTION)).granted


async def test_r1_at_the_wire_the_token_endpoint_keeps_the_limit_of_the_address() -> None:
    clock = SystemClock()
    arrived: list[float] = []

    async def note(_: Asked, writer: asyncio.StreamWriter) -> None:
        arrived.append(clock.monotonic())
        writer.write(reply(200, answer()))

    budget = InProcessBudget({"account": 70, "egress": 70}, clock)
    async with raw_server(note) as server, client_of(server, clock, budget=budget) as oauth:
        await asyncio.gather(
            *(
                oauth.refresh(server.host, SecretStr("old"), account_key=f"account:{number}")
                for number in range(90)
            )
        )
    # The limit is 70 in a second; the window of the budget may be 35 ms short on its way here.
    assert min(b - a for a, b in zip(arrived, arrived[70:], strict=False)) > 0.97


async def test_a_shared_transport_stays_open_and_an_own_one_is_closed() -> None:
    async with raw_server(reply(200, answer())) as server, Transport() as transport:
        for _ in range(2):
            async with client_of(server, transport=transport) as oauth:
                await oauth.refresh(server.host, SecretStr("old"))
        async with client_of(server) as oauth:
            await oauth.refresh(server.host, SecretStr("old"))
        with pytest.raises(RuntimeError):
            await oauth.refresh(server.host, SecretStr("old"))
