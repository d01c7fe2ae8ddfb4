"""Whether the newest rows still look like the data that the models were made for.

Of every field, the share of the newest values that lie above the median of the reference is compared with a half: a
sign test, whose statistic does not care how far beyond a value lies. A few rows of garbage do not move it, and values
that are missing take no part in it; both are the business of the schema. What moves it is a shift of the bulk.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

WINDOW_ROWS = 256
"""Rows that are looked at: one second of the embedded platform."""

THRESHOLD = 5.0
"""Standard errors by which the share of one field must be off. Every row is independent of the next one only in part
(the world goes round), which makes the true noise smaller than the formula says."""

_RECENT_TESTS = 20


class DriftDetector:
    """Follows the newest rows.

    Args:
        reference: shape (n, FEATURES), what the data should look like.
    """

    def __init__(self, reference: NDArray[np.float32]) -> None:
        self._medians = np.median(reference, axis=0)
        self._newest: deque[NDArray[np.float32]] = deque(maxlen=WINDOW_ROWS)
        self._recent: deque[bool] = deque(maxlen=_RECENT_TESTS)
        self.score = 0.0
        """How far the field that is off most is off, in standard errors."""

    @property
    def drifting(self) -> bool:
        """Whether the newest test has found a drift."""
        return bool(self._recent) and self._recent[-1]

    @property
    def rate(self) -> float:
        """The share of the newest tests that have found one; no number before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else math.nan

    def saw(self, rows: NDArray[np.float32]) -> None:
        """Takes rows of shape (n, FEATURES), NaN where a value is missing, and tests the window that they complete."""
        self._newest.extend(rows)
        if len(self._newest) < WINDOW_ROWS:
            return
        window = np.stack(self._newest)
        known = np.isfinite(window).sum(axis=0)
        above = (window > self._medians).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.abs(above / known - 0.5) * 2.0 * np.sqrt(known)
        # Of a field that few rows have nothing can be said.
        self.score = float(np.max(z, initial=0.0, where=known >= WINDOW_ROWS // 4))
        self._recent.append(self.score > THRESHOLD)
