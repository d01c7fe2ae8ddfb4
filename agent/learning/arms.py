"""What a learned policy looks at for one arm: the arm, its component, what was tried around it, and what is left.

All of it is attributes and counts, never an index: a cluster of any size and a kind of fault that came later are
described by the same numbers. Shapes: B clusters, C components, K fault kinds, L levels, A = C * K * L arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from envs.encoding import ARM_FEATURES, BUDGET_FEATURES, COMPONENT_FEATURES, FAMILIES, OBSERVED_ARM, ROLES
from envs.history import BY_KIND, COLUMN, as_seen
from envs.simulator.campaigns import Campaigns

_AROUND: Final = (
    "weaker_showed",
    "stronger_was_borne",
    "effect_of_kind",
    "weak_in_role",
    "resilient_in_role",
    "confirmed_in_role",
    "weak_in_family_here",
    "resilient_in_family_here",
    "weak_in_family",
    "resilient_in_family",
    "weak_in_family_and_role",
    "resilient_in_family_and_role",
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
    "entrance",
    "behind_entrance",
    "from_entrance",
    "behind_gateway",
)
"""Beside what the observation says of an arm and of its component: what was seen on its like, and on its neighbours;
and how near its trouble is to the users of the cluster."""

ARM_INPUTS: Final = (*COMPONENT_FEATURES, *OBSERVED_ARM, *BUDGET_FEATURES, *_AROUND)

_ROLES = len(ROLES) + 1
_OF_KINDS = ("weakness", "resilient", "confirmed", "effect_last")
_GATEWAY = COMPONENT_FEATURES.index("role_gateway")
_FARTHEST = 8
"""Hops behind the entrance that are told apart; whatever is not behind it counts as so far away."""


@dataclass(frozen=True, slots=True)
class Arms:
    """What is seen of every arm, put together only where it is asked for: all of it is large.

    Attributes:
        attributes: of kinds and levels, shape (K, L, len(ARM_FEATURES)).
        history: of every arm, shape (B, C, K, L, len(HISTORY_FEATURES)).
        now_h: the campaigns' clocks where the history is as it is kept, None where it is as it is seen; see
            `envs.history.as_seen`.
    """

    attributes: torch.Tensor
    history: torch.Tensor
    now_h: torch.Tensor | None = None

    @classmethod
    def of(cls, seen: Mapping[str, torch.Tensor]) -> Arms:
        """Returns the arms of an observation with a batch dimension; see `envs.encoding.seen`."""
        arms = seen["arms"]
        return cls(arms[0, 0, ..., : len(ARM_FEATURES)], arms[..., len(ARM_FEATURES) :])

    @property
    def family(self) -> torch.Tensor:
        """Of every kind, one hot, shape (K, families)."""
        return self.attributes[:, 0, : len(FAMILIES)]

    def attribute(self, name: str) -> torch.Tensor:
        """Returns an attribute of every kind and level, shape (K, L)."""
        return self.attributes[..., ARM_FEATURES.index(name)]

    def known(self, name: str) -> torch.Tensor:
        """Returns a number of every arm's history but how long ago it was, shape (B, C, K, L)."""
        return self.history[..., COLUMN[name]]

    def rows(self, rows: torch.Tensor, arms: torch.Tensor) -> torch.Tensor:
        """Returns all that is seen of chosen arms, shape (N, len(OBSERVED_ARM)); see `Surroundings.inputs`."""
        b, c, k, levels, _ = self.history.shape
        chosen = self.history.reshape(b, c * k * levels, -1)[rows, arms]
        if self.now_h is not None:
            chosen = as_seen(chosen, self.now_h[rows])
        return torch.cat([self.attributes.flatten(0, 1)[arms % (k * levels)], chosen], dim=-1)


