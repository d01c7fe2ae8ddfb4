"""How single requests went, hop by hop, and which of them are worth showing.

Components write down their hops, one JSON object a line, twice: as a hop begins and as it ends. What stands here reads
those lines and puts them together again. A line that makes no sense is left out and counted; a hop of which only the
beginning is known has not ended, as far as anybody knows.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

_MOST_SPANS = 12
_LONGEST_TEXT = 80
_MOST_ATTRIBUTES = 8


@dataclass(frozen=True, slots=True)
class Span:
    """One hop of a request.

    Attributes:
        id: of the hop.
        parent: the hop that it is a part of; None where the request begins.
        component: who did it.
        instance: which process of it.
        name: of what was done.
        start_s: when it began, on the cluster's clock.
        end_s: when it ended; None if it has not, as far as anybody knows.
        error: why it failed; None if it did not.
        attributes: what the component tells of it.
    """

    id: str
    parent: str | None
    component: str
    instance: str
    name: str
    start_s: float
    end_s: float | None
    error: str | None = None
    attributes: Mapping[str, str | float | bool] = field(default_factory=dict)

    @property
    def took_s(self) -> float:
        """How long it took, seconds; without end if it has not ended."""
        return math.inf if self.end_s is None else self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """One request.

    Attributes:
        id: of the trace, 32 hexadecimal digits.
        spans: its hops, each after the one that it is a part of; where it begins comes first.
        left_out: how many more there were.
    """

    id: str
    spans: tuple[Span, ...]
    left_out: int = 0

    @property
    def root(self) -> Span:
        """The hop with which it begins."""
        return self.spans[0]

    @property
    def failed(self) -> bool:
        """Whether whoever asked got no answer."""
        return self.root.error is not None or self.root.end_s is None

    @property
    def wrong(self) -> bool:
        """Whether whoever asked knows that the answer is wrong."""
        return self.root.attributes.get("answer.right") is False

    def depths(self) -> dict[str, int]:
        """Returns how deep each hop lies, by its id."""
        depths: dict[str, int] = {}
        for span in self.spans:
            depths[span.id] = 0 if span.parent is None else depths.get(span.parent, 0) + 1
        return depths

    def to_json(self, zero_s: float) -> dict[str, Any]:
        """Returns the trace as JSON, its times as milliseconds from its own beginning.

        Args:
            zero_s: the moment that the beginning itself is told by, on the cluster's clock.
        """
        depths = self.depths()
        return {
            "trace_id": self.id,
            "at_s": round(self.root.start_s - zero_s, 2),
            "left_out": self.left_out,
            "spans": [
                {
                    "component": span.component,
                    "instance": span.instance,
                    "name": span.name,
                    "depth": depths[span.id],
                    "start_ms": round(1000.0 * (span.start_s - self.root.start_s), 2),
                    "took_ms": None if span.end_s is None else round(1000.0 * span.took_s, 2),
                    "error": span.error,
                    "attributes": dict(span.attributes),
                }
                for span in self.spans
            ],
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """The requests of some time of which every beginning is known.

    Attributes:
        traces: in the order in which they began.
        malformed: how many lines could not be read.
    """

    traces: Sequence[RequestTrace]
    malformed: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """One request before a fault, and one during it.

    Attributes:
        before: a typical one.
        during: the one that shows most.
        malformed: how many lines could not be read.
    """

    before: RequestTrace | None
    during: RequestTrace | None
    malformed: int = 0

    def to_json(self, injected_s: float, injection_id: str | None) -> dict[str, Any]:
        """Returns both as JSON, times as seconds from the injection.

        Args:
            injected_s: when the fault was injected, on the cluster's clock.
            injection_id: of the fault. The cluster itself knows nothing of it.
        """
        return {
            "injection_id": injection_id,
            "before": None if self.before is None else self.before.to_json(injected_s),
            "during": None if self.during is None else self.during.to_json(injected_s),
            "malformed": self.malformed,
        }


@runtime_checkable
class ShowsRequests(Protocol):
    """A cluster that can show how single requests went; many cannot."""

    def requests(self, from_s: float, until_s: float) -> Seen | None:
        """Returns the recorded requests that began in a time, on the cluster's clock; None when nobody can tell."""
        ...


