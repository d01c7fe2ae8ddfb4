"""What a policy is, and the simplest, which every other has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from actuators.errors import BadInput

Observation: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Mask: TypeAlias = npt.NDArray[np.bool_]


class Policy(Protocol):
    """Chooses the next experiment."""

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns an action that the mask allows.

        Args:
            observation: as `envs.encoding.observe` makes it.
            mask: which actions are allowed, shape (actions,); the last one stops and is always allowed.
        """
        ...


def require_sense(observation: Observation, mask: Mask) -> None:
    """Checks what a policy is asked: whatever is not a number would be taken for the best or the worst of all.

    Raises:
        BadInput: the observation holds something that is no number, or the mask does not even allow to stop.
    """
    for name, values in observation.items():
        if not np.isfinite(values).all():
            raise BadInput(f"observation {name!r} holds values that are no numbers; allowed are finite ones")
    if not mask[-1]:
        raise BadInput("the mask does not allow to stop; allowed is every mask whose last entry is true")


class RandomPolicy:
    """Takes any allowed experiment; stops only when there is none."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns an allowed experiment, all equally likely."""
        allowed = np.flatnonzero(mask[:-1])
        return int(self._random.choice(allowed)) if len(allowed) else len(mask) - 1
