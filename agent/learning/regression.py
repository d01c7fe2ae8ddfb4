"""What clusters show of themselves: a Bayesian guess at every arm's odds, learned across the arms of each cluster.

Bayesian linear regression of "was a weakness" on attributes that arms share (role, family, intensity, redundancy) plus
one random effect per (component, kind) and per arm, so that what a cell showed counts most for itself, less for its
siblings, and least for its family. It takes nothing for granted that other clusters have shown.

Shapes: B clusters, C components, K fault kinds, L levels, A = C * K * L arms, R roles, T arms that were tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from envs.encoding import COMPONENT_FEATURES, ROLES
from envs.history import MANY

from .arms import Arms

_ROLES = len(ROLES) + 1
_OF_COMPONENT = ("redundant", "dependents_share")
_OF_ARM = ("whole_component", "latent", "intensity")


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


def regressed(
    components: torch.Tensor, arms: Arms, prior: Prior, random: np.random.Generator | None = None
) -> torch.Tensor:
    """Returns P(weak) of every arm, by the posterior's mean or by one draw from it.

    Args:
        components: features, shape (B, C, len(COMPONENT_FEATURES)).
        arms: what is seen of every arm.
        prior: what is believed beforehand.
        random: draws, of one cluster alone; the mean is returned if not given.

    Returns:
        Shape (B, C, K, L), float64.
    """
    b, c, k, levels, _ = arms.history.shape
    design = _Design(components, arms, prior)
    weights, of_cell, of_arm = (
        torch.zeros((b, size), dtype=torch.float64, device=components.device)
        for size in (len(design.prior_sd), c * k, c * k * levels)
    )
    if random is not None:
        drawn = torch.from_numpy(random.standard_normal(weights.numel() + of_cell.numel() + of_arm.numel()))
        parts = torch.split(drawn, [weights.numel(), of_cell.numel(), of_arm.numel()])
        weights, of_cell, of_arm = parts[0][None] * design.prior_sd, parts[1][None], parts[2][None]
        of_cell, of_arm = prior.kind_sd * of_cell, prior.arm_sd * of_arm
    tries = torch.stack([arms.known(name).flatten(1) for name in ("weakness", "resilient")], dim=-1).double() * MANY
    decided = tries.sum(-1)
    most = int((decided > 0).sum(1).max())
    if most:
        # A draw from the prior, corrected by what was seen, is a draw from the posterior (Matheron's rule; Wilson et
        # al., "Efficiently sampling functions from Gaussian process posteriors", ICML 2020). It takes a system as large
        # as the number of arms tried, and not as large as the number of weights.
        tried = decided.topk(most, dim=1).indices.sort(dim=1).values  # some that were not, where others tried more
        times, cells = decided.gather(1, tried), tried // levels
        known = times > 0
        noise_sd = prior.noise_sd / times.clamp(min=1.0).sqrt()
        rows = design.rows(tried) * known[..., None]
        own_effects = of_cell.gather(1, cells) + of_arm.gather(1, tried)
        guess = prior.mean + (rows @ weights[..., None]).squeeze(-1) + own_effects
        surprise = tries[..., 0].gather(1, tried) / times.clamp(min=1.0) - guess
        if random is not None:
            surprise -= noise_sd * torch.from_numpy(random.standard_normal(most))
        scaled = rows * design.prior_sd
        same_cell = (cells[:, :, None] == cells[:, None, :]) & known[:, :, None] & known[:, None, :]
        gram = scaled @ scaled.transpose(1, 2) + prior.kind_sd**2 * same_cell
        own = torch.where(known, prior.arm_sd**2 + noise_sd**2, 1.0)
        told = torch.linalg.solve(gram + torch.diag_embed(own), torch.where(known, surprise, 0.0))
        weights = weights + design.prior_sd**2 * (told[:, None] @ rows).squeeze(1)
        of_cell = of_cell.scatter_add(1, cells, prior.kind_sd**2 * told)
        of_arm = of_arm.scatter_add(1, tried, prior.arm_sd**2 * told)
    guess = prior.mean + design.times(weights) + of_cell.repeat_interleave(levels, dim=1) + of_arm
    return _no_milder_than_resilient(guess.clamp(0.01, 0.99).view(b, c, k, levels), arms)


class _Design:
    """What arms have in common, as a matrix that nobody has to put together: a row of it for every arm of a cluster.

    Beside these, every arm has an effect of its own, and so has every (component, kind): columns with a single number
    in a row, and as many as there are arms.

    Attributes:
        prior_sd: of each weight, shape (weights,): of roles and families, of components, of arms.
    """

    def __init__(self, components: torch.Tensor, arms: Arms, prior: Prior) -> None:
        self._role, self._family = components[..., :_ROLES].double(), arms.family.double()
        places = [COMPONENT_FEATURES.index(name) for name in _OF_COMPONENT]
        self._of_component = components[..., places].double()
        self._of_arm = torch.stack([arms.attribute(name) for name in _OF_ARM], dim=-1).double()
        both = _ROLES * self._family.shape[1]
        sd = [prior.role_sd] * both + [prior.shared_sd] * (len(_OF_COMPONENT) + len(_OF_ARM))
        self.prior_sd = torch.tensor(sd, dtype=torch.float64, device=components.device)
        self._sizes = [both, len(_OF_COMPONENT), len(_OF_ARM)]

    def rows(self, arms: torch.Tensor) -> torch.Tensor:
        """Returns the rows of some arms, shape (B, T, weights), for their numbers, int64, shape (B, T)."""
        kinds, levels = self._of_arm.shape[:2]
        row = torch.arange(len(arms), device=arms.device)[:, None]
        component, kind = arms // (kinds * levels), arms // levels % kinds
        of_both = self._role[row, component][..., :, None] * self._family[kind][..., None, :]
        of_arm = self._of_arm.flatten(0, 1)[arms % (kinds * levels)]
        return torch.cat([of_both.flatten(2), self._of_component[row, component], of_arm], dim=-1)

    def times(self, weights: torch.Tensor) -> torch.Tensor:
        """Returns the product of all rows with weights, shape (B, A), for weights of shape (B, weights)."""
        of_both, of_component, of_arm = torch.split(weights, self._sizes, dim=1)
        by_family = self._role @ of_both.view(len(weights), _ROLES, -1) @ self._family.T  # (B, C, K)
        by_component = (self._of_component @ of_component[..., None]).squeeze(-1)
        by_arm = torch.einsum("klf,bf->bkl", self._of_arm, of_arm)
        return (by_family[..., None] + by_component[..., None, None] + by_arm[:, None]).flatten(1)


def _no_milder_than_resilient(odds: torch.Tensor, arms: Arms) -> torch.Tensor:
    """Lowers the odds of levels below one that was borne: what survives more survives less."""
    borne = (arms.known("resilient") > 0) & (arms.known("weakness") == 0)
    borne_above = borne.flip(-1).cumsum(-1).flip(-1) > 0
    return torch.where(borne_above, 0.1 * odds, odds)
