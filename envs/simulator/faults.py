"""What kinds of fault come to on simulated components: which can be tried, how strong they are, what is seen of them.

Shapes: N clusters, C places for components, K fault kinds, L levels, R + 1 numbers of replicas.
"""

from __future__ import annotations

from typing import Final

import torch

from actuators.catalogue import CATALOGUE, LEVELS, instances_hit
from actuators.fault_kind import FaultKind
from safety.limits import Limits

from ..protections import ALL_ROLES

KINDS: Final = tuple(CATALOGUE)

REPLICAS: Final = torch.tensor([1, 2, 3, 4, 6, 8])
_CAPABILITIES = {
    "Nodes": ("model-server", "trainer"),
    "Datasets": ("stream",),
    "Checkpoints": ("trainer",),
    "Registry": ("model-server",),
    "Gpus": ("trainer",),
}
_OF_ITS_FAMILY, _OF_ANOTHER, _ON_A_ROLE, _ON_ONE_OF_IT = 0.6, 0.05, 0.35, 0.8
"""Odds that what is in no list answers a kind of fault of its own family, and of another; that a role needs it; that a
component of that role lacks it."""

_LIMITS = Limits(max_instances=1, max_share=0.25)
"""The blast radius of the packaged settings."""

_SEEN_AT_ONCE = ("pod.kill", "pod.pause", "pod.node_kill")
_SEEN = {"network": 0.35, "data": 0.3, "model": 0.6}
_FELT_FROM = 0.3


def available(role: torch.Tensor, replicas: torch.Tensor, graph: torch.Tensor, has_gpu: torch.Tensor) -> torch.Tensor:
    """Returns which arms exist, differ from a milder one and are within the usual limits, shape (N, C, K, L), bool."""
    capable = torch.ones((*role.shape, len(KINDS)), dtype=torch.bool)
    for index, kind in enumerate(CATALOGUE.values()):
        if kind.capability == "Network":
            capable[..., index] = graph.any(1)
        elif kind.capability in _CAPABILITIES:
            roles = [ALL_ROLES.index(name) for name in _CAPABILITIES[kind.capability]]
            capable[..., index] = torch.isin(role, torch.tensor(roles))
        if kind.capability == "Gpus":
            capable[..., index] &= has_gpu
    levels = torch.tensor(
        [[_levels(kind, max(1, total)) for total in range(int(REPLICAS.max()) + 1)] for kind in CATALOGUE.values()]
    )
    return capable[..., None] & levels[:, replicas].permute(1, 2, 0, 3)


def _levels(kind: FaultKind, total: int) -> list[bool]:
    if kind.scope == "component" or kind.trigger is not None:
        strengths = [kind.amount(level) for level in LEVELS]
        return [strength not in strengths[:index] for index, strength in enumerate(strengths)]
    hits = [instances_hit(kind, level, total) for level in LEVELS]
    most = max(_LIMITS.max_instances, _LIMITS.max_share * total)
    return [hit not in hits[:index] and hit <= most for index, hit in enumerate(hits)]


def strengths() -> torch.Tensor:
    """Returns how strong each level of a kind is against its strongest, by number of replicas, shape (K, 1 + R, L)."""
    return torch.tensor(
        [[[_strength(kind, level, max(1, total)) for level in LEVELS] for total in range(int(REPLICAS.max()) + 1)]
         for kind in CATALOGUE.values()]
    )  # fmt: skip


def _strength(kind: FaultKind, level: float, total: int) -> float:
    if kind.scope == "instance" and kind.trigger is None:
        return instances_hit(kind, level, total) / total
    amount, most = kind.amount(level), kind.amount(1.0)
    if kind.amount(LEVELS[0]) <= most:
        return amount / most
    return most / amount if most > 0.0 else 1.0 - amount / kind.amount(0.0)


def unlisted(odds: float, role: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Draws which kinds of fault break a promise of a component for a reason that is in no list, shape (N, C, K), bool.

    Args:
        odds: that a cluster has such a reason; draws nothing where there are none.
        role: of components, shape (N, C).
        random: draws.
    """
    n, places = role.shape
    if odds == 0.0:
        return torch.zeros((n, places, len(KINDS)), dtype=torch.bool)
    families = [kind.family for kind in CATALOGUE.values()]
    family = torch.tensor([sorted(set(families)).index(each) for each in families])
    own = family == torch.randint(int(family.max()) + 1, (n, 1), generator=random)
    kinds = torch.rand((n, len(KINDS)), generator=random) < torch.where(own, _OF_ITS_FAMILY, _OF_ANOTHER)
    roles = torch.rand((n, len(ALL_ROLES)), generator=random) < _ON_A_ROLE
    absent = torch.rand((n, places), generator=random) < _ON_ONE_OF_IT
    there = (torch.rand((n, 1), generator=random) < odds) & roles.gather(1, role) & absent
    return there[..., None] & kinds[:, None, :]


def seen_effects(bearing: torch.Tensor, strength: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Draws how far targets themselves move, in [0, 1], shape (N, C, K, L).

    As recorded on the embedded cluster, it is the same with a protection and without, and depends on the kind of
    fault: what takes an instance away is always seen on it (0.67 to 0.9); a link or data that are spoilt on few
    components (0.5 to 0.8, and else 0); what starves, from some level on (0 below it, 0.6 to 0.8 above). So it tells
    no more than that a level is strong enough to be felt.

    Args:
        bearing: how strong a fault has to be for a promise to break where nothing protects it, shape (N, C, K).
        strength: of every level, shape (N, C, K, L).
        random: draws.
    """
    odds = torch.tensor([_SEEN.get(kind.partition(".")[0], 1.0) for kind in KINDS])
    seen = torch.rand(bearing.shape, generator=random) < odds
    at_once = torch.tensor([kind in _SEEN_AT_ONCE for kind in KINDS])
    felt_from = bearing * (_FELT_FROM + (1.0 - _FELT_FROM) * torch.rand(bearing.shape, generator=random))
    felt = (strength >= felt_from[..., None]) | at_once[:, None]
    how_far = 0.5 + 0.4 * torch.rand(bearing.shape, generator=random)
    return how_far[..., None] * (felt & seen[..., None])
