"""How old the features behind the newest answers were, as far as the answers passed for fresh.

An answer from features that are known to be old says so (`fallback`), and leaves it to the caller what it is worth: it
counts as 0 here. What counts is age that nobody mentions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

_NEWEST_S = 1.5


class UnmentionedAge:
    """The largest age behind the newest answers.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._newest: deque[tuple[float, float]] = deque()

    def saw(self, age_s: float | None) -> None:
        """Takes one answer: the age of its features, seconds; None where it said that they were not fresh."""
        self._newest.append((self._clock(), age_s or 0.0))
        self._forget()

    def value(self) -> float:
        """Returns the largest age, seconds; no number where nothing has been answered lately.

        >>> ages = UnmentionedAge(lambda: 0.0)
        >>> ages.saw(2.5), ages.saw(None), ages.value()
        (None, None, 2.5)
        """
        self._forget()
        return max((age_s for _, age_s in self._newest), default=math.nan)

    def _forget(self) -> None:
        while self._newest and self._clock() - self._newest[0][0] > _NEWEST_S:
            self._newest.popleft()
