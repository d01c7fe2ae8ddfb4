"""Traces of single requests: `traceparent` from one component to the next, and a record of every hop.

Whoever is asked continues the trace that the caller's `traceparent` names (W3C Trace Context); whoever is asked without
one, or with one that makes no sense, begins a new one. Only a few of those that begin are recorded, chosen by time
alone, so that they cost nothing and what goes wrong is no less likely to be among them. OpenTelemetry does all that.

What is recorded goes to a file of the process's own. A hop is written down when it begins and again when it ends: one
that never ended, for its process died or still waits, is known to have begun. With OTEL_EXPORTER_OTLP_ENDPOINT set and
the extra `tracing` installed, hops that have ended go there as well.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACES_PER_S = 2.0
_LARGEST_FILE_BYTES = 512 * 1024
"""Of each of the two files that a process keeps: together they reach back five minutes at the least."""
_FILES_PER_COMPONENT = 8
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_HEADERS = TraceContextTextMapPropagator()
_TRACER = contexts.create_key("tracer")

_log = logging.getLogger(__name__)


class Tracing:
    """Records what one component does for requests that are traced.

    Args:
        component: its name.
        folder: of the files of all components; None: nothing is recorded, and traces are only passed on.
        traces_per_s: how many of those that begin here are recorded at most, traces per second.
    """

    def __init__(self, component: str, folder: Path | None, traces_per_s: float = _TRACES_PER_S) -> None:
        sampler = ParentBased(root=ALWAYS_OFF if folder is None else _Spaced(1.0 / traces_per_s))
        self._provider = TracerProvider(sampler, Resource.create({SERVICE_NAME: component}))
        self._tracer = self._provider.get_tracer(__name__)
        if folder is not None:
            for processor in (SpanFile(component, folder), *_exporting()):
                self._provider.add_span_processor(processor)

    @contextmanager
    def hop(self, name: str, headers: Mapping[str, str] | None = None) -> Iterator[None]:
        """Records the answer to one request.

        Args:
            name: of what is done.
            headers: that the request came with; None: it begins here.
        """
        kind = SpanKind.CLIENT if headers is None else SpanKind.SERVER
        caller = _HEADERS.extract(headers or {}, Context())
        with _recorded(self._tracer, name, caller, kind):
            yield

    def close(self) -> None:
        """Sends what has not been sent yet, and ends."""
        self._provider.shutdown()


@contextmanager
def step(name: str) -> Iterator[None]:
    """Records a part of the hop that is going on, such as a call to somebody else."""
    here = contexts.get_current()
    tracer = contexts.get_value(_TRACER, here)
    if not isinstance(tracer, trace.Tracer) or not trace.get_current_span(here).is_recording():
        yield
        return
    with _recorded(tracer, name, here, SpanKind.CLIENT):
        yield


def outgoing() -> dict[str, str]:
    """Returns the headers that make whoever is asked next continue this trace."""
    headers: dict[str, str] = {}
    _HEADERS.inject(headers)
    return headers


def note(attributes: Mapping[str, str | bool | int]) -> None:
    """Adds to what is recorded of the hop that is going on."""
    trace.get_current_span().set_attributes(attributes)


def fail(why: str) -> None:
    """Records that the hop that is going on has failed."""
    trace.get_current_span().set_status(Status(StatusCode.ERROR, why))


class SpanFile(SpanProcessor):
    """Writes hops to a file of this process that never grows beyond its bound.

    Args:
        component: whose hops they are.
        folder: of the files of all components.
        boottime: the clock by which others find a moment again; seconds since the machine was started.
    """

    def __init__(self, component: str, folder: Path, boottime: Callable[[], float] | None = None) -> None:
        self._component = component
        self._boottime = boottime or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._begun_s: dict[int, float] = {}
        _forget_oldest(folder, component)
        path = folder / f"{component}-{os.getpid()}.jsonl"
        self._file = RotatingFileHandler(path, maxBytes=_LARGEST_FILE_BYTES, backupCount=1, delay=True)

    def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:
        """Writes that a hop has begun."""
        begun_s = self._boottime()
        self._begun_s[_context_of(span).span_id] = begun_s
        self._write(span, begun_s, None)

    def on_end(self, span: ReadableSpan) -> None:
        """Writes how a hop went."""
        ended_s = self._boottime()
        self._write(span, self._begun_s.pop(_context_of(span).span_id, ended_s), ended_s)

    def shutdown(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, span: ReadableSpan, start_s: float, end_s: float | None) -> None:
        line = json.dumps(
            {
                "trace": trace.format_trace_id(_context_of(span).trace_id),
                "span": trace.format_span_id(_context_of(span).span_id),
                "parent": None if span.parent is None else trace.format_span_id(span.parent.span_id),
                "component": self._component,
                "instance": f"{self._component}/{os.getpid()}",
                "name": span.name,
                "start_s": round(start_s, 6),
                "end_s": None if end_s is None else round(end_s, 6),
                "error": _error_of(span),
                "attributes": dict(span.attributes or {}),
            }
        )
        self._file.handle(logging.makeLogRecord({"msg": line}))


class _Spaced(Sampler):
    """Records the first trace that begins after a pause.

    Args:
        pause_s: between two of them, seconds.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._next_s = float("-inf")

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *_: object, **__: object
    ) -> SamplingResult:
        """Decides by the time alone."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return SamplingResult(Decision.DROP)
        self._next_s = now_s + self._pause_s
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        """Says what it does."""
        return f"one trace in {self._pause_s:g} s"


@contextmanager
def _recorded(tracer: trace.Tracer, name: str, parent: Context, kind: SpanKind) -> Iterator[None]:
    span = tracer.start_span(name, parent, kind)
    token = contexts.attach(contexts.set_value(_TRACER, tracer, trace.set_span_in_context(span)))
    try:
        yield
    except BaseException as error:  # whoever was told to give up has not answered either
        fail(type(error).__name__)
        raise
    finally:
        contexts.detach(token)
        span.end()


def _exporting() -> Sequence[SpanProcessor]:
    """Returns what sends hops to where the environment says; nothing where it says nothing, or that cannot be done."""
    endpoint = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None:
        return ()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        return (BatchSpanProcessor(OTLPSpanExporter()),)
    except ImportError:
        _log.warning("%s is set, and the extra `tracing` that sends traces there is not installed", endpoint)
    except ValueError as error:
        _log.warning("traces cannot be sent to %s: %s", endpoint, error)
    return ()


def _forget_oldest(folder: Path, component: str) -> None:
    """Removes the files of processes long dead: whoever is restarted again and again must not fill the disk."""
    files = sorted(folder.glob(f"{component}-*.jsonl*"), key=_written_s)
    for path in files[: -(_FILES_PER_COMPONENT - 1)]:
        path.unlink(missing_ok=True)


def _written_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _context_of(span: ReadableSpan) -> trace.SpanContext:
    return span.context or trace.INVALID_SPAN_CONTEXT


def _error_of(span: ReadableSpan) -> str | None:
    if span.status.status_code is not StatusCode.ERROR:
        return None
    return span.status.description or "error"