class Surroundings:
    """Everything that arms of a batch share, computed once per observation.

    Attributes:
        components: features, shape (B, C, len(COMPONENT_FEATURES)).
        arms: what is seen of every arm.
        lately: how lately components were hit, 1 just now and 0 an hour ago, shape (B, C).

    Args:
        components: see above.
        graph: 1 where the row's component depends on the column's, shape (B, C, C).
        budget: shape (B, len(BUDGET_FEATURES)).
        arms: see above.
        kinds: what is known of kinds on components, all levels together, shape (B, C, K) each.
        lately: see above.
    """

    def __init__(
        self,
        components: torch.Tensor,
        graph: torch.Tensor,
        budget: torch.Tensor,
        arms: Arms,
        kinds: Mapping[str, torch.Tensor],
        lately: torch.Tensor,
    ) -> None:
        self.components, self.arms, self.lately, self._budget = components, arms, lately, budget
        role = components[..., :_ROLES]
        inside = role.sum(-1)
        family = arms.family
        weak, resilient, confirmed = (kinds[name] for name in ("weakness", "resilient", "confirmed"))
        in_role = {name: _among_others(role, kinds[name]) for name in ("weakness", "resilient", "confirmed")}
        families = {name: (kinds[name] @ family) @ family.T for name in ("weakness", "resilient")}
        in_family = {name: of - kinds[name] for name, of in families.items()}
        elsewhere = {name: of.sum(1, keepdim=True) - of for name, of in families.items()}
        alike = {name: _among_others(role, of) for name, of in families.items()}
        weak_here, resilient_here, confirmed_here = (of.sum(-1, keepdim=True) for of in (weak, resilient, confirmed))
        size = inside.sum(1)[:, None, None].clamp(min=1.0)
        degree = graph.sum(-1).clamp(min=1.0)[..., None]
        in_degree = graph.sum(1).clamp(min=1.0)[..., None]
        per_kind = [
            kinds["effect_last"],
            in_role["weakness"],
            in_role["resilient"],
            in_role["confirmed"].clamp(max=1.0),
            in_family["weakness"],
            in_family["resilient"],
            elsewhere["weakness"],
            elsewhere["resilient"],
            alike["weakness"],
            alike["resilient"],
            weak_here,
            resilient_here,
            confirmed_here,
            weak.sum(1, keepdim=True) - weak,
            resilient.sum(1, keepdim=True) - resilient,
            8.0 * weak_here.sum(1, keepdim=True) / size,
            8.0 * resilient_here.sum(1, keepdim=True) / size,
            graph @ weak_here / degree,
            graph.transpose(1, 2) @ weak_here / in_degree,
            (graph * lately[:, None, :]).amax(-1)[..., None],
            inside.sum(1)[:, None, None].log2() / 6.0,
            *_from_users(components[..., _GATEWAY], graph),
        ]
        self._per_kind = torch.stack([of.expand(weak.shape) for of in per_kind], dim=-1)  # (B, C, K, …)
        weak_at, resilient_at = arms.known("weakness"), arms.known("resilient")
        below = weak_at.cumsum(-1) - weak_at
        above = resilient_at.flip(-1).cumsum(-1).flip(-1) - resilient_at
        self._per_level = torch.stack([below, above], dim=-1)  # (B, C, K, L, 2)

    @classmethod
    def of(cls, seen: Mapping[str, torch.Tensor]) -> Surroundings:
        """Returns those of an observation with a batch dimension; see `envs.encoding.seen`."""
        arms = Arms.of(seen)
        kinds = {name: arms.known(name).sum(-1) for name in ("weakness", "resilient")}
        kinds |= {name: arms.known(name).amax(-1) for name in ("confirmed", "effect_last")}
        lately = 1.0 - arms.known("minutes_since").amin((-1, -2))
        return cls(seen["components"], seen["graph"], seen["budget"], arms, kinds, lately)

    @classmethod
    def on(cls, campaigns: Campaigns) -> Surroundings:
        """Returns the same of simulated campaigns, by what they keep up to date; valid until their next step."""
        state = campaigns.state
        kinds = {name: campaigns.by_kind[..., BY_KIND.index(name)] for name in _OF_KINDS}
        ago_h = torch.where(campaigns.hit_at_h < 0.0, 1.0, state.now_h[:, None] - campaigns.hit_at_h)
        arms = Arms(state.arms, state.history, state.now_h)
        lately = 1.0 - ago_h.clamp(max=1.0)
        return cls(state.components, state.graph, state.budget.clamp(0.0, 1.0), arms, kinds, lately)

    def inputs(self, rows: torch.Tensor, arms: torch.Tensor) -> torch.Tensor:
        """Returns the inputs of chosen arms.

        Args:
            rows: of which clusters, int64, shape (N,).
            arms: which of their arms, int64, shape (N,).

        Returns:
            Shape (N, len(ARM_INPUTS)).
        """
        kinds, levels = self.arms.history.shape[2:4]
        component, rest = arms // (kinds * levels), arms % (kinds * levels)
        kind, level = rest // levels, rest % levels
        parts = (
            self.components[rows, component],
            self.arms.rows(rows, arms),
            self._budget[rows],
            self._per_level[rows, component, kind, level],
            self._per_kind[rows, component, kind],
        )
        return torch.cat(parts, dim=-1)


def _among_others(role: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Returns sums over the other components of the same role, shape as given, (B, C, K)."""
    return role @ (role.transpose(1, 2) @ of) - of


def _from_users(gateways: torch.Tensor, graph: torch.Tensor) -> list[torch.Tensor]:
    """Returns how near components are to whoever uses the cluster, four of shape (B, C, 1).

    Whether they are an entrance, a gateway that nobody in the cluster calls, or any gateway where all are called;
    whether an entrance calls them; how many hops they are behind it, in eighths; and whether any gateway needs them.
    """
    uncalled = gateways * (graph.amax(1) == 0)
    entrance = torch.where(uncalled.amax(1, keepdim=True) > 0, uncalled, gateways)
    needs = graph.transpose(1, 2)  # row: a component, column: who calls it
    hops = torch.where(entrance > 0, 0.0, 1.0)
    reached, behind = entrance[..., None], gateways[..., None]
    for hop in range(1, _FARTHEST):
        reached = torch.maximum(reached, (needs @ reached > 0).to(reached.dtype))
        behind = torch.maximum(behind, (needs @ behind > 0).to(behind.dtype))
        hops = torch.where((reached[..., 0] > 0) & (hops == 1.0), hop / _FARTHEST, hops)
    called = (needs @ entrance[..., None] > 0).to(reached.dtype)
    return [entrance[..., None], called, hops[..., None], behind]
