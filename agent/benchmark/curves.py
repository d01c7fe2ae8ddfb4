"""How fast each policy finds: severity confirmed against the share of the budget that is spent. SVG, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 40, 44
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#bcbd22")
_BOUNDS = {"oracle": "#222222", "random": "#999999"}


def picture(curves: Mapping[str, Sequence[float]], title: str) -> str:
    """Draws one line per policy, the best named first.

    Args:
        curves: per policy, severity confirmed by equal shares of the budget, the last one all of it.
        title: stands above.
    """
    highest = max((max(curve) for curve in curves.values()), default=0.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)}</text>',
        *_axes(highest),
    ]
    for rank, (name, curve) in enumerate(sorted(curves.items(), key=lambda item: -item[1][-1])):
        colour = _BOUNDS.get(name, _COLOURS[rank % len(_COLOURS)])
        points = " ".join(f"{_x(n / len(curve)):.1f},{_y(value, highest):.1f}" for n, value in enumerate((0.0, *curve)))
        dashes = ' stroke-dasharray="5 4"' if name in _BOUNDS else ""
        y = _TOP + 10 + 18 * rank
        parts += [
            f'<polyline fill="none" stroke="{colour}" stroke-width="2"{dashes} points="{points}"/>',
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{y}" fill="{colour}">{escape(name)} {curve[-1]:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _axes(highest: float) -> list[str]:
    left, right, bottom = _x(0.0), _x(1.0), _y(0.0, highest)
    lines = [
        f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#444"/>',
        f'<line x1="{left}" y1="{bottom}" x2="{left}" y2="{_TOP}" stroke="#444"/>',
        f'<text x="{(left + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">share of the minutes spent</text>',
        f'<text x="14" y="{(_TOP + bottom) / 2}" transform="rotate(-90 14 {(_TOP + bottom) / 2})" '
        'text-anchor="middle">severity confirmed</text>',
    ]
    for quarter in range(5):
        share = quarter / 4
        value = share * highest
        lines += [
            f'<text x="{_x(share)}" y="{bottom + 16}" text-anchor="middle">{share:.0%}</text>',
            f'<text x="{left - 6}" y="{_y(value, highest) + 4}" text-anchor="end">{value:.1f}</text>',
        ]
    return lines


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, highest: float) -> float:
    return _HEIGHT - _BOTTOM - value / highest * (_HEIGHT - _TOP - _BOTTOM)
