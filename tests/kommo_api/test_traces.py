"""A span for each request to Kommo; T5: nothing secret is in one; a process that is not told to trace pays nothing."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr

from kommo import tracing
from kommo.auth import OAuthApp, OAuthClient
from kommo.budget import InProcessBudget, Lane
from kommo.catalogue import CATALOGUE, pattern_of
from kommo.client import StaticToken
from kommo.errors import KommoError
from kommo.transport import Transport
from tests.kommo_api.support import InstantClock, client_of, raw_server, reply
from tests.kommo_api.test_secrets import BODY_CANARY, CANARY, QUERY_CANARY, WAYS
from tests.tracing import Spans, traced

ID = ("X-Request-Id", "kommo-4711")


async def test_a_request_is_one_span_with_its_pattern_its_status_and_its_wait() -> None:
    clock = InstantClock()
    budget = InProcessBudget({"account": 2.0, "egress": 2.0}, clock)
    async with raw_server(reply(200, {"id": 5}, [ID])) as server:
        with traced() as spans:
            async with client_of(server, clock=clock, budget=budget, lane=Lane.SYNC) as client:
                for _ in range(6):
                    await client.get("/api/v4/leads/31234567", [("with", "contacts")])
    assert len(spans.all) == len(server.asked) == 6
    last = spans.all[-1]
    assert (last.name, last.kind) == ("GET /api/v4/leads/{id}", SpanKind.CLIENT)
    known = dict(last.attributes or {})
    waited = known.pop("kommo.budget.waited_ms")
    assert known == {
        "http.request.method": "GET",
        "url.template": "/api/v4/leads/{id}",
        "server.address": server.host.name,
        "kommo.lane": "sync",
        "http.response.status_code": 200,
        "kommo.request_id": "kommo-4711",
    }
    assert isinstance(waited, float)
    assert waited > 0, "two a second, and this is the sixth at once"
    first = dict(spans.all[0].attributes or {})
    assert first["kommo.budget.waited_ms"] == 0


async def test_each_attempt_is_a_span_and_failures_are_marked() -> None:
    async with raw_server(reply(500), None, reply(200, {"id": 1})) as server:
        with traced() as spans:
            async with client_of(server) as client:
                await client.get("/api/v4/account")
    seen = [(one.status.status_code, dict(one.attributes or {}).get("error.type")) for one in spans.all]
    assert seen == [(StatusCode.ERROR, "500"), (StatusCode.ERROR, "unreachable"), (StatusCode.UNSET, None)]


@pytest.mark.parametrize("way", WAYS)
async def test_t5_no_span_holds_a_token_a_query_a_body_or_an_answer(way: str) -> None:
    clock = InstantClock()
    async with (
        raw_server(WAYS[way]) as server,
        Transport(total_timeout=0.2, largest_body=80_000) as transport,
    ):
        with traced() as spans:
            token = StaticToken(SecretStr(CANARY))
            async with client_of(server, token=token, clock=clock, attempts=2, transport=transport) as client:
                with contextlib.suppress(KommoError):
                    await client.get(f"/api/v4/leads/{CANARY}", [("query", QUERY_CANARY)])
                with contextlib.suppress(KommoError):
                    await client.write("POST", "/api/v4/tasks", {"text": BODY_CANARY})
            app = OAuthApp("client-id", SecretStr(CANARY), "https://a.example/callback")
            auth = OAuthClient(app, budget=InProcessBudget(None, clock), clock=clock, transport=transport)
            with contextlib.suppress(KommoError):
                await auth.refresh(server.host, SecretStr(CANARY))
    names = {one.name for one in spans.all}
    assert {"GET /api/v4/leads/{id}", "POST /api/v4/tasks", "POST /oauth2/access_token"} <= names
    for secret in (CANARY, QUERY_CANARY, BODY_CANARY):
        assert secret not in spans.text


def test_of_a_path_only_the_words_of_the_api_are_shown() -> None:
    assert pattern_of("/api/v4/talks/5/send_message") == "/api/v4/talks/{id}/send_message"
    assert pattern_of("/api/v4/leads/unsorted/abcdefabcdef/accept") == "/api/v4/leads/unsorted/{id}/{id}"
    for one in CATALOGUE.values():
        assert pattern_of(one.path) == one.path.replace("{parent}", "{id}")


async def test_requests_of_one_run_are_one_trace_and_those_of_another_another() -> None:
    run = "run-1"
    async with raw_server(reply(200, {"id": 1})) as server:
        with traced(lambda: run) as spans:
            async with client_of(server) as client:
                await client.get("/api/v4/account")
                await client.get("/api/v4/account")
                run = "run-2"
                await client.get("/api/v4/account")
    one, two, three = [span.context.trace_id for span in spans.all if span.context]
    assert one == two != three


def test_a_sampler_decides_alike_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    requests = [f"request-{number}" for number in range(60)]
    with traced() as gateway:
        for reference in requests:
            with tracing.span("request", {"kommo.reference": reference}, reference=reference, first=True):
                pass
    with traced() as worker:
        for reference in requests:
            with tracing.span("attempt", {"kommo.reference": reference}, reference=reference):
                pass
        since = time.time_ns()
        tracing.told("effect", [(one, {"kommo.reference": one}) for one in requests], since=since)

    def seen(spans: Spans, name: str) -> set[object]:
        return {(one.attributes or {}).get("kommo.reference") for one in spans.named(name)}

    assert seen(gateway, "request") == seen(worker, "attempt") == seen(worker, "effect")
    assert 10 < len(seen(gateway, "request")) < 50


SENDS = """
import asyncio, logging, sys
from kommo import tracing
from pydantic import SecretStr
from kommo.budget import InProcessBudget
from kommo.client import KommoClient, StaticToken
from kommo.clock import SystemClock
from kommo.hosts import parse_host
logging.basicConfig()
async def main():
    tracing.begin('kommo-test')
    clock = SystemClock()
    token = StaticToken(SecretStr('canary'))
    host = parse_host(sys.argv[1], allow_loopback=True)
    budget = InProcessBudget(None, clock)
    async with KommoClient(host, token, budget=budget, account_key='account:1', clock=clock) as client:
        await client.get('/api/v4/account', [('query', 'canary')])
