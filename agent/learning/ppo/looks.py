"""What the PPO policy looks at: components with what was tried on each kind, and the arms of the one that is chosen.

Shapes: N states, C components, K fault kinds, L levels, M = K * L arms of one component.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch

from envs.encoding import ARM_FEATURES, COMPONENT_FEATURES, ROLES
from envs.history import BY_KIND, COLUMN, HISTORY_FEATURES, IN_ROLE, LONG_MIN, as_seen, by_kind, in_role
from envs.simulator.campaigns import Campaigns

STATS: Final = (*BY_KIND, *IN_ROLE)
"""What is known of one kind of fault on one component, all levels together, and on others of its role."""

_ROLES = len(ROLES) + 1
LATELY_MIN: Final = (1.0, 5.0)
"""How lately something was is seen on these scales: the one of a cool-down, and the one of a weakness that shows only
beside another fault."""

OWN: Final = len(COMPONENT_FEATURES)
LATELY: Final = OWN + len(LATELY_MIN)
TOGETHER: Final = LATELY + len(BY_KIND)
"""Where the parts of `Looks.each` end: features, how lately it was hit, and all kinds together; the rest is by kind."""


class Looks(NamedTuple):
    """States to choose in.

    Attributes:
        each: what is known of components, a row each, shape (N, C, TOGETHER + K * len(BY_KIND)): features, how lately
            they were hit (1 just now and falling by e with every scale of `LATELY_MIN`), and what is known of kinds of
            faults on them, first of all kinds together, then of each. What is allowed is not among it: SB3 asks what a
            state is worth without saying what is masked in it.
        graph: 1 where the row's component depends on the column's, shape (N, C, C).
        kinds: what is known of kinds on components, shape (N, C, K, len(BY_KIND)).
        in_role: what is known of them on others of the role, shape (N, C, K, len(IN_ROLE)).
        budget: shape (N, features).
        history: of every arm, shape (N, C, M, len(HISTORY_FEATURES)).
        open: which arms are allowed, shape (N, C, M), bool.
        able: which components have one, shape (N, C), bool.
        bets: what a teacher gives for every arm, shape (N, C, M): the logarithm of its worth per minute, 0 for the best
            one that is allowed. All of it 0 without a teacher, shape (N, 1, 1).
        now_h: the campaigns' clocks where the history is as it is kept, None where it is as it is seen; see
            `envs.history.as_seen`.
    """

    each: torch.Tensor
    graph: torch.Tensor
    kinds: torch.Tensor
    in_role: torch.Tensor
    budget: torch.Tensor
    history: torch.Tensor
    open: torch.Tensor
    able: torch.Tensor
    bets: torch.Tensor
    now_h: torch.Tensor | None = None

    def at(self, component: torch.Tensor) -> Kept:
        """Returns no more than it takes to judge the choice of one component in each state, int64, shape (N,)."""
        n, c, k = self.kinds.shape[:3]
        row = torch.arange(n, device=component.device)
        chosen = row * c + component

        def here(of: torch.Tensor) -> torch.Tensor:
            return of.flatten(0, 1).index_select(0, chosen)

        history = here(self.history)
        history = history if self.now_h is None else as_seen(history, self.now_h)
        return Kept(
            self.each,
            self.graph,
            self.budget,
            self.able,
            self.bets.amax(-1),
            self.bets[row, component if self.bets.shape[1] > 1 else 0],
            torch.cat([history.view(n, k, -1), here(self.kinds), here(self.in_role)], dim=-1),
            here(self.open),
            self.budget[:, :0],
            self.budget[:, :0],
            self.budget[:, :0],
        )


class Kept(NamedTuple):
    """What a rollout keeps of a state: that of all components, and the arms of the one that was chosen.

    Attributes:
        each, graph, budget: as in `Looks`.
        able: which components have an arm that is allowed, shape (N, C), bool.
        best_bets: of `bets`, the best of every component, shape (N, C); (N, 1) without a teacher.
        bets: on arms of the chosen component, shape (N, M); (N, 1) without a teacher.
        here: what is known of kinds on the chosen component, shape (N, K, L * len(HISTORY_FEATURES) + len(STATS)): the
            history of every level, one after the other, and what is known of all of them together.
        open: which of its arms are allowed, shape (N, M), bool.
        outlook: what only a critic may know, see `Campaigns.outlook`; shape (N, 0) where it does not.
        usual, usual_here: log-probabilities of components and of the chosen one's arms by the policy at the other end
            of a leash, see `SetPolicy.leashed_to`, shape (N, C + 1) and (N, M); (N, 0) where there is none.
    """

    each: torch.Tensor
    graph: torch.Tensor
    budget: torch.Tensor
    able: torch.Tensor
    best_bets: torch.Tensor
    bets: torch.Tensor
    here: torch.Tensor
    open: torch.Tensor
    outlook: torch.Tensor
    usual: torch.Tensor
    usual_here: torch.Tensor


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
        _each(components, lately, kinds),
        seen["graph"],
        kinds,
        others,
        seen["budget"],
        flat,
        allowed,
        allowed.any(-1),
        torch.zeros((n, 1, 1), device=arms.device),
    )


def looks_on(campaigns: Campaigns) -> Looks:
    """Returns what the policy looks at in simulated campaigns: the same, and nothing large is read or copied.

    Most of it is a view: with the next step it shows the next states.
    """
    state = campaigns.state
    n, c, k, levels = state.available.shape
    return Looks(
        _each(state.components, _lately(state.now_h[:, None] - campaigns.hit_at_h), campaigns.by_kind),
        state.graph,
        campaigns.by_kind,
        campaigns.in_role,
        state.budget.clamp(0.0, 1.0),
        state.history.view(n, c, k * levels, len(HISTORY_FEATURES)),
        state.available.view(n, c, k * levels),
        campaigns.able,
        torch.zeros((n, 1, 1), device=campaigns.device),
        state.now_h,
    )


def _each(components: torch.Tensor, lately: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Returns what is known of components in a row each; see `Looks`."""
    flat = kinds.flatten(2)
    # A product, for a sum over the middle is many times slower.
    together = flat @ torch.eye(kinds.shape[-1], device=kinds.device).repeat(kinds.shape[2], 1)
    return torch.cat([components, lately, together, flat], dim=-1)


def _lately(ago_h: torch.Tensor) -> torch.Tensor:
    # What is long ago, and never, is seen as an hour.
    ago = ago_h.clamp(max=1.0)
    return torch.stack([(-ago * (LONG_MIN / scale)).exp() for scale in LATELY_MIN], dim=-1)
