"""When is chaos allowed? Windows, minus freezes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from .settings import DAYS, Schedule, Window

_HORIZON = timedelta(days=8)
"""Beyond a week every window has come by; only freezes may lie farther ahead."""


class Span(NamedTuple):
    """From a moment up to, and not including, another one; both aware."""

    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether chaos is allowed at a moment.

    Attributes:
        is_open: whether it is.
        until: when that changes, UTC; None if not within the week.
        why: what says so.
    """

    is_open: bool
    until: datetime | None
    why: str


def opening(schedule: Schedule, now: datetime) -> Opening:
    """Returns whether chaos is allowed.

    Args:
        schedule: windows and freezes.
        now: the moment; aware.
    """
    now = now.astimezone(UTC)
    frozen = [
        (freeze, Span(schedule.local(freeze.begins).astimezone(UTC), schedule.local(freeze.ends).astimezone(UTC)))
        for freeze in schedule.freezes
    ]
    spans = merged(_spans(schedule, now))
    holding = [(freeze, span) for freeze, span in frozen if span.begins <= now < span.ends]
    for _, span in frozen:
        spans = [piece for open_span in spans for piece in _without(open_span, span)]
    current = next((span for span in spans if span.begins <= now < span.ends), None)
    if current is not None:
        until = current.ends if current.ends < now + _HORIZON else None
        return Opening(True, until, "within a window" if schedule.windows else "no windows are set")
    begins = min((span.begins for span in spans if span.begins > now), default=None)
    if holding:
        freeze, span = holding[0]
        until = span.ends if begins is None else max(begins, span.ends)
        return Opening(False, until, f"{freeze.why} until {_said(span.ends, schedule)}")
    return Opening(False, begins, "outside of every window")


def day_of(schedule: Schedule, now: datetime) -> str:
    """Returns the day that a moment belongs to, as `YYYY-MM-DD` of the schedule's timezone."""
    return schedule.local(now).date().isoformat()


def merged(spans: list[Span]) -> list[Span]:
    """Returns spans in order, those that touch joined."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.begins <= found[-1].ends:
            found[-1] = Span(found[-1].begins, max(found[-1].ends, span.ends))
        else:
            found.append(span)
    return found


def _spans(schedule: Schedule, now: datetime) -> list[Span]:
    """Returns every span of the windows from before `now` to the horizon."""
    if not schedule.windows:
        return [Span(now - timedelta(days=1), now + _HORIZON)]
    first = schedule.local(now).date() - timedelta(days=2)
    found = []
    for ahead in range(2 + _HORIZON.days + 2):
        date = first + timedelta(days=ahead)
        for window in schedule.windows:
            if DAYS[date.weekday()] in window.days:
                found.append(_span(schedule, window, datetime.combine(date, window.begins)))
    return found


def _span(schedule: Schedule, window: Window, begins: datetime) -> Span:
    """Returns the span of a window that begins at a local time. Clocks that are put back or forward are followed."""
    ends = datetime.combine(begins.date(), window.ends)
    if ends <= begins:
        ends += timedelta(days=1)
    return Span(schedule.local(begins).astimezone(UTC), schedule.local(ends).astimezone(UTC))


def _without(span: Span, hole: Span) -> list[Span]:
    if hole.begins >= hole.ends:  # an hour that clocks leap over
        return [span]
    pieces = (Span(span.begins, min(span.ends, hole.begins)), Span(max(span.begins, hole.ends), span.ends))
    return [piece for piece in pieces if piece.begins < piece.ends]


def _said(moment: datetime, schedule: Schedule) -> str:
    return f"{schedule.local(moment):%a %Y-%m-%d %H:%M %Z}"
