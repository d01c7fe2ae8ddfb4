"""Is this more than the cluster does by itself? A conformal test on window medians.

Differences to the windows before are put on a robust scale per series, and the largest of a family of series is ranked
among the largest of the cluster's own fault-free units. If those units and the tested one are exchangeable, the p-value
is valid whatever the metrics' distributions and dependence; the maximum controls the family-wise error. (Conformal
p-values: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005.)

A robust scale says how wide the middle of a distribution is and nothing about its tail: one series that jumps now and
then would set the bar for those that never do. So each is measured by its own tail before the maximum is taken, as a
minimum over p-values would, without its ties. (Westfall and Young, "Resampling-Based Multiple Testing", 1993.)

Whoever is measured by a tail in which it has no part stands out more easily than whoever has. So every unit, and the
tested one, is measured by the tails of the others alone: of those that share no time with it. Centre and scale are
those of all together. With that the tested one is treated as each of the units is, however short the past and however
heavy the tails. (Full conformal prediction, in the book's words.) Units overlap, which no rank knows: as many count for
fewer than they are.

Two more things keep them from being quite exchangeable, and no rank knows of them either. Units are cut from quiet
time, in which no promise was broken: where a cluster breaks promises by itself, now and then, p says little against
that, and it is shams that count how often. And a unit lasts 36 s, while the last windows of a long experiment may lie
two minutes after its reference: a slow drift is in no unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..telemetry.snapshot import Metric, metric_of
from ..windows import Array, Calibration

_MAD_TO_SIGMA = 1.4826
_Z_LIMIT = 20.0
"""Of what a policy is shown; a test ranks, and needs none."""

_LEAST_TAIL = 1.0
"""In robust standard deviations: of a series that never moved, whatever is more than its floor stands out. On
fault-free time of the embedded cluster, each of two starts judged by the other, the promises' test alarms at 0.042
with 1 and at 0.054 with 6; what is worse by three of its deviations is seen in most series always, and with 6 hardly
ever."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of series after its test.

    Attributes:
        p: p-value of the largest z; NaN when nothing of the family was known.
        moves: per series, the largest move in the bad direction, in tolerances.
        z: per series, the largest robust z.
        thresholds: per series, the z from which a move is significant at the level that was asked for.
        scales: per series, the robust noise, in tolerances.
    """

    p: float
    moves: Mapping[str, float]
    z: Mapping[str, float]
    thresholds: Mapping[str, float]
    scales: Mapping[str, float]

    @property
    def mde(self) -> float:
        """The smallest shift that would have been significant, in tolerances, for the least sensitive series."""
        return max((self.thresholds[name] * scale for name, scale in self.scales.items()), default=math.inf)

    def moved(self, alpha: float) -> dict[str, float]:
        """Returns the moves that are significant at `alpha` and matter in practice (a tolerance or more)."""
        if not self.p <= alpha:
            return {}
        return {
            name: move for name, move in self.moves.items() if self.z[name] >= self.thresholds[name] and move >= 1.0
        }


NOTHING_KNOWN = Family(math.nan, {}, {}, {}, {})


def conformal_test(calibration: Calibration, windows: Mapping[str, Array], unit_windows: int, alpha: float) -> Family:
    """Tests a family of series, each on its own windows.

    Args:
        calibration: the fault-free past.
        windows: per series, the rows of the tested windows minus their reference, shape (rows,); NaN is unknown.
        unit_windows: test stretch of the calibration units; no series may bring more rows than that has.
        alpha: level for the threshold.

    Returns:
        The family's p-value and sizes; all unknown when there is no calibration or no known window.
    """
    units = calibration.units(unit_windows)
    if not len(units):
        return NOTHING_KNOWN
    moves, scales, every_z = {}, {}, {}
    for name, test in windows.items():
        metric = metric_of(name)
        # The same number of rows on both sides: a maximum over four is larger than a maximum over two.
        past = _worsening(metric, units[:, : len(test), calibration.series.index(name)])
        change = _worsening(metric, test)
        if not np.isfinite(past).any() or not np.isfinite(change).any():
            continue
        everything = np.vstack([past, change])
        centre, scale = _centre_and_scale(everything, metric.floor)
        scales[name] = scale / metric.tolerance
        moves[name] = max(0.0, float(np.nanmax(change)) / metric.tolerance)
        every_z[name] = np.fmax.reduce(_scaled(everything, centre, scale), axis=1)
    if not every_z:
        return NOTHING_KNOWN
    z = np.stack(list(every_z.values()), axis=1)
    tails = _tails_of_others(z, calibration.places(unit_windows), unit_windows, alpha)
    highest = np.fmax.reduce(z / tails, axis=1)
    past_highest = highest[:-1][np.isfinite(highest[:-1])]  # a unit of which nothing was known is no yardstick
    p = (1 + int((past_highest >= highest[-1]).sum())) / (len(past_highest) + 1)
    threshold = float(np.quantile(past_highest, 1.0 - alpha))
    return Family(
        p,
        moves,
        dict(zip(every_z, z[-1].tolist(), strict=True)),
        dict(zip(every_z, (threshold * tails[-1]).tolist(), strict=True)),
        scales,
    )


def _tails_of_others(z: Array, places: npt.NDArray[np.int64], unit_windows: int, alpha: float) -> Array:
    """Returns, for each unit and each series, the tail of those that share no time with it; never a short one.

    Args:
        z: the largest z per unit and series, shape (units + 1, series); the last row is the tested one's.
        places: where the units begin, shape (units,); see `Calibration.places`.
        unit_windows: how far apart units have to begin to share nothing.
        alpha: the share of the others that lies beyond where the tail begins.
    """
    places = np.append(places, places[-1] + unit_windows)  # the tested one shares time with none
    near = np.abs(places[:, None] - places) < unit_windows
    known, series = np.isfinite(z), np.arange(z.shape[1])
    others = known.sum(0) - near.astype(np.int64) @ known
    beyond = others - np.ceil((1.0 - alpha) * others).astype(np.int64)
    # No more than the largest few need be looked at: those beyond, and those that are too near to count.
    largest = np.argsort(np.where(known, -z, np.inf), axis=0)[: int(beyond.max() + near.sum(1).max()) + 1]
    counts = ~near[:, largest] & known[largest, series]
    begins = counts & (counts.cumsum(1) == beyond[:, None] + 1)
    where = largest[begins.argmax(1), series]
    tails = np.where(begins.any(1), z[where, series], np.nan)
    return np.fmax(tails, _LEAST_TAIL)


def robust_z(calibration: Calibration, change: Array, unit_windows: int) -> dict[str, float]:
    """Returns how unusual one window's changes are for each series, in the bad direction, scaled to [-1, 1].

    Args:
        calibration: the fault-free past.
        change: one window minus its reference, shape (series,); NaN is unknown and left out.
        unit_windows: test stretch of the calibration units.
    """
    units = calibration.units(unit_windows)
    found = {}
    for column, name in enumerate(calibration.series):
        metric = metric_of(name)
        past = _worsening(metric, units[:, :, column])
        if np.isfinite(past).any() and np.isfinite(change[column]):
            centre, scale = _centre_and_scale(past, metric.floor)
            z = float(_scaled(_worsening(metric, change[column : column + 1]), centre, scale)[0])
            found[name] = min(max(z / _Z_LIMIT, -1.0), 1.0)
    return found


def _worsening(metric: Metric, differences: Array) -> Array:
    """Returns differences in the bad direction; of a series that only ever grows, how far it has fallen back."""
    worse: Array = metric.sign * differences
    return np.fmax(worse, 0.0) if metric.progress else worse


def _centre_and_scale(past: Array, floor: float) -> tuple[float, float]:
    """Returns median and robust standard deviation of fault-free differences, the latter no smaller than `floor`."""
    centre = float(np.nanmedian(past))
    return centre, max(_MAD_TO_SIGMA * float(np.nanmedian(np.abs(past - centre))), floor)


def _scaled(differences: Array, centre: float, scale: float) -> Array:
    z: Array = (differences - centre) / scale
    return z


def e_value(p: float) -> float:
    """Turns a p-value into an e-value, to be multiplied over replicates.

    The calibrator e = p^(-1/2) / 2 (Vovk and Wang, "E-values: calibration, combination and applications", Annals of
    Statistics 49, 2021, with kappa = 1/2).

    >>> round(e_value(1 / 81), 2)
    4.5
    """
    return 0.5 / math.sqrt(p)
