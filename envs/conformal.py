"""Is this more than the cluster does by itself? A conformal test on window medians.

Differences to the windows before are put on a robust scale per series, and the largest of a family of series is ranked
among the largest of the cluster's own fault-free units. If those units and the tested one are exchangeable, the p-value
is valid whatever the metrics' distributions and dependence; the maximum controls the family-wise error. (Conformal
p-values: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .telemetry.snapshot import Metric, metric_of
from .windows import Array, Calibration

_MAD_TO_SIGMA = 1.4826
_Z_LIMIT = 20.0


@dataclass(frozen=True, slots=True)
class Family:
    """A family of series after its test.

    Attributes:
        p: p-value of the largest z; NaN when nothing of the family was known.
        threshold: the z from which a move is significant at the level that was asked for.
        moves: per series, the largest move in the bad direction, in tolerances.
        z: per series, the largest robust z.
        scales: per series, the robust noise, in tolerances.
    """

    p: float
    threshold: float
    moves: Mapping[str, float]
    z: Mapping[str, float]
    scales: Mapping[str, float]

    @property
    def mde(self) -> float:
        """The smallest shift that would have been significant, in tolerances, for the least sensitive series."""
        return max((self.threshold * scale for scale in self.scales.values()), default=math.inf)

    def moved(self, alpha: float) -> dict[str, float]:
        """Returns the moves that are significant at `alpha` and matter in practice (a tolerance or more)."""
        if not self.p <= alpha:
            return {}
        return {name: move for name, move in self.moves.items() if self.z[name] >= self.threshold and move >= 1.0}


NOTHING_KNOWN = Family(math.nan, math.inf, {}, {}, {})


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
    highest = np.full(len(units), -np.inf)
    z, moves, scales = {}, {}, {}
    for name, test in windows.items():
        metric = metric_of(name)
        past = _worsening(metric, units[:, :, calibration.series.index(name)])
        if not np.isfinite(past).any() or not np.isfinite(test).any():
            continue
        change = _worsening(metric, test)
        centre, scale = _centre_and_scale(past, metric.floor)
        scales[name] = scale / metric.tolerance
        moves[name] = max(0.0, float(np.nanmax(change)) / metric.tolerance)
        z[name] = float(np.nanmax(_scaled(change, centre, scale)))
        # The same number of rows on both sides: a maximum over four is larger than a maximum over two.
        past_z = _scaled(past[:, : len(test)], centre, scale)
        highest = np.fmax(highest, np.fmax.reduce(past_z, axis=1))
    if not z:
        return NOTHING_KNOWN
    p = (1 + int((highest >= max(z.values())).sum())) / (len(units) + 1)
    return Family(p, float(np.quantile(highest, 1.0 - alpha)), moves, z, scales)


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
            found[name] = float(_scaled(_worsening(metric, change[column : column + 1]), centre, scale)[0]) / _Z_LIMIT
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
    z: Array = np.clip((differences - centre) / scale, -_Z_LIMIT, _Z_LIMIT)
    return z


def e_value(p: float) -> float:
    """Turns a p-value into an e-value, to be multiplied over replicates.

    The calibrator e = p^(-1/2) / 2 (Vovk and Wang, "E-values: calibration, combination and applications", Annals of
    Statistics 49, 2021, with kappa = 1/2).

    >>> round(e_value(1 / 81), 2)
    4.5
    """
    return 0.5 / math.sqrt(p)
