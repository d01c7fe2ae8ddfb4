"""What one cluster teaches that all others did not: a small Bayesian regression on top of a frozen network's odds.

The network has learnt on simulated clusters how likely arms are weak. A real cluster may lack more, or in other places:
then its log-odds are off, by much the same for all arms of a role or of a family of faults. The head learns by how much
from each experiment, by a Gaussian approximation that is brought up to date one outcome at a time (assumed-density
filtering: Spiegelhalter and Lauritzen, "Sequential updating of conditional probabilities on directed graphical
structures", Networks 20, 1990). Before the first outcome it changes nothing.

Shapes: B clusters, C components, K fault kinds, L levels, A = C * K * L arms, F = len(HEAD_FEATURES).
"""

from __future__ import annotations

from typing import Final

import torch

from envs.encoding import FAMILIES, ROLES

from .arms import Surroundings

_ROLES = len(ROLES) + 1
HEAD_FEATURES: Final = ("any", *ROLES, "other", *FAMILIES)

PRIOR_SD: Final = 0.5
"""How far a cluster's log-odds are off, beforehand; chosen on simulated clusters that no comparison uses."""

_LARGEST = 12.0


class Head:
    """Corrects log-odds on B clusters.

    Args:
        prior_sd: standard deviation of every weight beforehand.
    """

    def __init__(self, prior_sd: float = PRIOR_SD) -> None:
        self._prior_sd = prior_sd
        self._mean = self._covariance = self._roles = self._odds = self._told = torch.empty(0)

    def corrected(self, around: Surroundings, odds: torch.Tensor) -> torch.Tensor:
        """Learns from what has been told since the last look, and returns corrected odds, shape (B, A).

        Args:
            around: what is seen; what was told before the first look is the network's business.
            odds: of the network, shape (B, A); 0 stays 0.
        """
        arms = around.arms
        told = torch.stack([arms.known(name).flatten(1) for name in ("weakness", "resilient")], dim=-1)
        of_component, of_kind = around.components[..., :_ROLES], arms.family
        if self._is_new(of_component, told):
            b, size = len(odds), len(HEAD_FEATURES)
            self._mean = torch.zeros((b, size), device=odds.device)
            self._covariance = (self._prior_sd**2 * torch.eye(size, device=odds.device)).repeat(b, 1, 1)
        else:
            self._learn(of_component, of_kind, told - self._told)
        # A copy: simulated campaigns that begin anew write over what this looks at.
        self._roles, self._odds, self._told = of_component.clone(), odds, told
        b, c, k, levels, _ = arms.history.shape
        any_, roles, families = self._mean[:, :1], self._mean[:, 1 : 1 + _ROLES], self._mean[:, 1 + _ROLES :]
        shift = (of_component @ roles[..., None]).view(b, c, 1, 1) + (families @ of_kind.T).view(b, 1, k, 1)
        shift = (shift + any_.view(b, 1, 1, 1)).expand(b, c, k, levels).flatten(1)
        return torch.where(odds > 0, (_logit(odds) + shift).sigmoid(), odds)

    def _is_new(self, roles: torch.Tensor, told: torch.Tensor) -> bool:
        """Tells whether this is the first look, or one at other clusters: roles stay, and nothing is untold."""
        if told.shape != self._told.shape or not torch.equal(roles, self._roles):
            return True
        return bool((told < self._told).any())

    def _learn(self, of_component: torch.Tensor, of_kind: torch.Tensor, news: torch.Tensor) -> None:
        """Learns from every arm of which more is known, one of each cluster after the other.

        Args:
            of_component: roles of components, shape (B, C, roles).
            of_kind: families of kinds, shape (K, families).
            news: how many more were told to be weak and resilient, shape (B, A, 2).
        """
        kinds = len(of_kind)
        levels = news.shape[1] // (of_component.shape[1] * kinds)
        row = torch.arange(len(news), device=news.device)
        left = (news > 0).any(-1) & (self._odds > 0)
        while bool(left.any()):
            decided, arm = left.max(1)
            left[row, arm] = False
            features = torch.cat(
                [
                    torch.ones_like(self._mean[:, :1]),
                    of_component[row, arm // (kinds * levels)],
                    of_kind[arm // levels % kinds],
                ],
                dim=1,
            )
            self._update(features, decided, self._odds[row, arm], (news[row, arm, 0] > 0).float())

    def _update(
        self, features: torch.Tensor, decided: torch.Tensor, thought: torch.Tensor, showed: torch.Tensor
    ) -> None:
        """Learns from one outcome on each cluster where there is one; shapes (B, F), (B,), (B,), (B,)."""
        spread = (self._covariance @ features[..., None]).squeeze(-1)
        p = (_logit(thought) + (self._mean * features).sum(-1)).sigmoid()
        information = p * (1.0 - p)
        gain = torch.where(decided, 1.0 / (1.0 + information * (features * spread).sum(-1)), 0.0)
        self._mean = self._mean + (gain * (showed - p))[:, None] * spread
        shrink = (gain * information)[:, None, None] * spread[:, :, None] * spread[:, None, :]
        self._covariance = self._covariance - shrink


def _logit(odds: torch.Tensor) -> torch.Tensor:
    return torch.logit(odds, eps=1e-6).clamp(-_LARGEST, _LARGEST)
