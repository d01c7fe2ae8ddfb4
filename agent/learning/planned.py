"""A policy that goes through a plan, and repeats what shows a weakness until it is confirmed."""

from __future__ import annotations

from collections.abc import Sequence

from envs.encoding import observed
from envs.history import MANY

from .policy import Mask, Observation

_IN_VAIN = 2
"""Tries of one experiment that may show nothing before the next one of its entry is tried."""


class PlannedPolicy:
    """Goes through a plan, then stops.

    Args:
        plan: per entry, the actions that could show the same weakness, the best first.
    """

    def __init__(self, plan: Sequence[Sequence[int]]) -> None:
        self._plan = plan

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns the next action of the first entry that is neither confirmed nor given up; else stops."""
        confirmed = observed(observation, "confirmed").reshape(-1)
        tried, weak = (MANY * observed(observation, name).reshape(-1) for name in ("tried", "weakness"))
        for entry in self._plan:
            if any(confirmed[action] > 0 for action in entry):
                continue
            for action in entry:
                if mask[action] and tried[action] - weak[action] < _IN_VAIN:
                    return action
        return len(mask) - 1
