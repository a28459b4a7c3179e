"""What a test sees of traces: the spans of this process, in memory, as an exporter would have got them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kommo import tracing
from kommo.otel import OtelTracer


class Spans:
    """What was traced."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [one for one in self.all if one.name == name]

    @property
    def text(self) -> str:
        """Everything that would leave this process."""
        return "\n".join(one.to_json() for one in self.all)


@contextmanager
def traced(at_work: Callable[[], str | None] = lambda: None) -> Iterator[Spans]:
    """Trace what is done within the block."""
    exporter = InMemorySpanExporter()
    tracer = OtelTracer("tests", SimpleSpanProcessor(exporter), at_work)
    before = tracing.put(tracer)
    try:
        yield Spans(exporter)
    finally:
        tracing.put(before)
        tracer.shutdown()
