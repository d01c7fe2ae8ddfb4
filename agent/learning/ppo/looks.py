"""What the PPO policy looks at: components with what was tried on each kind, and the arms of the one that is chosen.

Shapes: N states, C components, K fault kinds, L levels, M = K * L arms of one component.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch

from envs.encoding import ARM_FEATURES, ROLES
from envs.history import BY_KIND, COLUMN, HISTORY_FEATURES, IN_ROLE, LONG_MIN, as_seen, by_kind, in_role
from envs.simulator.campaigns import Campaigns

STATS: Final = (*BY_KIND, *IN_ROLE)
"""What is known of one kind of fault on one component, all levels together, and on others of its role."""

_ROLES = len(ROLES) + 1
LATELY_MIN: Final = (1.0, 5.0)
"""How lately something was is seen on these scales: the one of a cool-down, and the one of a weakness that shows only
beside another fault."""


class Looks(NamedTuple):
    """States to choose in.

    Attributes:
        components: features, shape (N, C, features).
        graph: 1 where the row's component depends on the column's, shape (N, C, C).
        kinds: what is known of kinds on components, shape (N, C, K, len(BY_KIND)). What is allowed is not among it: SB3
            asks what a state is worth without saying what is masked in it.
        in_role: what is known of them on others of the role, shape (N, C, K, len(IN_ROLE)).
        lately: how lately components were hit, 1 just now and falling by e with every scale of `LATELY_MIN`, shape
            (N, C, len(LATELY_MIN)).
        budget: shape (N, features).
        history: of every arm, shape (N, C, M, len(HISTORY_FEATURES)).
        open: which arms are allowed, shape (N, C, M), bool.
        able: which components have one, shape (N, C), bool.
        bets: what a teacher gives for every arm, shape (N, C, M): the logarithm of its worth per minute, 0 for the best
            one that is allowed. All of it 0 without a teacher, shape (N, 1, 1).
        now_h: the campaigns' clocks where the history is as it is kept, None where it is as it is seen; see
            `envs.history.as_seen`.
    """

    components: torch.Tensor
    graph: torch.Tensor
    kinds: torch.Tensor
    in_role: torch.Tensor
    lately: torch.Tensor
    budget: torch.Tensor
    history: torch.Tensor
    open: torch.Tensor
    able: torch.Tensor
    bets: torch.Tensor
    now_h: torch.Tensor | None = None

    def at(self, component: torch.Tensor) -> Kept:
        """Returns no more than it takes to judge the choice of one component in each state, int64, shape (N,)."""
        row = torch.arange(len(component), device=component.device)
        history = self.history[row, component]
        return Kept(
            self.components,
            self.graph,
            self.kinds,
            self.lately,
            self.budget,
            self.able,
            self.bets.amax(-1),
            self.bets[row, component if self.bets.shape[1] > 1 else 0],
            torch.cat([self.kinds[row, component], self.in_role[row, component]], dim=-1),
            history if self.now_h is None else as_seen(history, self.now_h),
            self.open[row, component],
            self.budget[:, :0],
        )


class Kept(NamedTuple):
    """What a rollout keeps of a state: that of all components, and the arms of the one that was chosen.

    Attributes:
        components, graph, kinds, lately, budget: as in `Looks`.
        able: which components have an arm that is allowed, shape (N, C), bool.
        best_bets: of `bets`, the best of every component, shape (N, C); (N, 1) without a teacher.
        bets: on arms of the chosen component, shape (N, M); (N, 1) without a teacher.
        here: what is known of kinds on the chosen component, shape (N, K, len(STATS)).
        history: of its arms, shape (N, M, len(HISTORY_FEATURES)).
        open: which of these are allowed, shape (N, M), bool.
        outlook: what only a critic may know, see `Campaigns.outlook`; shape (N, 0) where it does not.
    """

    components: torch.Tensor
    graph: torch.Tensor
    kinds: torch.Tensor
    lately: torch.Tensor
    budget: torch.Tensor
    able: torch.Tensor
    best_bets: torch.Tensor
    bets: torch.Tensor
    here: torch.Tensor
    history: torch.Tensor
    open: torch.Tensor
    outlook: torch.Tensor


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
    kinds = by_kind(history)
    others = in_role(components[..., :_ROLES], kinds)
    lately = _lately(history[..., COLUMN["minutes_since"]].flatten(2).amin(-1))
    return Looks(
        components,
        seen["graph"],
        kinds,
        others,
        lately,
        seen["budget"],
        flat,
        allowed,
        allowed.any(-1),
        torch.zeros((n, 1, 1), device=arms.device),
    )


def looks_on(campaigns: Campaigns) -> Looks:
    """Returns what the policy looks at in simulated campaigns: the same, and nothing large is read or copied.

    It is a view: with the next step it shows the next states.
    """
    state = campaigns.state
    n, c, k, levels = state.available.shape
    return Looks(
        state.components,
        state.graph,
        campaigns.by_kind,
        campaigns.in_role,
        _lately(state.now_h[:, None] - campaigns.hit_at_h),
        state.budget.clamp(0.0, 1.0),
        state.history.view(n, c, k * levels, len(HISTORY_FEATURES)),
        state.available.view(n, c, k * levels),
        campaigns.able,
        torch.zeros((n, 1, 1), device=campaigns.device),
        state.now_h,
    )


def _lately(ago_h: torch.Tensor) -> torch.Tensor:
    # What is long ago, and never, is seen as an hour.
    ago = ago_h.clamp(max=1.0)
    return torch.stack([(-ago * (LONG_MIN / scale)).exp() for scale in LATELY_MIN], dim=-1)
