"""Which windows of an experiment are tested, and how many a fault-free unit must have to be compared with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..hypothesis import Clause
from ..windows import Array, Calibration, median_over_windows, rows, window_medians
from .evidence import Record

DURING_WINDOWS = 4
"""Windows from the injection on that are tested: what a fault does, it mostly begins to do by then."""

LATE_WINDOWS = 2
"""Last windows in force that are tested as well: queues grow and data ages until the fault's end."""

POST_WINDOWS = 2
UNIT_WINDOWS = DURING_WINDOWS + LATE_WINDOWS + POST_WINDOWS
"""Longest test stretch, in windows; calibration needs units of this length."""


class TestedWindows:
    """One experiment's windows, each minus the median of the reference windows before the injection."""

    def __init__(self, calibration: Calibration, record: Record) -> None:
        self._series = calibration.series
        self._shape = calibration.shape
        self._record = record
        phases, window_s = record.phases, self._shape.window_s
        before = self._cut(phases.injected_s - self._shape.quiet_s, self._shape.reference)
        self._reference = median_over_windows(before) if len(before) else np.full(len(self._series), np.nan)
        in_force = int((phases.cleared_s - phases.injected_s) // window_s)
        late = min(LATE_WINDOWS, max(0, in_force - DURING_WINDOWS))
        self._first_s = phases.injected_s, phases.injected_s + min(in_force, DURING_WINDOWS) * window_s
        self._last_s = phases.cleared_s - late * window_s, phases.cleared_s
        self._post_s = max(phases.ended_s - POST_WINDOWS * window_s, phases.injected_s), phases.ended_s
        first = self._cut(phases.injected_s, min(in_force, DURING_WINDOWS))
        last = self._cut(self._last_s[0], late)
        self._during = np.concatenate([first, last]) - self._reference
        self._post = self._cut(self._post_s[0], POST_WINDOWS) - self._reference

    def during(self, series: str) -> Array:
        """Returns the first and the last windows in force of one series."""
        return self._column(self._during, series)

    def post(self, series: str) -> Array:
        """Returns the last windows of one series."""
        return self._column(self._post, series)

    def from_injection(self, series: str, seconds: float) -> Array:
        """Returns the first windows of one series from so long after the injection on; none if it was over by then.

        What was unknown is left out: a promise that was seen broken a moment later is tested by that moment.
        """
        since, known = self._from_injection(series, seconds)
        return since[known]

    def includes(self, clause: Clause, at_s: float) -> bool:
        """Tells whether a moment lies in a window that a promise is tested by."""
        if clause.must == "keep":
            return True
        if clause.must == "hold":
            return any(start_s < at_s <= end_s for start_s, end_s in (self._first_s, self._last_s, self._post_s))
        within_s = clause.within_s or 0.0
        _, known = self._from_injection(clause.series, within_s)
        if not len(known):
            return self._post_s[0] < at_s <= self._post_s[1]
        starts_s = self._record.phases.injected_s + within_s + known * self._shape.step_s
        return bool(np.any((starts_s < at_s) & (at_s <= starts_s + self._shape.window_s)))

    def lowest(self, series: str) -> Array:
        """Returns the lowest of all windows of one series, minus the last one before the injection.

        One number however long the experiment was: fault-free, a series that only ever grows falls back in no window.
        """
        started_s = self._record.phases.injected_s
        before = self._column(self._cut(started_s - self._shape.window_s, 1), series)
        since = self._column(self._cut(started_s), series)
        known = since[np.isfinite(since)]
        return known.min(keepdims=True) - before if len(known) else np.empty(0)

    def _from_injection(self, series: str, seconds: float) -> tuple[Array, npt.NDArray[np.intp]]:
        """Returns all windows of one series from so long after the injection on, and which of them are tested."""
        start_s = self._record.phases.injected_s + seconds
        if start_s + self._shape.window_s > self._record.phases.ended_s:
            return np.empty(0), np.empty(0, np.intp)
        since = self._column(self._cut(start_s) - self._reference, series)
        return since, np.flatnonzero(np.isfinite(since))[: rows(POST_WINDOWS)]

    def _cut(self, start_s: float, windows: int | None = None) -> Array:
        cut = window_medians(self._record.snapshots, self._series, start_s, self._shape)
        return cut if windows is None else cut[: rows(windows)]

    def _column(self, windows: Array, series: str) -> Array:
        column: Array = windows[:, self._series.index(series)]
        return column
