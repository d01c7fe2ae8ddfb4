"""Contextual Thompson sampling: one draw from what this cluster has shown of itself decides.

Agrawal and Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013, on what `regression` makes
of it. The draw is turned into worth per minute: a weakness pays only when it is confirmed, so a promising cell is worth
its replicate, and a confirmed one is worth nothing more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from .arms import Arms
from .policy import Mask, Observation
from .regression import Prior, regressed
from .worth import worth_per_minute


class ThompsonPolicy:
    """Contextual Thompson sampling over arms; everything it knows is in the observation.

    Args:
        random: draws.
        prior: what is believed beforehand.
    """

    def __init__(self, random: np.random.Generator, prior: Prior | None = None) -> None:
        self._random = random
        self._prior = prior or Prior()

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns the allowed experiment with the highest drawn worth per minute."""
        allowed = np.flatnonzero(mask[:-1])
        if not len(allowed):
            return len(mask) - 1
        worth = self._worth(observation, self._random)
        return int(allowed[int(worth[torch.as_tensor(allowed)].argmax())])

    def odds(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns the posterior's mean of P(weak) of every arm, shape (arms,); draws nothing."""
        odds: npt.NDArray[np.float64] = self._odds(_seen(observation), None).flatten().numpy()
        return odds

    def worth(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns what arms are worth per minute by the posterior's mean, shape (arms,); draws nothing."""
        numbers: npt.NDArray[np.float64] = self._worth(observation, None).double().numpy()
        return numbers

    def _worth(self, observation: Observation, random: np.random.Generator | None) -> torch.Tensor:
        seen = _seen(observation)
        return worth_per_minute(seen, self._odds(seen, random)).flatten()

    def _odds(self, seen: dict[str, torch.Tensor], random: np.random.Generator | None) -> torch.Tensor:
        return regressed(seen["components"], Arms.of(seen), self._prior, random)


def _seen(observation: Observation) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(values)[None] for name, values in observation.items()}
