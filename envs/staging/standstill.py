"""When does a training job hang? When all its ranks are there and none of them gets anywhere.

A dead rank is no hang: Ray Train notices it and restarts the group, and meanwhile somebody is missing. A frozen one is
not noticed by anybody, for the others wait for it inside of a collective operation that knows no deadline.
"""

from __future__ import annotations

_MOVING_AFTER = 2
"""Steps of a group that must be seen: the first one that is told may be that of the checkpoint it resumes from."""


class Standstill:
    """Measures for how long a whole group of ranks that used to move has stood still.

    Args:
        ranks: how many make the group whole.
    """

    def __init__(self, ranks: int) -> None:
        self._whole = ranks
        self._ranks: frozenset[str] = frozenset()
        self._step: float | None = None
        self._moves = 0
        self._since_s = 0.0

    def lasts_s(self, now_s: float, ranks: frozenset[str], step: float | None) -> float:
        """Returns for how long this same group has been at this same step, 0 while it is on its way, seconds.

        Args:
            now_s: on a clock that only ever grows.
            ranks: the ids of those that live.
            step: of the job as a rank last told it, None before the first.
        """
        if ranks != self._ranks:
            self._ranks, self._step, self._moves = ranks, step, 0
        elif step != self._step:
            self._step, self._since_s = step, now_s
            self._moves += 1
        hangs = len(ranks) >= self._whole and self._moves >= _MOVING_AFTER
        return now_s - self._since_s if hangs else 0.0