asyncio.run(main())
print(*sorted(name for name in sys.modules if name.startswith('opentelemetry')))
"""
BLOCKED = "import sys; sys.modules['opentelemetry.sdk'] = None\n"


def _sends(host: str, code: str = SENDS, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", code, host],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=plain | environment,
    )


class _Loopback(BaseHTTPRequestHandler):
    """Kommo, and a receiver of traces."""

    taken: list[bytes]

    def do_GET(self) -> None:
        self._answer(b'{"id":1}')

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.taken.append(self.rfile.read(int(self.headers["content-length"])))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def loopback() -> Iterator[tuple[int, list[bytes]]]:
    taken: list[bytes] = []
    handler = type("Handler", (_Loopback,), {"taken": taken})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, taken
        server.shutdown()


def test_a_process_sends_its_spans_before_it_ends(loopback: tuple[int, list[bytes]]) -> None:
    port, taken = loopback
    _sends(f"acme.localhost:{port}", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    [body] = taken
    [group] = ExportTraceServiceRequest.FromString(body).resource_spans
    service = {one.key: one.value.string_value for one in group.resource.attributes}["service.name"]
    assert service == "kommo-test"
    assert [span.name for span in group.scope_spans[0].spans] == ["GET /api/v4/account"]
    assert b"canary" not in body


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["nothing set", "disabled", "no exporter"],
)
def test_nothing_of_it_is_imported_where_no_traces_are_wanted(
    loopback: tuple[int, list[bytes]], environment: dict[str, str]
) -> None:
    done = _sends(f"acme.localhost:{loopback[0]}", **environment)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_without_the_extra_it_is_said_once_and_all_goes_on(loopback: tuple[int, list[bytes]]) -> None:
    port, taken = loopback
    endpoint = f"http://127.0.0.1:{port}"
    done = _sends(f"acme.localhost:{port}", BLOCKED + SENDS, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert done.stderr.count("the extra 'otel' is not installed") == 1
    assert taken == []


def test_a_receiver_that_is_away_does_not_hold_up_the_end(loopback: tuple[int, list[bytes]]) -> None:
    # Nothing listens there; the SDK alone would try for half a minute, with a line for each attempt.
    endpoint = "http://user:canary@127.0.0.1:9/?key=canary"
    began = time.monotonic()
    done = _sends(f"acme.localhost:{loopback[0]}", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert time.monotonic() - began < 15
    assert done.stderr == ""
