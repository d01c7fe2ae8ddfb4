"""Contextual Thompson sampling: a Bayesian guess at every arm's odds, learned across arms, drawn anew each time.

Bayesian linear regression of "was a weakness" on attributes that arms share (role, family, intensity, redundancy) plus
one random effect per (component, kind) and per arm, so that what a cell showed counts most for itself, less for its
siblings, and least for its family. One draw from the posterior decides (Agrawal and Goyal, "Thompson sampling for
contextual bandits with linear payoffs", ICML 2013). The draw is turned into worth per minute: a weakness pays only when
it is confirmed, so a promising cell is worth its replicate, and a confirmed one is worth nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from envs.encoding import COMPONENT_FEATURES, FAMILIES, ROLES, observed
from envs.history import MANY

from .policy import Mask, Observation
from .worth import worth_per_minute


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of odds beforehand; in standard deviations, by how much they differ.

    Attributes:
        mean: of an arm, if nothing is known of it.
        role_sd: from one role and family of faults to another.
        shared_sd: by anything else that arms have in common.
        kind_sd: from one kind of fault on one component to another.
        arm_sd: from one arm to another.
        noise_sd: from one experiment on an arm to another.
    """

    mean: float = 0.3
    role_sd: float = 0.15
    shared_sd: float = 0.15
    kind_sd: float = 0.35
    arm_sd: float = 0.1
    noise_sd: float = 0.25


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
        odds = self._draw(observation)
        seen = {name: torch.as_tensor(values)[None] for name, values in observation.items()}
        worth = worth_per_minute(seen, torch.as_tensor(odds)[None]).flatten()
        return int(allowed[int(worth[torch.as_tensor(allowed)].argmax())])

    def odds(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns the posterior's mean of P(weak) of every arm, shape (arms,); draws nothing."""
        return self._draw(observation, spread=0.0).reshape(-1)

    def worth(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns what arms are worth per minute by the posterior's mean, shape (arms,); draws nothing."""
        seen = {name: torch.as_tensor(values)[None] for name, values in observation.items()}
        worth = worth_per_minute(seen, torch.as_tensor(self._draw(observation, spread=0.0))[None])
        numbers: npt.NDArray[np.float64] = worth.flatten().double().numpy()
        return numbers

    def _draw(self, observation: Observation, *, spread: float = 1.0) -> npt.NDArray[np.float64]:
        """Draws P(weak) of every arm from the posterior, shape (C, K, L); its mean where the spread is nought."""
        prior = self._prior
        shared, prior_sd = _design(observation, prior)
        levels = observation["arms"].shape[2]
        arms, of_shared = shared.shape
        random = self._random if spread else np.random.default_rng(0)
        tries = np.stack([observed(observation, name) for name in ("weakness", "resilient")], -1).reshape(-1, 2) * MANY
        decided = tries.sum(1)
        seen = np.flatnonzero(decided > 0)
        drawn = spread * random.standard_normal(of_shared + arms // levels + arms)
        weights = prior_sd * drawn[:of_shared]
        of_cell = prior.kind_sd * drawn[of_shared : of_shared + arms // levels]
        of_arm = prior.arm_sd * drawn[of_shared + arms // levels :]
        if len(seen):
            # A draw from the prior, corrected by what was seen, is a draw from the posterior (Matheron's rule; Wilson
            # et al., "Efficiently sampling functions from Gaussian process posteriors", ICML 2020). It takes a system
            # as large as the number of arms tried, and not as large as the number of weights.
            rows, cells, noise_sd = shared[seen], seen // levels, prior.noise_sd / np.sqrt(decided[seen])
            guess = prior.mean + rows @ weights + of_cell[cells] + of_arm[seen]
            surprise = tries[seen, 0] / decided[seen] - guess
            surprise -= spread * noise_sd * random.standard_normal(len(seen))
            gram = (rows * prior_sd**2) @ rows.T + prior.kind_sd**2 * (cells[:, None] == cells)
            told = np.linalg.solve(gram + np.diag(prior.arm_sd**2 + noise_sd**2), surprise)
            weights = weights + prior_sd**2 * (rows.T @ told)
            of_cell += prior.kind_sd**2 * np.bincount(cells, told, len(of_cell))
            of_arm[seen] += prior.arm_sd**2 * told
        guess = prior.mean + shared @ weights + of_cell.repeat(levels) + of_arm
        odds: npt.NDArray[np.float64] = np.clip(guess, 0.01, 0.99).reshape(observation["arms"].shape[:3])
        return _no_milder_than_resilient(odds, observation)


def _design(observation: Observation, prior: Prior) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns what arms have in common, shape (arms, features), and each weight's prior standard deviation.

    Beside these, every arm has an effect of its own, and so has every (component, kind): columns with a single number
    in a row, and as many as there are arms.
    """
    components, arms = observation["components"], observation["arms"]
    shape = arms.shape[:3]
    roles = components[:, : len(ROLES) + 1]
    families = arms[..., : len(FAMILIES)]
    role_family = np.einsum("cr,cklf->cklrf", roles, families).reshape(*shape, -1)
    others = [
        np.broadcast_to(components[:, None, None, COMPONENT_FEATURES.index(name), None], (*shape, 1))
        for name in ("redundant", "dependents_share")
    ] + [observed(observation, name)[..., None] for name in ("whole_component", "latent", "intensity")]
    features = np.concatenate([role_family, *others], -1).reshape(-1, role_family.shape[-1] + len(others))
    prior_sd = np.concatenate([np.full(role_family.shape[-1], prior.role_sd), np.full(len(others), prior.shared_sd)])
    return features.astype(np.float64), prior_sd


def _no_milder_than_resilient(odds: npt.NDArray[np.float64], observation: Observation) -> npt.NDArray[np.float64]:
    """Lowers the odds of levels below one that was borne: what survives more survives less."""
    borne = (observed(observation, "resilient") > 0) & (observed(observation, "weakness") == 0)
    borne_above = np.flip(np.logical_or.accumulate(np.flip(borne, -1), -1), -1)
    return np.where(borne_above, 0.1 * odds, odds)
