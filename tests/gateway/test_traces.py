"""A delivery is one trace, from the gateway to the product; T5: nothing secret is in one, whoever makes it."""

from collections.abc import AsyncIterator
from typing import cast

import opentelemetry.trace
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode, format_span_id, format_trace_id

from sandbox import Sandbox, running_sandbox
from tests.gateway.hooks import Hooks, form
from tests.outbox.receiver import Reply, running_receiver
from tests.outbox.support import SECRET, hurry, run
from tests.syncing import quiet_config
from tests.tracing import Spans, traced
from tests.webhooks.backlog_support import SandboxClients, inbox, join, work

ID = "req-0123456789abcdef"
OTHER = "req-fedcba9876543210"
TALK = b"talk[add][0][talk_id]=191&talk[add][0][entity_id]=5&talk[add][0][entity_type]=lead"


def _context(span: ReadableSpan) -> SpanContext:
    return cast("SpanContext", span.context)


def _known(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def _of(spans: Spans, name: str, reference: str) -> ReadableSpan:
    [found] = [one for one in spans.named(name) if _known(one).get("kommo.reference") == reference]
    return found


@pytest.fixture
async def kommo(hooks: Hooks) -> AsyncIterator[Sandbox]:
    """An account, to which the org acme is connected."""
    async with running_sandbox(quiet_config(accounts=1, leads=3)) as running:
        await join(hooks.database, running, "acme")
        yield running


async def test_a_delivery_is_one_trace_from_the_gateway_to_the_product(hooks: Hooks, kommo: Sandbox) -> None:
    ids = [lead["id"] for lead in kommo.account("acme").entities["leads"]][:2]
    async with running_receiver() as product:
        with traced() as spans:
            for lead, reference in zip(ids, (ID, OTHER), strict=True):
                answer = await hooks.send(form(lead, account=None), x_request_id=reference)
                assert answer.status_code == 200
            await work(hooks.database, SandboxClients(kommo))
            await run(hooks.database, product.url)
    request = _of(spans, "POST /api/webhooks/kommo/{hook_key}", ID)
    effect = _of(spans, "webhook.effect", ID)
    [delivery, _] = [one.delivery_id for one in await inbox(hooks.database)]
    deliveries = [one for one in spans.named("outbox.deliver") if _known(one)["kommo.reference"] == ID]
    whole = [request, effect, *deliveries]
    assert deliveries
    assert {_context(one).trace_id for one in whole} == {_context(request).trace_id}
    assert request.parent is None
    below = _context(request).span_id
    assert {one.parent.span_id for one in (effect, *deliveries) if one.parent} == {below}
    assert _known(request)["http.response.status_code"] == 200
    assert _known(request)["kommo.delivery"] in {delivery, _known(effect)["kommo.delivery"]}
    assert _known(request)["kommo.delivery"] == _known(effect)["kommo.delivery"]
    other = _of(spans, "POST /api/webhooks/kommo/{hook_key}", OTHER)
    assert _context(other).trace_id != _context(request).trace_id
    # Two deliveries were read with one request, which belongs to the turn; both point to it.
    [turn] = spans.named("webhook.turn")
    [reading] = spans.named("GET /api/v4/leads")
    assert reading.parent is not None
    assert reading.parent.span_id == _context(turn).span_id
    for one in spans.named("webhook.effect"):
        assert [link.context.span_id for link in one.links] == [_context(turn).span_id]
    sent = {one.headers["traceparent"] for one in product.taken}
    assert {
        f"00-{format_trace_id(_context(one).trace_id)}-{format_span_id(_context(one).span_id)}-01"
        for one in spans.named("outbox.deliver")
    } == sent


async def test_a_failed_delivery_to_the_product_says_so_by_its_status(hooks: Hooks, kommo: Sandbox) -> None:
    async with running_receiver() as product:
        product.behave = lambda _: Reply(500)
        await hooks.send(TALK, x_request_id=ID)
        with traced() as spans:
            await work(hooks.database, SandboxClients(kommo))
            await run(hooks.database, product.url)
            product.behave = lambda _: Reply()
            await hurry(hooks.database)
            await run(hooks.database, product.url)
    failed, taken = spans.named("outbox.deliver")
    assert (failed.status.status_code, _known(failed)["error.type"]) == (StatusCode.ERROR, "500")
    assert (taken.status.status_code, _known(taken)["kommo.attempt"]) == (StatusCode.UNSET, 2)
    assert _context(failed).trace_id == _context(taken).trace_id


async def test_nothing_is_sent_along_where_nothing_is_traced(hooks: Hooks, kommo: Sandbox) -> None:
    async with running_receiver() as product:
        await hooks.send(TALK, x_request_id=ID)
        await work(hooks.database, SandboxClients(kommo))
        await run(hooks.database, product.url)
    assert [("traceparent" in one.headers) for one in product.taken] == [False]


async def test_t5_no_span_of_a_request_holds_a_key_a_query_a_body_or_a_signature(
    hooks: Hooks, kommo: Sandbox
) -> None:
    with traced() as spans:
        await hooks.send(form(5, account=None) + b"&canary-body=1", x_canary="canary-header")
        await hooks.send(b"canary-unreadable", content_type="application/json")
        await hooks.send(b"{}", key="canary-key-that-nobody-knows-0123456789abcdef")
        await hooks.http.post(f"/api/webhooks/kommo/{hooks.key}/", content=b"canary")
        await hooks.forward(b'{"canary": 1}', sign="canary" + "0" * 58)
        await hooks.http.get("/api/v1/crm/kommo/callback?code=canary-code&state=canary-state&referer=canary")
        await hooks.http.get(
            "/api/v1/nowhere/canary-path?key=canary", headers={"x-api-key": "canary-api-key"}
        )
        async with running_receiver() as product:  # its address has a canary in its query
            await work(hooks.database, SandboxClients(kommo))
            await run(hooks.database, product.url)
    assert len(spans.all) > 8
    assert "canary" not in spans.text
    assert hooks.key not in spans.text
    assert SECRET.get_secret_value() not in spans.text


async def test_who_asks_whether_the_process_lives_leaves_no_span(hooks: Hooks) -> None:
    with traced() as spans:
        await hooks.http.get("/healthz")
        await hooks.http.get("/metrics")
    assert list(spans.all) == []


async def test_t5_fastapis_own_traces_are_off_whoever_sets_a_provider(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(opentelemetry.trace, "get_tracer_provider", lambda: provider)
    await hooks.send(form(5))
    await hooks.http.get("/api/v1/crm/kommo/callback?code=canary-code&state=canary-state")
    assert list(exporter.get_finished_spans()) == [], "they would hold the key of the hook, and the code"
