"""Spans by OpenTelemetry: imported by `kommo.tracing` only, and only where traces are wanted.

A provider of our own, never the global one: libraries that find a global one record what must not be recorded, such as
paths with keys and queries with codes. Exporter, sampler and limits are set by OpenTelemetry's own variables.
"""

import atexit
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes

from kommo.tracing import Kind, Tracer, Values

_KINDS: Final = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}
_LONGEST: Final = 200
"""Letters of a value; ours are words and ids."""
_SECONDS: Final = 3.0
"""For one sending with its repetitions, unless the environment says: a process may have to wait so long to end."""
_TIMEOUTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_SAID_EVERY: Final = 60.0

_log = logging.getLogger(__name__)


class Ids(NamedTuple):
    """Of a trace and of its first span."""

    trace: int
    span: int | None


def ids_of(reference: str) -> Ids:
    """The same in every process; not to be read backwards."""
    digest = hashlib.sha256(b"kommo-trace:" + reference.encode()).digest()
    return Ids(int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1)


_NEXT: ContextVar[Ids | None] = ContextVar("kommo_next_ids", default=None)


class _Ids(RandomIdGenerator):
    """Ids by chance, unless the next span is one whose ids are known."""

    def generate_span_id(self) -> int:
        given = _NEXT.get()
        return super().generate_span_id() if given is None or given.span is None else given.span

    def generate_trace_id(self) -> int:
        given = _NEXT.get()
        return super().generate_trace_id() if given is None else given.trace


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.is_failed = False

    def note(self, values: Values) -> None:
        self._span.set_attributes(_attributes(values) or {})

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def failed(self, kind: str) -> None:
        self.is_failed = True
        self._span.set_attribute("error.type", kind[:_LONGEST])
        self._span.set_status(Status(StatusCode.ERROR))


class OtelTracer:
    """Spans of one process.

    Args:
        service: What the process is called, unless the environment says so.
        processor: Takes the spans that have ended.
        at_work: The id of what is at work.
    """

    def __init__(self, service: str, processor: SpanProcessor, at_work: Callable[[], str | None]) -> None:
        self._provider = TracerProvider(
            resource=_resource(service), id_generator=_Ids(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("kommo-data-plane")
        self._at_work = at_work

    @contextmanager
    def span(
        self, name: str, values: Values, *, kind: Kind, reference: str | None, first: bool
    ) -> Iterator[_Span]:
        """A span around the block; what escapes from it is noted by its type."""
        started = self._start(name, values, kind=kind, reference=reference, first=first)
        ours = _Span(started)
        with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield ours
            except BaseException as error:
                if not ours.is_failed:
                    ours.failed(type(error).__name__)
                raise

    def told(self, name: str, values: Values, *, since: int, reference: str | None) -> None:
        """A span that has ended already, in the trace of its request, with a link to the one at work."""
        here = trace.get_current_span().get_span_context()
        links = [trace.Link(here)] if here.is_valid else []
        self._start(
            name, values, kind=Kind.INTERNAL, reference=reference, first=False, since=since, links=links
        ).end()

    def headers(self) -> Mapping[str, str]:
        """W3C trace context."""
        here = trace.get_current_span().get_span_context()
        if not here.is_valid:
            return {}
        return {
            "traceparent": f"00-{trace.format_trace_id(here.trace_id)}-"
            f"{trace.format_span_id(here.span_id)}-{here.trace_flags & 1:02x}"
        }

    def shutdown(self) -> None:
        """Give out what is left, and take nothing more."""
        self._provider.shutdown()

    def _start(
        self,
        name: str,
        values: Values,
        *,
        kind: Kind,
        reference: str | None,
        first: bool,
        since: int | None = None,
        links: list[trace.Link] | None = None,
    ) -> trace.Span:
        context, ids = self._place(name, reference, first=first)
        token = _NEXT.set(ids)
        try:
            return self._tracer.start_span(
                name,
                context,
                _KINDS[kind],
                _attributes(values),
                links,
                since,
                record_exception=False,
                set_status_on_exception=False,
            )
        finally:
            _NEXT.reset(token)

    def _place(self, name: str, reference: str | None, *, first: bool) -> tuple[Context | None, Ids | None]:
        """Below which span it belongs, or which ids it has if below none."""
        if reference is not None:
            ids = ids_of(reference)
            return (Context(), ids) if first else (self._below(ids, name), None)
        if not trace.get_current_span().get_span_context().is_valid and (run := self._at_work()) is not None:
            # Nobody makes a span of the run itself, so it hangs below none.
            return None, Ids(ids_of(run).trace, None)
        return None, None

    def _below(self, ids: Ids, name: str) -> Context:
        """The first span of a request, as another process has made it: sampled there if it would be here."""
        decision = self._provider.sampler.should_sample(None, ids.trace, name).decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        parent = SpanContext(ids.trace, ids.span or 1, is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(NonRecordingSpan(parent), Context())


class _Exporter(SpanExporter):
    """Sends spans by OTLP; a receiver that is away costs a line a minute and no process its end."""

    def __init__(self) -> None:
        # Its lines name the receiver's address, whose query may hold a key.
        noisy = logging.getLogger("opentelemetry")
        if noisy.level == logging.NOTSET:
            noisy.setLevel(logging.CRITICAL)
        chosen = any(os.environ.get(name) for name in _TIMEOUTS)
        self._inner = OTLPSpanExporter(timeout=None if chosen else _SECONDS)
        self._leaving = self._gave_up = False
        self._said = -_SAID_EVERY
        self._lost = 0

    def leave(self) -> None:
        """The process ends: what cannot be sent at the first go is not tried again."""
        self._leaving = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send; spans that cannot be sent are lost."""
        if not self._gave_up and self._inner.export(spans) is SpanExportResult.SUCCESS:
            return SpanExportResult.SUCCESS
        self._gave_up, self._lost = self._leaving, self._lost + len(spans)
        if time.monotonic() - self._said >= _SAID_EVERY and not self._leaving:
            _log.warning(
                "%d spans could not be sent and are lost: the receiver of traces does not take them.",
                self._lost,
            )
            self._said, self._lost = time.monotonic(), 0
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the connection."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]  # the library's


def open_tracer(service: str, at_work: Callable[[], str | None]) -> Tracer:
    """A tracer that sends to where the environment says, by batches and in a thread of its own."""
    exporter = _Exporter()
    tracer = OtelTracer(service, BatchSpanProcessor(exporter), at_work)

    def leave() -> None:
        exporter.leave()
        tracer.shutdown()

    atexit.register(leave)
    return tracer


def _resource(service: str) -> Resource:
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    # What is handed in goes before the environment, which here is to go before us.
    return Resource.create({} if named else {"service.name": service})


def _attributes(values: Values) -> Attributes:
    return {
        name: value[:_LONGEST] if isinstance(value, str) else value
        for name, value in values.items()
        if value is not None
    }
