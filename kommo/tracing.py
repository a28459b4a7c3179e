"""Traces of what is done, where they are wanted: the one door to OpenTelemetry, which this module does not import.

Off until `begin` was called in a process that is told where traces go; until then a span is one shared object that does
nothing. Rooms above hand in names and values; nothing is recorded that was not handed in: no header, query or body, and
of an exception its type, never its text. docs/logs.md says how to switch it on.

A trace is found again without a place of its own in the database: its id is made of the id of the request, which goes
with a delivery from the inbox to the outbox.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Final, Protocol

Values = Mapping[str, str | int | float | bool | None]
"""What is known of a span, by names of OpenTelemetry or our own (`kommo.…`); `None` is left out."""

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Where traces go; one of these switches them on."""

_log = logging.getLogger(__name__)


class Kind(Enum):
    """On which side of a request a span is."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Span(Protocol):
    """Something that is being done."""

    def note(self, values: Values) -> None:
        """Add what has become known of it."""
        ...

    def rename(self, name: str) -> None:
        """Call it by what has become known of it."""
        ...

    def failed(self, kind: str) -> None:
        """Mark it as failed.

        Args:
            kind: What kind of failure; a word of ours, never a text from elsewhere.
        """
        ...


class Tracer(Protocol):
    """Where spans go."""

    def span(
        self, name: str, values: Values, *, kind: Kind, reference: str | None, first: bool
    ) -> AbstractContextManager[Span]:
        """See `span`."""
        ...

    def told(self, name: str, values: Values, *, since: int, reference: str | None) -> None:
        """See `told`."""
        ...

    def headers(self) -> Mapping[str, str]:
        """See `headers`."""
        ...


class _Nothing:
    """The span of a process that does not trace."""

    def note(self, values: Values) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def failed(self, kind: str) -> None:
        pass


_NOTHING: Final[AbstractContextManager[Span]] = nullcontext(_Nothing())
_NONE: Final[Mapping[str, str]] = {}
_tracer: Tracer | None = None


def wanted() -> bool:
    """Whether this process is told to trace."""
    return (
        any(os.environ.get(name) for name in ENDPOINTS)
        and os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"
        and os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "none"
    )


def begin(service: str, *, at_work: Callable[[], str | None] = lambda: None) -> None:
    """Trace from now on, if this process is told to; said once in the log if it cannot.

    Args:
        service: What this process is called in traces, unless OTEL_SERVICE_NAME says so.
        at_work: The id of what is at work, such as a flow run: spans without another place belong to its trace.
    """
    if _tracer is not None or not wanted():
        return
    if any(
        importlib.util.find_spec(name) is None for name in ("opentelemetry.sdk", "opentelemetry.exporter")
    ):
        _log.warning(
            "%s is set, but the extra 'otel' is not installed: there are no traces. uv sync --extra otel",
            next(name for name in ENDPOINTS if os.environ.get(name)),
        )
        return
    from kommo.otel import open_tracer  # noqa: PLC0415 - half a second that only those pay who want it

    put(open_tracer(service, at_work))


def put(tracer: Tracer | None) -> Tracer | None:
    """Let spans go there from now on, or nowhere; what was there before."""
    global _tracer
    before, _tracer = _tracer, tracer
    return before


def is_on() -> bool:
    """Whether anything is traced: asked before values are gathered that cost something."""
    return _tracer is not None


def span(
    name: str,
    values: Values = _NONE,
    *,
    kind: Kind = Kind.INTERNAL,
    reference: str | None = None,
    first: bool = False,
) -> AbstractContextManager[Span]:
    """What is done within the block, as a span.

    Args:
        name: What it is; one of few, so that spans can be counted by it.
        values: What is known of it.
        kind: On which side of a request it is.
        reference: The id of the request that it comes of; by default it belongs to the span at work.
        first: It is this request itself: all other spans of it hang below this one.
    """
    if _tracer is None:
        return _NOTHING
    return _tracer.span(name, values, kind=kind, reference=reference, first=first)


def told(name: str, values: Iterable[tuple[str | None, Values]], *, since: int) -> None:
    """Spans of what was done for several requests at once and has just ended; each points to the span at work.

    Args:
        name: What it is.
        values: For each request its id and what is known of it.
        since: When it began, as `time.time_ns` says it.
    """
    if _tracer is not None:
        for reference, known in values:
            _tracer.told(name, known, since=since, reference=reference)


def headers() -> Mapping[str, str]:
    """By these headers whoever is called can go on with the trace at work; none if nothing is traced."""
    return _NONE if _tracer is None else _tracer.headers()
