"""What one cluster teaches that all others did not: whether to believe in the others at all.

Either a cluster is like those that a network has learnt on, or nothing is known of it but what it shows of itself
(`regression`). Both foresee the outcome of every experiment, and by how well they did each is held to be likely; what
is believed of an arm is the average of what both believe of it, by that likelihood (Bayesian model averaging: Hoeting
et al., "Bayesian model averaging: a tutorial", Statistical Science 14, 1999).

Shapes: B clusters, C components, K fault kinds, L levels, A = C * K * L arms.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from envs.encoding import ROLES
from envs.history import MANY

from .arms import Surroundings
from .regression import Prior, regressed

ALIKE: Final = 0.5
"""How likely a cluster is like those that were learnt on, beforehand."""

_ROLES = len(ROLES) + 1
_LEAST = 1e-3
"""Nobody is so sure of an outcome that another one could not happen."""


class Head:
    """Corrects what a network believes of B clusters.

    Args:
        alike: how likely each is like those that the network has learnt on, beforehand.
    """

    def __init__(self, alike: float = ALIKE) -> None:
        self._beforehand = math.log(alike / (1.0 - alike))
        self._prior = Prior()
        self._alike = self._roles = self._told = self._thought = self._shown = torch.empty(0)

    @property
    def alike(self) -> torch.Tensor:
        """How likely each cluster is like those that were learnt on, shape (B,)."""
        return self._alike.sigmoid()

    def corrected(self, around: Surroundings, odds: torch.Tensor) -> torch.Tensor:
        """Learns from what has been told since the last look, and returns corrected odds, shape (B, A).

        Args:
            around: what is seen; what was told before the first look is the network's business.
            odds: of the network, shape (B, A); 0 stays 0.
        """
        arms = around.arms
        told = torch.stack([arms.known(name).flatten(1) for name in ("weakness", "resilient")], dim=-1)
        roles = around.components[..., :_ROLES]
        if self._is_new(roles, told):
            self._alike = torch.full((len(odds),), self._beforehand, device=odds.device)
        else:
            self._alike = self._alike + self._told_by(told - self._told)
        # A copy: simulated campaigns that begin anew write over what this looks at.
        self._roles, self._told, self._thought = roles.clone(), told, odds
        self._shown = regressed(around.components, arms, self._prior).flatten(1).to(odds.dtype)
        share = self.alike[:, None]
        return torch.where(odds > 0, share * odds + (1.0 - share) * self._shown, odds)

    def _is_new(self, roles: torch.Tensor, told: torch.Tensor) -> bool:
        """Tells whether this is the first look, or one at other clusters: roles stay, and nothing is untold."""
        if told.shape != self._told.shape or not torch.equal(roles, self._roles):
            return True
        return bool((told < self._told).any())

    def _told_by(self, news: torch.Tensor) -> torch.Tensor:
        """Returns how much more likely news are if a cluster is alike, as log-odds, shape (B,).

        Args:
            news: how many more experiments were told to be weak and resilient, in shares of `MANY`, shape (B, A, 2).
        """
        thought, shown = (each.clamp(_LEAST, 1.0 - _LEAST) for each in (self._thought, self._shown))
        weak, resilient = (news * MANY).round().unbind(-1)
        ratio = weak * (thought.log() - shown.log()) + resilient * ((1.0 - thought).log() - (1.0 - shown).log())
        return torch.where(self._thought > 0, ratio, 0.0).sum(1)
