"""The one definition of what an agent sees and does: cluster state, observation, action, mask.

Everything is a batch of torch tensors, so that thousands of simulated clusters and one real one (batch size 1) are
encoded by the same functions. Arms (component x fault kind x level) are described by attributes, never by an index
alone, so that a new fault kind does not make a learned policy meaningless.

Shapes: B clusters, C components, K fault kinds, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from actuators.catalogue import CATALOGUE, LEVELS, instances_hit
from actuators.fault import Fault, Target
from actuators.fault_kind import FaultKind

from .clusters.base import Component, Topology
from .history import HISTORY_FEATURES, LONG_MIN, Shown, after, as_seen, never_tried
from .scoring import Evidence

VERSION: Final = 2
"""Version of the feature layout; a policy of another version is refused."""

ROLES: Final = ("gateway", "model-server", "feature-store", "trainer", "stream", "feature-pipeline")
FAMILIES: Final = ("pod", "network", "gpu", "data", "model", "api", "llm")

COMPONENT_FEATURES: Final = (
    *(f"role_{role}" for role in ROLES),
    "role_other",
    "replicas_log2",
    "redundant",
    "dependents_share",
    "dependencies_share",
    "ready_share",
    "quarantined",
    "present_z",
)
ARM_FEATURES: Final = (
    *(f"family_{family}" for family in FAMILIES),
    "whole_component",
    "reversible",
    "latent",
    "duration_min",
    "intensity",
)
BUDGET_FEATURES: Final = ("left_share", "left_hours", "experiments", "confirmed")

OBSERVED_ARM: Final = ARM_FEATURES + HISTORY_FEATURES
"""What an observation says of every arm: its attributes, then what was tried and what that showed."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything an agent may know, for a batch of clusters.

    Attributes:
        components: features, shape (B, C, len(COMPONENT_FEATURES)).
        graph: 1 where the row's component depends on the column's, shape (B, C, C).
        arms: attributes of every (kind, level), shape (K, L, len(ARM_FEATURES)).
        available: whether an arm exists at all, shape (B, C, K, L), bool.
        history: what was tried, what it showed and when, shape (B, C, K, L, len(HISTORY_FEATURES)); see `envs.history`.
        budget: shape (B, len(BUDGET_FEATURES)).
        now_h: the campaigns' clocks: hours that experiments have taken so far, shape (B,).
    """

    components: torch.Tensor
    graph: torch.Tensor
    arms: torch.Tensor
    available: torch.Tensor
    history: torch.Tensor
    budget: torch.Tensor
    now_h: torch.Tensor


@dataclass(frozen=True, slots=True)
class ActionCode:
    """Translates between action numbers and faults for one cluster.

    Attributes:
        components: names, in the order of the state.
        kinds: fault kinds, in the order of the state.
        telling_s: per component, how long a fault that can be taken out has to last to show anything, seconds.
        lasts_s: per component and kind, for how long one has to last at least, whatever it is, seconds.
    """

    components: tuple[str, ...]
    kinds: tuple[str, ...] = tuple(CATALOGUE)
    telling_s: Mapping[str, float] = field(default_factory=dict)
    lasts_s: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """The action that ends the campaign."""
        return len(self.components) * len(self.kinds) * len(LEVELS)

    def decode(self, action: int) -> Fault | None:
        """Returns the fault that an action stands for, None for `stop`.

        Raises:
            IndexError: there is no such action.
        """
        if action == self.stop:
            return None
        component, kind, level = self.index(action)
        return self.fault(self.components[component], self.kinds[kind], LEVELS[level])

    def fault(self, component: str, kind: str, intensity: float) -> Fault:
        """Returns a fault with the duration that such faults have on this cluster."""
        entry = CATALOGUE[kind]
        # What cannot be undone has done its work at once; what comes of it is watched until the last deadline anyway.
        least_s = self.telling_s.get(component, 0.0) if entry.reversible else 0.0
        least_s = max(least_s, self.lasts_s.get((component, kind), 0.0))
        return Fault(kind, Target(component), intensity, max(entry.duration_s, least_s))

    def encode(self, fault: Fault) -> int:
        """Returns the action that stands for a fault.

        Raises:
            ValueError: no action does.
        """
        component = self.components.index(fault.target.name)
        kind = self.kinds.index(fault.kind)
        return (component * len(self.kinds) + kind) * len(LEVELS) + LEVELS.index(fault.intensity)

    def index(self, action: int) -> tuple[int, int, int]:
        """Returns (component, kind, level) of an action that is not `stop`.

        Raises:
            IndexError: there is no such action.
        """
        if not 0 <= action < self.stop:
            raise IndexError(f"action {action} does not exist; allowed are 0 to {self.stop}")
        rest, level = divmod(int(action), len(LEVELS))
        component, kind = divmod(rest, len(self.kinds))
        return component, kind, level


def first_state(topology: Topology, code: ActionCode, device: str = "cpu") -> ClusterState:
    """Returns the state of one cluster before anything was tried, batch size 1."""
    components = [topology.component(name) for name in code.components]
    size = (1, len(components), len(code.kinds), len(LEVELS))
    return ClusterState(
        components=_component_features(components, topology)[None].to(device),
        graph=_graph(components)[None].to(device),
        arms=arm_attributes(code.kinds).to(device),
        available=_available(components, code.kinds)[None].to(device),
        history=never_tried(*size, device=device),
        budget=torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device),
        now_h=torch.zeros(1, device=device),
    )


def with_present(
    state: ClusterState,
    *,
    ready_share: Sequence[float],
    quarantined: Sequence[bool],
    present_z: Sequence[float],
    budget: Mapping[str, float],
) -> ClusterState:
    """Returns the state with what is true at this moment, batch size 1; see the feature lists for the meaning."""
    components = state.components.clone()
    start = COMPONENT_FEATURES.index("ready_share")
    now = torch.tensor([ready_share, [float(q) for q in quarantined], present_z], dtype=components.dtype).T
    components[0, :, start : start + 3] = now.to(components.device)
    spent = torch.tensor([[budget[name] for name in BUDGET_FEATURES]], dtype=components.dtype)
    return replace(state, components=components, budget=spent.to(components.device))


def after_experiment(state: ClusterState, arm: tuple[int, int, int], evidence: Evidence) -> ClusterState:
    """Returns the state after one more experiment on one arm, batch size 1. Pure: the given state stays as it was."""
    now_h = state.now_h + evidence.cost_min / LONG_MIN
    history = state.history.clone()
    history[(0, *arm)] = after(history[(0, *arm)][None], Shown.of(evidence), now_h)[0]
    return replace(state, history=history, now_h=now_h)


def observation_space(state: ClusterState) -> gym.spaces.Dict:
    """Returns the space of the observations that `observe` makes of states of this size."""
    _, components, kinds, levels = state.available.shape

    def box(low: float, high: float, *shape: int) -> gym.spaces.Box:
        return gym.spaces.Box(low, high, shape, np.float32)

    return gym.spaces.Dict(
        {
            "components": box(-1.0, 1.0, components, len(COMPONENT_FEATURES)),
            "graph": box(0.0, 1.0, components, components),
            "arms": box(-2.0, 2.0, components, kinds, levels, len(OBSERVED_ARM)),
            "budget": box(0.0, 1.0, len(BUDGET_FEATURES)),
        }
    )


def seen(state: ClusterState) -> dict[str, torch.Tensor]:
    """Returns the observations of a batch, as tensors with the batch dimension first; see `observation_space`."""
    history = as_seen(state.history, state.now_h)
    attributes = state.arms.expand(*history.shape[:4], -1)
    return {
        "components": state.components,
        "graph": state.graph,
        "arms": torch.cat([attributes, history], dim=-1),
        "budget": state.budget.clamp(0.0, 1.0),
    }


def observe(state: ClusterState) -> dict[str, npt.NDArray[np.float32]]:
    """Returns the observation of a batch of one, as arrays without the batch dimension."""
    # Copies: whoever keeps an observation keeps what was seen then.
    return {name: tensor[0].cpu().numpy().copy() for name, tensor in seen(state).items()}


def observed(observation: Mapping[str, npt.NDArray[np.float32]], name: str) -> npt.NDArray[np.float32]:
    """Returns one feature of every arm of an observation, shape (C, K, L)."""
    return observation["arms"][..., OBSERVED_ARM.index(name)]


def arm_attributes(kinds: Sequence[str]) -> torch.Tensor:
    """Returns the attributes of every (kind, level), shape (K, L, len(ARM_FEATURES))."""
    rows = [[_attributes(CATALOGUE[kind], level) for level in LEVELS] for kind in kinds]
    return torch.tensor(rows, dtype=torch.float32)


def _attributes(kind: FaultKind, level: float) -> list[float]:
    return [
        *(float(kind.family == family) for family in FAMILIES),
        float(kind.scope == "component"),
        float(kind.reversible),
        float(kind.trigger is not None),
        min(1.0, kind.duration_s / 60.0),
        level,
    ]


def _component_features(components: Sequence[Component], topology: Topology) -> torch.Tensor:
    others = max(1, len(components) - 1)
    names = {component.name for component in components}
    rows = []
    for component in components:
        dependents = topology.dependents_of(component.name) & names
        rows.append(
            [
                *(float(component.role == role) for role in ROLES),
                float(component.role not in ROLES),
                min(1.0, float(np.log2(max(1, component.replicas))) / 6.0),
                float(component.replicas > 1),
                len(dependents) / others,
                len(names & set(component.depends_on)) / others,
                1.0,
                0.0,
                0.0,
            ]
        )
    return torch.tensor(rows, dtype=torch.float32)


def _graph(components: Sequence[Component]) -> torch.Tensor:
    names = [component.name for component in components]
    return torch.tensor([[float(name in c.depends_on) for name in names] for c in components], dtype=torch.float32)


def _available(components: Sequence[Component], kinds: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[_levels_of(component, CATALOGUE[kind]) for kind in kinds] for component in components])


def _levels_of(component: Component, kind: FaultKind) -> list[bool]:
    """Returns which levels differ: one that does no more than a lower one is the same fault."""
    if kind.capability not in component.capabilities:
        return [False] * len(LEVELS)
    if kind.scope == "component" or kind.trigger is not None:
        strengths = [kind.amount(level) for level in LEVELS]
    else:
        strengths = [float(instances_hit(kind, level, component.replicas)) for level in LEVELS]
    return [strength not in strengths[:index] for index, strength in enumerate(strengths)]
