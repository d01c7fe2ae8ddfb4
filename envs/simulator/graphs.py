"""Who depends on whom: dependency graphs of several forms, for many clusters at once.

Shapes: N clusters, C places for components; a cluster may fill fewer. Before they are shuffled, components stand in
layers: whoever comes earlier depends on whoever comes later, and users on the first.
"""

from __future__ import annotations

import torch

_HOPS = 12
"""Longest way along which trouble is followed."""

_PASSED_ON = 0.35
"""Share of a dependency's trouble that a component with a fallback passes on."""


def drawn(sizes: torch.Tensor, forms: torch.Tensor, places: int, random: torch.Generator) -> torch.Tensor:
    """Draws dependency graphs.

    Args:
        sizes: components of each cluster, shape (N,).
        forms: of each graph, indices into `structure.FAMILIES`, shape (N,).
        places: C.
        random: draws.

    Returns:
        True where the row's component depends on the column's, shape (N, C, C); acyclic, and all but the first
        component have somebody who depends on them.
    """
    n = len(sizes)
    order = torch.arange(places)
    forward = order[:, None] < order[None, :]
    distance = (order[None, :] - order[:, None]).float()
    # Expected dependencies per component stay in range however large the cluster is.
    chances = torch.stack(
        [
            torch.where(distance <= 4, 0.45, 0.02).expand(places, places),  # layered
            torch.zeros(places, places),  # tree: the one dependent that everybody gets
            torch.where(order[None, :] % 5 == 1, 0.5, 0.0).expand(places, places),  # star: a few that many need
            torch.where(distance > 0, 2.0 / distance.clamp(min=4.0), 0.0),  # random
            torch.where(distance <= 8, 0.35, 0.0).expand(places, places),  # mesh
        ]
    )
    graph = torch.rand((n, places, places), generator=random) < chances[forms]
    parent = (torch.rand((n, places), generator=random) * order).long()
    graph[torch.arange(n)[:, None], parent, order] = True
    inside = order < sizes[:, None]
    return graph & forward & inside[:, :, None] & inside[:, None, :]


def closure(graph: torch.Tensor) -> torch.Tensor:
    """Returns who depends on whom directly or through others, shape (N, C, C), bool."""
    reached = graph
    for _ in range(graph.shape[-1].bit_length()):
        reached = reached | (reached.float() @ reached.float() > 0)
    return reached


def exposure(graph: torch.Tensor, roots: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """Returns how much of a component's trouble reaches its users, along the least protected way.

    Args:
        graph: shape (N, C, C), as `drawn`.
        roots: whom users call, shape (N, C), bool.
        fallback: who bears the trouble of dependencies, shape (N, C), bool.

    Returns:
        Factors in (0, 1], shape (N, C); 0 where nobody would notice.
    """
    passed = torch.where(fallback, _PASSED_ON, 1.0)
    reach = roots.float()
    for _ in range(min(_HOPS, graph.shape[-1])):
        reach = torch.maximum(reach, (graph * (reach * passed)[:, :, None]).amax(1))
    return reach
