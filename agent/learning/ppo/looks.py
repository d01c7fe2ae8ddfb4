"""What the PPO policy looks at: components with what was tried on each kind, and the arms of the one that is chosen.

Shapes: N states, C components, K fault kinds, L levels, M = K * L arms of one component.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch

from envs.encoding import ARM_FEATURES, ROLES
from envs.history import BY_KIND, HISTORY_FEATURES, as_seen, by_kind
from envs.simulator.campaigns import Campaigns

STATS: Final = (*BY_KIND, *(f"{name}_in_role" for name in BY_KIND[:3]))
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
        history: of every arm, shape (N, C, M, len(HISTORY_FEATURES)).
        open: which arms are allowed, shape (N, C, M), bool.
        now_h: the campaigns' clocks where the history is as it is kept, None where it is as it is seen; see
            `envs.history.as_seen`.
    """

    components: torch.Tensor
    graph: torch.Tensor
    stats: torch.Tensor
    budget: torch.Tensor
    history: torch.Tensor
    open: torch.Tensor
    now_h: torch.Tensor | None = None

    def at(self, component: torch.Tensor) -> Kept:
        """Returns no more than it takes to judge the choice of one component in each state, int64, shape (N,)."""
        row = torch.arange(len(component), device=component.device)
        history = self.history[row, component]
        return Kept(
            self.components,
            self.graph,
            self.stats,
            self.budget,
            self.open.any(-1),
            history if self.now_h is None else as_seen(history, self.now_h),
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

    flat = history.reshape(n, c, k * levels, len(HISTORY_FEATURES))
    stats = _with_others_of_role(components, by_kind(history))
    return Looks(components, seen["graph"], stats, seen["budget"], flat, allowed)


def looks_on(campaigns: Campaigns) -> Looks:
    """Returns what the policy looks at in simulated campaigns: the same, and nothing large is read or copied."""
    state, masks = campaigns.state, campaigns.masks()
    n, c, k, levels = state.available.shape
    return Looks(
        state.components.clone(),
        state.graph.clone(),
        _with_others_of_role(state.components, campaigns.by_kind),
        state.budget.clamp(0.0, 1.0),
        state.history.view(n, c, k * levels, len(HISTORY_FEATURES)),
        masks[:, :-1].reshape(n, c, k * levels),
        state.now_h,
    )


def _with_others_of_role(components: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Adds to what is known of kinds, shape (N, C, K, …), what is known of them on others of the role."""
    n, c, k, _ = kinds.shape
    role = components[..., :_ROLES]
    counts = kinds[..., :3].reshape(n, c, k * 3)
    others = role @ (role.transpose(1, 2) @ counts) - counts
    return torch.cat([kinds, others.view(n, c, k, 3)], dim=-1)
