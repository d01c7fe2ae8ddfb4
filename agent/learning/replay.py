"""A policy that repeats one experiment."""

from __future__ import annotations

from .policy import Mask, Observation


class ReplayPolicy:
    """Takes one action a number of times, then stops; stops at once where it is not allowed.

    Args:
        action: what to repeat.
        times: how often.
    """

    def __init__(self, action: int, times: int) -> None:
        self._action = action
        self._left = times

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns the action while any repetition is left."""
        self._left -= 1
        return self._action if self._left >= 0 and bool(mask[self._action]) else len(mask) - 1