def pair(seen: Seen, injected_s: float, cleared_s: float, *, wrong_first: bool = False) -> Pair:
    """Returns a typical request from before a fault, and the one during it that shows most.

    A request that was under way when the fault began belongs to neither.

    Args:
        seen: the requests of both times.
        injected_s: when the fault was injected.
        cleared_s: when it was taken out.
        wrong_first: whether a wrong answer shows more than a slow one.
    """
    before = [t for t in seen.traces if t.root.start_s + t.root.took_s < injected_s]
    during = [t for t in seen.traces if injected_s <= t.root.start_s < cleared_s]
    return Pair(_typical(before), _worst(during, wrong_first=wrong_first), seen.malformed)


def read(folder: Path, from_s: float, until_s: float) -> Seen | None:
    """Returns the requests that began in a time, from the files that components write.

    Args:
        folder: of the files.
        from_s: beginning of the time, on the clock of whoever wrote them.
        until_s: its end.

    Returns:
        The requests; None when the folder cannot be read.
    """
    found: dict[str, dict[str, Span]] = {}
    malformed = 0
    try:
        files = list(folder.iterdir())
    except OSError:
        return None
    for path in files:
        for line in _lines(path):
            try:
                trace_id, span = _span_of(line)
            except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
                malformed += 1
                continue
            known = found.setdefault(trace_id, {})
            # The end of a hop says all that its beginning says, whichever is read first.
            if span.end_s is not None or span.id not in known:
                known[span.id] = span
    traces = [_trace_of(trace_id, spans.values()) for trace_id, spans in found.items()]
    began = [trace for trace in traces if trace is not None and from_s <= trace.root.start_s < until_s]
    return Seen(sorted(began, key=lambda trace: trace.root.start_s), malformed)


def _typical(traces: Sequence[RequestTrace]) -> RequestTrace | None:
    """Returns the answered request of median duration."""
    answered = sorted((t for t in traces if not t.failed), key=lambda trace: trace.root.took_s)
    if not answered:
        return None
    median_s = statistics.median_low(trace.root.took_s for trace in answered)
    return next(trace for trace in answered if trace.root.took_s == median_s)


def _worst(traces: Sequence[RequestTrace], *, wrong_first: bool) -> RequestTrace | None:
    """Returns the slowest of those that failed, or else of all."""
    return max(traces, key=lambda t: (t.failed, wrong_first and t.wrong, t.root.took_s, len(t.spans)), default=None)


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines of a file; those of one that is gone or cannot be read are unknown."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError:
        return


def _span_of(line: str) -> tuple[str, Span]:
    """Reads a line; returns the id of its trace and the hop.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError: it is malformed.
    """
    data = json.loads(line)
    start_s, end_s = float(data["start_s"]), data["end_s"]
    end_s = None if end_s is None else float(end_s)
    if not math.isfinite(start_s) or (end_s is not None and not start_s <= end_s < math.inf):
        raise ValueError(f"a hop from {start_s} to {end_s}")
    told = list(data["attributes"].items())[:_MOST_ATTRIBUTES]
    span = Span(
        id=_text(data["span"]),
        parent=None if data["parent"] is None else _text(data["parent"]),
        component=_text(data["component"]),
        instance=_text(data["instance"]),
        name=_text(data["name"]),
        start_s=start_s,
        end_s=end_s,
        error=None if data["error"] is None else _text(data["error"]),
        attributes={_text(name): value if _is_plain(value) else _text(str(value)) for name, value in told},
    )
    return _text(data["trace"]), span


def _text(value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    line = " ".join(value.split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _trace_of(trace_id: str, spans: Iterable[Span]) -> RequestTrace | None:
    """Puts the hops of one request in order; None where its beginning is not known."""
    children: dict[str | None, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.start_s, span.id)):
        children.setdefault(span.parent, []).append(span)
    roots = children.get(None, [])
    if len(roots) != 1:
        return None
    ordered: list[Span] = []
    waiting = [roots[0]]
    while waiting:
        span = waiting.pop()
        ordered.append(span)
        waiting.extend(reversed(children.get(span.id, [])))
    reached = {span.id for span in ordered}
    # Hops of a caller that nobody knows of, such as one that was killed before it could write, come last.
    strays = [span for group in children.values() for span in group if span.id not in reached]
    ordered += sorted(strays, key=lambda span: span.start_s)
    return RequestTrace(trace_id, tuple(ordered[:_MOST_SPANS]), max(0, len(ordered) - _MOST_SPANS))
