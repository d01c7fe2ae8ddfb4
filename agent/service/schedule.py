"""When is chaos allowed? Windows, minus freezes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, timedelta

from .settings import DAYS, Schedule, Window, moved

_HORIZON = timedelta(days=8)
"""Beyond a week every window has come by; only freezes may lie farther ahead."""


@dataclass(frozen=True, order=True, slots=True)
class Span:
    """From a moment up to, and not including, another one; both aware."""

    begins: datetime
    ends: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.begins <= moment < self.ends


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether chaos is allowed at a moment.

    Attributes:
        is_open: whether it is.
        until: when that changes, UTC; None if it is open and stays so for the week.
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
    freezes = [
        (Span(moved(schedule.local(freeze.begins), UTC), moved(schedule.local(freeze.ends), UTC)), freeze.why)
        for freeze in schedule.freezes
    ]
    frozen = [span for span, _ in freezes]
    holding = next(((span, why) for span, why in freezes if now in span), None)
    if holding is not None:
        return Opening(False, _opens(schedule, now, frozen), f"{holding[1]} until {_said(holding[0].ends, schedule)}")
    window = _holds(_spans(schedule, now), now)
    if window is None:
        return Opening(False, _opens(schedule, now, frozen), "outside of every window")
    ends = min([window.ends, *(span.begins for span in frozen if now < span.begins < span.ends)])
    until = ends if ends < now + _HORIZON else None
    return Opening(True, until, "within a window" if schedule.windows else "no windows are set")


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


def _opens(schedule: Schedule, moment: datetime, frozen: list[Span]) -> datetime:
    """Returns the first moment from one on that lies in a window and in no freeze.

    A freeze may cover what windows there are in the week; each step leaves one freeze or enters one window, and windows
    come by every week, so an end is reached.
    """
    while moment.year < MAXYEAR:  # no day can be counted from there
        freeze = _holds(frozen, moment)
        spans = _spans(schedule, moment)
        if freeze is not None:
            moment = freeze.ends
        elif _holds(spans, moment) is not None:
            return moment
        else:
            moment = min(span.begins for span in spans if span.begins > moment)
    return moment


def _holds(spans: list[Span], moment: datetime) -> Span | None:
    return next((span for span in spans if moment in span), None)


def _spans(schedule: Schedule, now: datetime) -> list[Span]:
    """Returns every span of the windows from before `now` to the horizon, those that touch joined."""
    if not schedule.windows:
        return [Span(now - timedelta(days=1), now + _HORIZON)]
    first = schedule.local(now).date() - timedelta(days=2)
    found = []
    for ahead in range(2 + _HORIZON.days + 2):
        date = first + timedelta(days=ahead)
        for window in schedule.windows:
            if DAYS[date.weekday()] in window.days:
                found.append(_span(schedule, window, datetime.combine(date, window.begins)))
    return merged(found)


def _span(schedule: Schedule, window: Window, begins: datetime) -> Span:
    """Returns the span of a window that begins at a local time. Clocks that are put back or forward are followed."""
    ends = datetime.combine(begins.date(), window.ends)
    if ends <= begins:
        ends += timedelta(days=1)
    return Span(schedule.local(begins).astimezone(UTC), schedule.local(ends).astimezone(UTC))


def _said(moment: datetime, schedule: Schedule) -> str:
    return f"{schedule.local(moment):%a %Y-%m-%d %H:%M %Z}"
