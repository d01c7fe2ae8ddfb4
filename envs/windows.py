"""Window medians, and the cluster's own fault-free past as the yardstick for them.

Windows overlap by half. A stretch of W windows has 2W - 1 *rows*, one for every half window at which one can begin: an
outage that lies across the border of two windows would move the median of neither, but it fills the one between them.

A *unit* is what an experiment looks like to the scorer: a test stretch of windows, each minus the median of the K
windows before the stretch. Units cut from fault-free time say how far a healthy cluster wanders by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .telemetry.snapshot import Snapshot

Array: TypeAlias = npt.NDArray[np.float64]

_RESEMBLING_SPREADS = 2.0
_MOST_MOVED = 0.1


@dataclass(frozen=True, slots=True)
class Shape:
    """How time is cut.

    Attributes:
        window_s: length of a window, seconds.
        reference: windows before a test stretch that it is compared with (K).
        samples: samples that a full window holds.
    """

    window_s: float = 3.0
    reference: int = 4
    samples: int = 6

    @property
    def quiet_s(self) -> float:
        """Fault-free time that a reference needs, seconds."""
        return self.reference * self.window_s

    @property
    def step_s(self) -> float:
        """Time between the beginnings of two rows, seconds."""
        return self.window_s / 2.0


def rows(windows: int) -> int:
    """Returns how many rows a stretch of whole windows has.

    >>> rows(4)
    7
    """
    return max(0, 2 * windows - 1)


def window_medians(snapshots: Sequence[Snapshot], series: Sequence[str], start_s: float, shape: Shape) -> Array:
    """Cuts snapshots into windows, one every half window, and takes the median of each series in each.

    Args:
        snapshots: oldest first.
        series: which columns.
        start_s: where the first window begins; windows are half-open towards their start.
        shape: how to cut.

    Returns:
        Medians, shape (rows, series). NaN where less than half of a window's samples were known; a last window that
        is not over yet is left out.
    """
    if not snapshots:
        return np.empty((0, len(series)))
    # Sampling jitters: a window counts as over when all but its last sample's worth of time has been seen.
    covered_s = snapshots[-1].at_s - start_s + 0.5 * shape.window_s / shape.samples
    count = max(0, int(covered_s // shape.step_s) - 1)
    values = np.array([[snapshot.values.get(name, np.nan) for name in series] for snapshot in snapshots])
    newest = np.ceil(np.array([snapshot.at_s - start_s for snapshot in snapshots]) / shape.step_s) - 1
    medians = np.full((count, len(series)), np.nan)
    for index in range(count):
        window = values[(newest == index) | (newest == index + 1)]
        enough = 2 * np.isfinite(window).sum(0) >= shape.samples
        medians[index] = np.where(enough, median_over_windows(window), np.nan)
    return medians


class Calibration:
    """Fault-free window medians of one cluster, in stretches without a gap.

    Args:
        series: the columns.
        shape: how the windows were cut.
        stretches: earlier stretches, each of shape (rows, series).
    """

    def __init__(self, series: Sequence[str], shape: Shape, stretches: Sequence[Array] = ()) -> None:
        self.series = tuple(series)
        self.shape = shape
        self.stretches = [stretch for stretch in stretches if len(stretch)]

    def add(self, stretch: Array) -> None:
        """Adds a fault-free stretch."""
        if len(stretch):
            self.stretches.append(stretch)

    def resembles(self, others: Sequence[Array]) -> bool:
        """Tells whether other stretches could come from this cluster as it is now.

        They could if hardly any series' median has moved by more than what either wanders within itself.
        """
        if not self.stretches or not others:
            return False
        now, then = np.concatenate(self.stretches), np.concatenate(others)
        if now.shape[1:] != then.shape[1:]:
            return False
        wandering = np.fmax(_spread(now), _spread(then))
        moved = np.abs(median_over_windows(now) - median_over_windows(then)) > _RESEMBLING_SPREADS * wandering
        known = np.isfinite(now).any(0) & np.isfinite(then).any(0)
        return bool(known.any()) and float(np.mean(moved[known])) <= _MOST_MOVED

    def units(self, test_windows: int) -> Array:
        """Returns every unit with a test stretch of that length, one for each whole window at which it can begin.

        Returns:
            Differences of shape (units, rows of the test stretch, series). Neighbouring units overlap.
        """
        reference, length = rows(self.shape.reference), rows(self.shape.reference + test_windows)
        units = []
        for stretch in self.stretches:
            if len(stretch) >= length:
                cut = np.moveaxis(np.lib.stride_tricks.sliding_window_view(stretch, length, axis=0)[::2], -1, 0)
                # The row between them is half reference and half test, and belongs to neither.
                units.append(cut[reference + 1 :] - median_over_windows(cut[:reference]))
        if not units:
            return np.empty((0, rows(test_windows), len(self.series)))
        return np.concatenate(units, axis=1).swapaxes(0, 1)

    def places(self, test_windows: int) -> npt.NDArray[np.int64]:
        """Returns where each unit begins, in windows, shape (units,).

        Units whose test stretches share time are less than `test_windows` apart, and no others.
        """
        found, begins = [], 0
        for stretch in self.stretches:
            count = self._units_in(stretch, test_windows)
            found.append(np.arange(begins, begins + count))
            begins += count + test_windows
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def size(self, test_windows: int) -> int:
        """Returns how many units there are with a test stretch of that length."""
        return sum(self._units_in(stretch, test_windows) for stretch in self.stretches)

    def _units_in(self, stretch: Array, test_windows: int) -> int:
        return max(0, (len(stretch) - rows(self.shape.reference + test_windows)) // 2 + 1)


def _spread(windows: Array) -> Array:
    """Returns each series' range between its 5 % and 95 % quantiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(windows, [0.05, 0.95], axis=0)
    spread: Array = high - low
    return spread


def median_over_windows(windows: Array) -> Array:
    """Returns each series' median over some windows; NaN where none of them is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN has no median: it is unknown, as it should be
        median: Array = np.nanmedian(windows, axis=0)
    return median
