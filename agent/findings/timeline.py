"""One weakness as a picture: what was promised, what was done, what happened. SVG, drawn here, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from envs.telemetry.snapshot import metric_of

_WIDTH, _HEIGHT = 860, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 26, 34
_BEFORE_S = 12.0


@dataclass(frozen=True, slots=True)
class Frame:
    """The mapping from seconds and values to the picture."""

    start_s: float
    end_s: float
    highest: float

    def x(self, at_s: float) -> float:
        """Returns the horizontal place of a moment."""
        share = (at_s - self.start_s) / (self.end_s - self.start_s)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Returns the vertical place of a value."""
        return _HEIGHT - _BOTTOM - min(1.0, max(0.0, value / self.highest)) * (_HEIGHT - _TOP - _BOTTOM)


def timeline(experiments: Sequence[Mapping[str, Any]], series: str, bound: float | None, title: str) -> str:
    """Draws one series over all replicates of a cell, the last one bold.

    Args:
        experiments: as `outcomes.jsonl` holds them; those without a trace are left out.
        series: what is drawn.
        bound: the promised bound, None where the promise has no constant one.
        title: for those who cannot see the picture.

    Returns:
        An `<svg>` element; empty when there is nothing to draw.
    """
    drawn = [e for e in experiments if e["phases"] is not None and e["trace"].get(series)]
    if not drawn:
        return ""
    points = [point for experiment in drawn for point in experiment["trace"][series]]
    highest = max([value for _, value in points] + [bound or 0.0]) * 1.15 or 1.0
    frame = Frame(-_BEFORE_S, max(at_s for at_s, _ in points), highest)
    phases = drawn[-1]["phases"]
    parts = [
        _band(frame, -_BEFORE_S, 0.0, "reference", "#eef2f7"),
        _band(frame, 0.0, phases["cleared_s"], "fault in force", "#fde2dc"),
        _band(frame, phases["cleared_s"], phases["ended_s"], "after", "#eaf5ea"),
        _axes(frame, series),
        _promise(frame, bound),
    ]
    for experiment in drawn:
        parts.append(_line(frame, experiment["trace"][series], last=experiment is drawn[-1]))
    if phases["recovered_s"] is not None:
        parts.append(_recovery(frame, phases["recovered_s"]))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _band(frame: Frame, start_s: float, end_s: float, name: str, colour: str) -> str:
    x, width = frame.x(start_s), max(0.0, frame.x(end_s) - frame.x(start_s))
    return (
        f'<rect x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}" fill="{colour}"/>'
        f'<text x="{x + 4:.1f}" y="{_TOP - 8}" class="band">{escape(name)}</text>'
    )


def _axes(frame: Frame, series: str) -> str:
    metric = metric_of(series)
    marks = []
    for share in (0.0, 0.5, 1.0):
        value = share * frame.highest / 1.15
        y = frame.y(value)
        marks.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="tick" text-anchor="end">{value:.3g}</text>'
        )
    step = next(step for step in (2, 5, 10, 20, 30, 60, 120, 600) if (frame.end_s - frame.start_s) / step <= 14)
    at_s = -int(_BEFORE_S // step) * step
    while at_s <= frame.end_s:
        marks.append(
            f'<text x="{frame.x(at_s):.1f}" y="{_HEIGHT - 16}" class="tick" text-anchor="middle">{at_s}</text>'
        )
        at_s += step
    marks.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" class="tick" text-anchor="end">seconds from injection</text>'
    )
    marks.append(f'<text x="{_LEFT}" y="{_HEIGHT - 3}" class="tick">{escape(series)} ({escape(metric.unit)})</text>')
    return "".join(marks)


def _promise(frame: Frame, bound: float | None) -> str:
    if bound is None:
        return ""
    y = frame.y(bound)
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="promise"/>'
        f'<text x="{_WIDTH - _RIGHT - 4}" y="{y - 4:.1f}" class="tick" text-anchor="end">promised {bound:g}</text>'
    )


def _line(frame: Frame, points: Sequence[Sequence[float]], *, last: bool) -> str:
    """Draws a line, broken where nothing was known for longer than a sample or two."""
    path, before_s = [], None
    for at_s, value in points:
        if at_s < frame.start_s:
            continue
        verb = "M" if before_s is None or at_s - before_s > 1.6 else "L"
        path.append(f"{verb}{frame.x(at_s):.1f},{frame.y(value):.1f}")
        before_s = at_s
    return f'<path d="{" ".join(path)}" class="{"line" if last else "line earlier"}"/>'


def _recovery(frame: Frame, at_s: float) -> str:
    x = frame.x(at_s)
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" class="recovered"/>'
        f'<text x="{x + 4:.1f}" y="{_TOP + 12}" class="tick">kept again at {at_s:.1f} s</text>'
    )
