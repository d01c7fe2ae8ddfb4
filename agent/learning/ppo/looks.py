"""What the PPO policy looks at: components with what was tried on each kind, and the arms of the one that is chosen.

Shapes: N states, C components, K fault kinds, L levels, M = K * L arms of one component.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch

from envs.encoding import ARM_FEATURES, ROLES
from envs.history import COLUMN, HISTORY_FEATURES

STATS: Final = (
    "weak",
    "resilient",
    "confirmed",
    "evidence",
    "effect",
    "weak_in_role",
    "resilient_in_role",
    "confirmed_in_role",
)
"""What is known of one kind of fault on one component, all levels together, and on others of its role.

What is allowed is not among it: SB3 asks what a state is worth without saying what is masked in it."""

_ROLES = len(ROLES) + 1


class Looks(NamedTuple):
    """States to choose in.

    Attributes:
        components: features, shape (N, C, features).
        graph: 1 where the row's component depends on the column's, shape (N, C, C).
        stats: shape (N, C, K, len(STATS)).
        budget: shape (N, features).
        history: of every arm as it is seen, shape (N, C, M, len(HISTORY_FEATURES)).
        open: which arms are allowed, shape (N, C, M), bool.
    """

    components: torch.Tensor
    graph: torch.Tensor
    stats: torch.Tensor
    budget: torch.Tensor
    history: torch.Tensor
    open: torch.Tensor

    def at(self, component: torch.Tensor) -> Kept:
        """Returns no more than it takes to judge the choice of one component in each state, int64, shape (N,)."""
        row = torch.arange(len(component), device=component.device)
        return Kept(
            self.components,
            self.graph,
            self.stats,
            self.budget,
            self.open.any(-1),
            self.history[row, component],
            self.open[row, component],
        )


class Kept(NamedTuple):
    """What a rollout keeps of a state: that of all components, and the arms of the one that was chosen.

    Attributes:
        components, graph, stats, budget: as in `Looks`.
        open_components: which have an arm that is allowed, shape (N, C), bool.
        history: of the chosen component's arms, shape (N, M, len(HISTORY_FEATURES)).
        open: which of these are allowed, shape (N, M), bool.
    """

    components: torch.Tensor
    graph: torch.Tensor
    stats: torch.Tensor
    budget: torch.Tensor
    open_components: torch.Tensor
    history: torch.Tensor
    open: torch.Tensor


def looks_at(seen: Mapping[str, torch.Tensor], masks: torch.Tensor | None) -> Looks:
    """Returns what the policy looks at.

    Args:
        seen: an observation with a batch dimension; see `envs.encoding.seen`.
        masks: of all actions, shape (N, C * M + 1); everything is allowed if not given.
    """
    components, arms = seen["components"], seen["arms"]
    n, c, k, levels, _ = arms.shape
    history = arms[..., len(ARM_FEATURES) :]
    allowed = (
        torch.ones((n, c, k * levels), dtype=torch.bool, device=arms.device)
        if masks is None
        else masks[:, :-1].bool().view(n, c, k * levels)
    )

    def of(name: str) -> torch.Tensor:
        return history[..., COLUMN[name]]

    weak, resilient, confirmed = of("weakness").sum(-1), of("resilient").sum(-1), of("confirmed").amax(-1)
    role = components[..., :_ROLES]
    stats = torch.stack(
        [
            weak,
            resilient,
            confirmed,
            of("evidence").amax(-1),
            of("effect_last").amax(-1),
            *(role @ (role.transpose(1, 2) @ each) - each for each in (weak, resilient, confirmed)),
        ],
        dim=-1,
    )
    flat = history.reshape(n, c, k * levels, len(HISTORY_FEATURES))
    return Looks(components, seen["graph"], stats, seen["budget"], flat, allowed)
