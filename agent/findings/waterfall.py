"""Two requests as a picture: a typical one before a fault and a telling one during it, hop by hop, on one scale.

SVG, drawn here, no script; and the same as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import Any

_WIDTH, _ROW, _HEAD, _GAP, _FOOT = 860, 20, 26, 14, 34
_BARS_FROM, _BARS_TO = 236, 640
_NARROWEST = 2.0
_INDENT = 10
_MOST_NAME, _MOST_NOTE = 36, 30
_STEPS_MS = tuple(factor * 10.0**power for power in range(-1, 6) for factor in (1, 2, 5))
_NOTHING = {
    "before": "no answered request was recorded before the fault",
    "during": "no request was recorded during it",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """The mapping from milliseconds since a request began to the picture.

    Attributes:
        end_ms: the right edge.
    """

    end_ms: float

    @classmethod
    def of(cls, spans: Sequence[Mapping[str, Any]]) -> Scale:
        """Returns the scale on which all of some hops can be seen."""
        return cls(max((span["start_ms"] + (span["took_ms"] or 0.0) for span in spans), default=0.0) or 1.0)

    def x(self, at_ms: float) -> float:
        """Returns the horizontal place of a moment."""
        return _BARS_FROM + min(1.0, max(0.0, at_ms / self.end_ms)) * (_BARS_TO - _BARS_FROM)

    def ticks(self) -> list[float]:
        """Returns the moments to mark, milliseconds."""
        step = next((step for step in _STEPS_MS if self.end_ms / step <= 5), self.end_ms)
        return [number * step for number in range(int(self.end_ms / step) + 1)]


def waterfall(requests: Mapping[str, Any] | None, title: str) -> str:
    """Draws both requests.

    Args:
        requests: as `weaknesses.json` and `outcomes.jsonl` hold them; None where nobody could tell.
        title: for those who cannot see the picture.

    Returns:
        An `<svg>` element; empty when there is nothing to draw.
    """
    shown = _shown(requests)
    if requests is None or not shown:
        return ""
    scale = Scale.of(list(chain.from_iterable(trace["spans"] for trace in shown.values())))
    parts, y = [_HATCHING], 0.0
    for name, colour in (("before", "#eef2f7"), ("during", "#fde2dc")):
        part, height = _block(_heading(name, requests), requests[name], _NOTHING[name], colour, scale, y)
        parts.append(part)
        y += height + _GAP
    parts.append(_axis(scale, y - _GAP))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y - _GAP + _FOOT:.0f}" role="img" class="waterfall" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def as_text(requests: Mapping[str, Any] | None) -> str:
    """Returns both requests as lines of text; empty when there is nothing to tell."""
    if requests is None or not _shown(requests):
        return ""
    lines = []
    for name in ("before", "during"):
        trace = requests[name]
        lines.append(" ".join(_heading(name, requests)))
        lines += [f"  {_NOTHING[name]}"] if trace is None else [_line(span) for span in trace["spans"]]
        lines += [f"  and {trace['left_out']} more"] if trace is not None and trace["left_out"] else []
    return "\n".join(lines)


def _shown(requests: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {name: requests[name] for name in ("before", "during") if requests[name]} if requests is not None else {}


def _heading(name: str, requests: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what stands above a request: what it is, and which one."""
    trace = requests[name]
    what = "before the fault" if name == "before" else f"during fault {requests['injection_id']}"
    if trace is None:
        return what, ""
    when = f"{abs(trace['at_s']):.1f} s {'before' if trace['at_s'] < 0 else 'after'} the injection"
    return what, f"{when}, trace {trace['trace_id']}"


