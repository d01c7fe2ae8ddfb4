"""How honest a model's scores are: the expected calibration error of the newest answers.

Answers are sorted into bins by their score; in each bin, a calibrated model is right as often as its scores say. The
error is the gap between the two, averaged over answers (Guo et al., "On Calibration of Modern Neural Networks", ICML
2017).
"""

from __future__ import annotations

from collections import deque

import numpy as np

_BINS = 10
_LEAST = 50


class CalibrationError:
    """The expected calibration error over a window of answers.

    Args:
        answers: how many of the newest answers count.
    """

    def __init__(self, answers: int = 150) -> None:
        self._newest: deque[tuple[float, bool]] = deque(maxlen=answers)

    def saw(self, score: float, *, right: bool) -> None:
        """Takes one answer: the probability that the model gave to it, and whether it was right."""
        self._newest.append((score, right))

    def value(self) -> float:
        """Returns the error in [0, 1]; no number while there are too few answers to tell.

        >>> boastful = CalibrationError()
        >>> for n in range(100):
        ...     boastful.saw(0.95, right=n % 2 == 0)
        >>> round(boastful.value(), 2)
        0.45
        """
        if len(self._newest) < _LEAST:
            return float("nan")
        scores, right = np.array(self._newest, dtype=float).T
        bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
        gaps = np.bincount(bins, weights=right - scores, minlength=_BINS)
        return float(np.abs(gaps).sum() / len(scores))
