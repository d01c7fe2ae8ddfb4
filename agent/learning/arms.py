"""What a learned policy looks at for one arm: the arm, its component, what was tried around it, and what is left.

All of it is attributes and counts, never an index: a cluster of any size and a kind of fault that came later are
described by the same numbers. Shapes: B clusters, C components, K fault kinds, L levels, A = C * K * L arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from envs.encoding import BUDGET_FEATURES, COMPONENT_FEATURES, FAMILIES, OBSERVED_ARM, ROLES

_AROUND: Final = (
    "weaker_showed",
    "stronger_was_borne",
    "effect_of_kind",
    "weak_in_role",
    "resilient_in_role",
    "confirmed_in_role",
    "weak_in_family_here",
    "resilient_in_family_here",
    "weak_here",
    "resilient_here",
    "confirmed_here",
    "weak_of_kind",
    "resilient_of_kind",
    "weak_in_cluster",
    "resilient_in_cluster",
    "weak_dependencies",
    "weak_dependents",
    "dependency_hit_lately",
    "many_components",
)
"""Beside what the observation says of an arm and of its component: what was seen on its like, and on its neighbours."""

ARM_INPUTS: Final = (*COMPONENT_FEATURES, *OBSERVED_ARM, *BUDGET_FEATURES, *_AROUND)

_ROLES = len(ROLES) + 1
_C = {name: index for index, name in enumerate(OBSERVED_ARM)}


class Surroundings:
    """Everything that arms of a batch share, computed once per observation.

    Args:
        seen: an observation with a batch dimension; see `envs.encoding.seen`.
    """

    def __init__(self, seen: Mapping[str, torch.Tensor]) -> None:
        self.components, self.graph, self.arms, self.budget = (
            seen[name] for name in ("components", "graph", "arms", "budget")
        )
        role = self.components[..., :_ROLES]
        inside = role.sum(-1)
        family = self.arms[0, 0, :, 0, : len(FAMILIES)]  # (K, families)
        weak, resilient, confirmed, effect = (
            self.arms[..., _C[name]] for name in ("weakness", "resilient", "confirmed", "effect_last")
        )
        kinds = {"weak": weak.sum(-1), "resilient": resilient.sum(-1), "confirmed": confirmed.amax(-1)}  # (B, C, K)
        in_role = {name: _among_others(role, of) for name, of in kinds.items()}
        in_family = {name: (kinds[name] @ family) @ family.T - kinds[name] for name in ("weak", "resilient")}
        here = {name: of.sum(-1, keepdim=True) for name, of in kinds.items()}  # (B, C, 1)
        of_kind = {name: kinds[name].sum(1, keepdim=True) - kinds[name] for name in ("weak", "resilient")}
        size = inside.sum(1)[:, None, None].clamp(min=1.0)
        degree = self.graph.sum(-1).clamp(min=1.0)[..., None]
        in_degree = self.graph.sum(1).clamp(min=1.0)[..., None]
        lately = 1.0 - self.arms[..., _C["minutes_since"]].amin((-1, -2))
        shape = kinds["weak"].shape
        per_kind = [
            effect.amax(-1),
            in_role["weak"],
            in_role["resilient"],
            in_role["confirmed"].clamp(max=1.0),
            in_family["weak"],
            in_family["resilient"],
            here["weak"],
            here["resilient"],
            here["confirmed"],
            of_kind["weak"],
            of_kind["resilient"],
            8.0 * here["weak"].sum(1, keepdim=True) / size,
            8.0 * here["resilient"].sum(1, keepdim=True) / size,
            self.graph @ here["weak"] / degree,
            self.graph.transpose(1, 2) @ here["weak"] / in_degree,
            (self.graph * lately[:, None, :]).amax(-1)[..., None],
            inside.sum(1)[:, None, None].log2() / 6.0,
        ]
        self._per_kind = torch.stack([of.expand(shape) for of in per_kind], dim=-1)  # (B, C, K, …)
        below = weak.cumsum(-1) - weak
        above = resilient.flip(-1).cumsum(-1).flip(-1) - resilient
        self._per_level = torch.stack([below, above], dim=-1)  # (B, C, K, L, 2)

    def inputs(self, rows: torch.Tensor, arms: torch.Tensor) -> torch.Tensor:
        """Returns the inputs of chosen arms.

        Args:
            rows: of which clusters, int64, shape (N,).
            arms: which of their arms, int64, shape (N,).

        Returns:
            Shape (N, len(ARM_INPUTS)).
        """
        _, kinds, levels = self.arms.shape[1:4]
        component, rest = arms // (kinds * levels), arms % (kinds * levels)
        kind, level = rest // levels, rest % levels
        parts = (
            self.components[rows, component],
            self.arms[rows, component, kind, level],
            self.budget[rows],
            self._per_level[rows, component, kind, level],
            self._per_kind[rows, component, kind],
        )
        return torch.cat(parts, dim=-1)


def _among_others(role: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Returns sums over the other components of the same role, shape as given, (B, C, K)."""
    return role @ (role.transpose(1, 2) @ of) - of