def _block(
    heading: tuple[str, str], trace: Mapping[str, Any] | None, nothing: str, colour: str, scale: Scale, top: float
) -> tuple[str, float]:
    """Draws one request; returns it and its height."""
    spans = trace["spans"] if trace is not None else []
    left_out = f"and {trace['left_out']} more" if trace is not None and trace["left_out"] else ""
    tail = nothing if trace is None else left_out
    height = _HEAD + _ROW * (len(spans) + bool(tail)) + 6
    parts = [
        f'<rect x="0" y="{top:.1f}" width="{_WIDTH}" height="{height}" rx="4" fill="{colour}"/>',
        f'<text x="10" y="{top + 17:.1f}" class="band">{escape(heading[0])}</text>',
        f'<text x="{_WIDTH - 10}" y="{top + 17:.1f}" text-anchor="end">{escape(heading[1])}</text>',
    ]
    parts += [
        f'<line x1="{scale.x(at_ms):.1f}" x2="{scale.x(at_ms):.1f}" y1="{top + _HEAD}" y2="{top + height:.1f}" '
        'class="grid"/>'
        for at_ms in scale.ticks()
    ]
    parts += [_row(span, scale, top + _HEAD + _ROW * number) for number, span in enumerate(spans)]
    if tail:
        parts.append(f'<text x="10" y="{top + height - 10:.1f}">{escape(tail)}</text>')
    return "".join(parts), height


def _row(span: Mapping[str, Any], scale: Scale, top: float) -> str:
    ended, left = span["took_ms"] is not None, scale.x(span["start_ms"])
    right = scale.x(span["start_ms"] + span["took_ms"]) if ended else float(_BARS_TO)
    look = "failed" if span["error"] is not None else "answered" if ended else "open"
    indent = 10 + _INDENT * min(span["depth"], 8)
    name = _cut(f"{span['component']} {span['name']}", _MOST_NAME - 2 * min(span["depth"], 8)).partition(" ")
    detail = f"{span['instance']}: {span['name']}, {_took(span)} {_note(span)}".rstrip()
    return (
        f"<g><title>{escape(detail)}</title>"
        f'<text x="{indent}" y="{top + 14:.1f}"><tspan class="who">{escape(name[0])}</tspan> {escape(name[2])}</text>'
        f'<rect x="{left:.1f}" y="{top + 4:.1f}" width="{max(_NARROWEST, right - left):.1f}" height="12" rx="1.5" '
        f'class="hop {look}"/>'
        f'<text x="{_BARS_TO + 12}" y="{top + 14:.1f}" class="note {look}">'
        f'<tspan class="who">{escape(_took(span))}</tspan> {escape(_cut(_note(span), _MOST_NOTE))}</text></g>'
    )


def _axis(scale: Scale, top: float) -> str:
    marks = [
        f'<text x="{scale.x(at_ms):.1f}" y="{top + 16:.1f}" class="tick" text-anchor="middle">{at_ms:g}</text>'
        for at_ms in scale.ticks()
    ]
    words = f'<text x="{_BARS_TO}" y="{top + 30:.1f}" class="tick" text-anchor="end">milliseconds of the request</text>'
    return "".join(marks) + words


def _line(span: Mapping[str, Any]) -> str:
    who = f"{'  ' * min(span['depth'], 8)}{span['component']} {span['name']}"
    return f"  {_cut(who, 44):<44} from {span['start_ms']:>8.1f} ms  {_took(span):>11}  {_note(span)}".rstrip()


def _took(span: Mapping[str, Any]) -> str:
    took_ms = span["took_ms"]
    return "unfinished" if took_ms is None else f"{took_ms:.1f} ms" if took_ms < 100 else f"{took_ms:.0f} ms"


def _note(span: Mapping[str, Any]) -> str:
    """Returns what else is worth knowing of a hop."""
    told = span["attributes"]
    notes = [span["error"]] if span["error"] is not None else []
    notes += ["from last known features"] if told.get("features.fallback") is True else []
    notes += [f"{told['features.attempts']} attempts"] if told.get("features.attempts", 1) != 1 else []
    notes += ["wrong answer"] if told.get("answer.right") is False else []
    notes += [f"model {told['model.version']}"] if "model.version" in told else []
    return ", ".join(notes)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


_HATCHING = (
    '<defs><pattern id="unfinished" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" fill="#f0b9b1"/>'
    '<rect width="3" height="6" fill="#b3261e"/></pattern></defs>'
)
