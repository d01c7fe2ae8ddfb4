"""What others choose by: every kind in turn, UCB, and a genetic algorithm, as fair rivals of what learns elsewhere.

All of them repeat at once what has just shown a weakness, until it is confirmed or borne; left to themselves they
would never do so, and nothing that they find would count.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from envs.encoding import observed
from envs.history import MANY

from .policy import Mask, Observation

_POPULATION = 10
_CROSSOVER, _OTHER_PARAMETER, _OTHER_SCENARIO = 0.6, 0.7, 0.5
_GENERATIONS_IN_VAIN = 20


class GeneticPolicy:
    """A genetic algorithm over single experiments, with the operators and defaults of krkn-ai.

    Generations of ten; parents by roulette on fitness, any while all have none; a child takes target and fault from
    two parents (0.6), has its intensity or its target drawn anew (0.7), and its kind of fault (0.5). What was run is
    not run again. Fitness is how far promises were broken and how far the target moved. Read in krkn-chaos/krkn-ai at
    a78e1da.

    Args:
        random: draws.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._parents: list[int] = []
        self._waiting: list[int] = []

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns the next experiment of a generation; stops where nothing new is allowed."""
        again = unconfirmed(observation, mask)
        if again is not None:
            return again
        fresh = mask[:-1] & (_flat(observation, "tried") == 0)
        if not fresh.any():
            return len(mask) - 1
        for _ in range(_GENERATIONS_IN_VAIN):
            while self._waiting:
                action = self._waiting.pop()
                if fresh[action]:
                    return action
            self._breed(observation, fresh)
        return int(self._random.choice(np.flatnonzero(fresh)))

    def _breed(self, observation: Observation, fresh: npt.NDArray[np.bool_]) -> None:
        """Makes the next generation out of all that was run; the first is drawn."""
        self._parents = np.flatnonzero(_flat(observation, "tried") > 0).tolist()
        if len(self._parents) < _POPULATION:
            allowed = np.flatnonzero(fresh)
            self._waiting = self._random.permutation(allowed)[:_POPULATION].tolist()
            return
        fitness = (_flat(observation, "anomaly_score_best") + _flat(observation, "effect_last"))[self._parents]
        odds = fitness / fitness.sum() if fitness.sum() > 0 else None
        shape = observation["arms"].shape[:3]
        self._waiting = [self._child(odds, shape) for _ in range(_POPULATION)]

    def _child(self, odds: npt.NDArray[np.float64] | None, shape: tuple[int, ...]) -> int:
        first, second = self._random.choice(self._parents, 2, p=odds)
        (component, kind, level), other = np.unravel_index(first, shape), np.unravel_index(second, shape)
        if self._random.random() < _CROSSOVER:
            kind, level = other[1], other[2]
        if self._random.random() < _OTHER_PARAMETER:
            if self._random.random() < 0.5:
                level = self._random.integers(shape[2])
            else:
                component = self._random.integers(shape[0])
        if self._random.random() < _OTHER_SCENARIO:
            kind = self._random.integers(shape[1])
        return int(np.ravel_multi_index((component, kind, level), shape))


class UcbPolicy:
    """UCB1 over kinds of faults (Auer et al., "Finite-time analysis of the multiarmed bandit problem", 2002).

    There are more experiments than can be run, so the kinds are its arms; which component and intensity is drawn among
    what was tried least. A try pays when it shows a weakness that is not confirmed yet.

    Args:
        random: draws.
        width: of the bounds, in units of the square root of a logarithm.
    """

    def __init__(self, random: np.random.Generator, width: float = math.sqrt(2.0)) -> None:
        self._random = random
        self._width = width

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns an experiment of the kind with the highest upper bound; stops where none is allowed."""
        again = unconfirmed(observation, mask)
        if again is not None:
            return again
        shape = observation["arms"].shape[:3]
        open_arms = (mask[:-1] & (_flat(observation, "confirmed") == 0)).reshape(shape)
        if not open_arms.any():
            return len(mask) - 1
        tried, weak = (_flat(observation, name).reshape(shape).sum((0, 2)) for name in ("tried", "weakness"))
        total = max(1.0, float(tried.sum()))
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = np.where(tried > 0, weak / tried + self._width * np.sqrt(np.log(total) / tried), np.inf)
        bound = np.where(open_arms.any((0, 2)), bound, -np.inf)
        kind = self._random.choice(np.flatnonzero(bound == bound.max()))
        candidates = np.argwhere(open_arms[:, kind])
        tries = _flat(observation, "tried").reshape(shape)[candidates[:, 0], kind, candidates[:, 1]]
        component, level = self._random.choice(candidates[tries == tries.min()])
        return int(np.ravel_multi_index((component, kind, level), shape))


class RoundRobinPolicy:
    """Every kind of fault in turn: the one that was tried least, and of its arms the mildest, shortest, least tried."""

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns an allowed experiment of the kind whose turn it is; stops where none is allowed."""
        again = unconfirmed(observation, mask)
        if again is not None:
            return again
        allowed = np.flatnonzero(mask[:-1])
        if not len(allowed):
            return len(mask) - 1
        tried = _flat(observation, "tried")
        of_kind = tried.reshape(observation["arms"].shape[:3]).sum((0, 2), keepdims=True)
        of_kind = np.broadcast_to(of_kind, observation["arms"].shape[:3]).reshape(-1)
        keys = [_flat(observation, name) for name in ("intensity", "duration_min")]
        return int(allowed[np.lexsort([key[allowed] for key in (*keys, tried, of_kind)])[0]])


def _flat(observation: Observation, name: str) -> npt.NDArray[np.float64]:
    """Returns what is known of arms, counts as such, shape (arms,)."""
    scale = MANY if name in {"tried", "weakness", "resilient"} else 1.0
    return scale * observed(observation, name).reshape(-1).astype(np.float64)


def unconfirmed(observation: Observation, mask: Mask) -> int | None:
    """Returns an allowed experiment that has shown a weakness, was never borne, and is not confirmed.

    What came to nothing or stayed undecided has shown nothing either way; there is an end to it after eight tries.
    """
    tried, weak, borne, confirmed = (
        _flat(observation, name) for name in ("tried", "weakness", "resilient", "confirmed")
    )
    promising = mask[:-1] & (weak > 0) & (borne == 0) & (confirmed == 0) & (tried < MANY)
    return int(promising.argmax()) if promising.any() else None
