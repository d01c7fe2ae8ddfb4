"""One actor and critic for clusters of any size: a shared network per component, messages along the graph, two choices.

First a component is chosen (or `stop`), then one of its arms; the probability of an action is the product. That makes
tens of numbers out of a thousand, and lets arms be told apart by attributes alone. The recommendation and its sources
are those of sets and graphs under a changing size (Zaheer et al., "Deep sets", NeurIPS 2017, for shared encoders with
mean and max pooling; Jiang et al., "Graph convolutional reinforcement learning", ICLR 2020, for messages).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from envs.encoding import ARM_FEATURES, BUDGET_FEATURES, COMPONENT_FEATURES, ROLES, arm_attributes
from envs.history import HISTORY_FEATURES
from envs.simulator.pool import KINDS

from .looks import STATS, Kept, Looks, looks_at

_ROLES = len(ROLES) + 1
_IMPOSSIBLE = -1e8


class SetPolicy(MaskableActorCriticPolicy):
    """The policy for `MaskablePPO` and `DevicePPO`; see `MaskableActorCriticPolicy` for what is not told here.

    Args:
        observation_space: as `envs.encoding.observation_space` makes it; its size is not learnt.
        action_space: `Discrete`, the last action stops.
        lr_schedule: learning rate by remaining progress.
        hidden: width.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        *args: Any,  # noqa: ANN401 (handed on)
        hidden: int = 32,
        **kwargs: Any,  # noqa: ANN401 (handed on)
    ) -> None:
        self.hidden = hidden
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    # ---- the network ----------------------------------------------------------------------------------------------

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        h = self.hidden
        attributes = arm_attributes(KINDS)
        self.register_buffer("arm_attributes", attributes.flatten(0, 1), persistent=False)
        # A kind is what its attributes say, whatever the level.
        self.register_buffer("kind_attributes", attributes[:, 0, :-1], persistent=False)
        self.of_component = nn.Linear(len(COMPONENT_FEATURES) + len(BUDGET_FEATURES), h)
        self.of_kind = nn.Sequential(
            nn.Linear(len(ARM_FEATURES) - 1, 16), nn.Tanh(), nn.Linear(16, len(STATS) * h, bias=False)
        )
        self.norm = nn.LayerNorm(h)
        self.message = nn.Linear(4 * h, h)
        self.of_all = nn.Linear(2 * h + len(BUDGET_FEATURES) + 1, h)
        self.value = nn.Linear(h, 1)
        self.choice = nn.Sequential(nn.Linear(2 * h, h), nn.ReLU(), nn.Linear(h, 1))
        self.stop = nn.Linear(h, 1)
        self.arm_here = nn.Linear(2 * h, h)
        self.arm_history = nn.Linear(len(HISTORY_FEATURES), h, bias=False)
        self.arm_kind = nn.Linear(len(STATS), h, bias=False)
        self.arm_attribute = nn.Linear(len(ARM_FEATURES), h, bias=False)
        self.arm = nn.Linear(h, 2)
        """Logits of an arm: how likely it is chosen, and how likely it is weak."""
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _encoded(
        self, components: torch.Tensor, graph: torch.Tensor, stats: torch.Tensor, budget: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns an embedding of every component, shape (N, C, H), and one of the whole, shape (N, H)."""
        role = components[..., :_ROLES]
        inside = role.sum(-1, keepdim=True)
        weights = self.of_kind(self.kind_attributes).view(-1, self.hidden)
        own = torch.cat([components, budget[:, None, :].expand(-1, components.shape[1], -1)], dim=-1)
        z = (
            torch.relu(self.norm(self.of_component(own) + stats.flatten(2) @ weights / math.sqrt(len(weights))))
            * inside
        )
        around = (
            graph @ z / graph.sum(-1, keepdim=True).clamp(min=1.0),
            graph.transpose(1, 2) @ z / graph.sum(1)[..., None].clamp(min=1.0),
            role @ ((role.transpose(1, 2) @ z) / role.sum(1)[..., None].clamp(min=1.0)),
        )
        z = torch.relu(self.message(torch.cat([z, *around], dim=-1))) * inside
        count = inside.sum(1)
        whole = torch.cat(
            [z.sum(1) / count.clamp(min=1.0), z.amax(1), budget, count.clamp(min=1.0).log2() / 6.0], dim=-1
        )
        return z, torch.relu(self.of_all(whole))

    def _component_logits(self, z: torch.Tensor, whole: torch.Tensor, open_components: torch.Tensor) -> torch.Tensor:
        """Returns log-probabilities of components and, last, of `stop`, shape (N, C + 1)."""
        each = self.choice(torch.cat([z, whole[:, None, :].expand_as(z)], dim=-1)).squeeze(-1)
        each = each.masked_fill(~open_components, _IMPOSSIBLE)
        return torch.log_softmax(torch.cat([each, self.stop(whole)], dim=-1), dim=-1)

    def _arm_logits(
        self, z: torch.Tensor, whole: torch.Tensor, history: torch.Tensor, stats: torch.Tensor, allowed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns log-probabilities of a component's arms, and log-odds that they are weak, shape (N, M) each."""
        levels = history.shape[1] // stats.shape[1]
        here = self.arm_here(torch.cat([z, whole], dim=-1))[:, None, :]
        of_kind = self.arm_kind(stats).repeat_interleave(levels, dim=1)
        inner = torch.relu(here + self.arm_history(history) + of_kind + self.arm_attribute(self.arm_attributes))
        logits, weak = self.arm(inner).unbind(-1)
        return torch.log_softmax(logits.masked_fill(~allowed, _IMPOSSIBLE), dim=-1), weak

    # ---- choosing -------------------------------------------------------------------------------------------------

    def choose(
        self, looks: Looks, *, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Kept]:
        """Returns actions, values and log-probabilities, shape (N,) each, and what to keep to judge them later."""
        z, whole = self._encoded(looks.components, looks.graph, looks.stats, looks.budget)
        n, c, m = looks.open.shape
        of_component = self._component_logits(z, whole, looks.open.any(-1))
        component = _drawn(of_component, deterministic)
        stops = component == c
        kept = looks.at(torch.where(stops, 0, component))
        row = torch.arange(n, device=component.device)
        at = torch.where(stops, 0, component)
        of_arm, _ = self._arm_logits(z[row, at], whole, kept.history, looks.stats[row, at], kept.open)
        arm = _drawn(of_arm, deterministic)
        log_prob = of_component[row, component] + torch.where(stops, 0.0, of_arm[row, arm])
        return torch.where(stops, c * m, at * m + arm), self.value(whole).squeeze(-1), log_prob, kept

    def judge(self, kept: Kept, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns values, log-probabilities, entropies, shape (N,) each, and log-odds of weakness, shape (N, M)."""
        z, whole = self._encoded(kept.components, kept.graph, kept.stats, kept.budget)
        n, c = kept.open_components.shape
        m = kept.history.shape[1]
        stops = actions == c * m
        component, arm = torch.where(stops, c, actions // m), torch.where(stops, 0, actions % m)
        at, row = torch.where(stops, 0, component), torch.arange(n, device=actions.device)
        of_component = self._component_logits(z, whole, kept.open_components)
        of_arm, weak = self._arm_logits(z[row, at], whole, kept.history, kept.stats[row, at], kept.open)
        log_prob = of_component[row, component] + torch.where(stops, 0.0, of_arm[row, arm])
        entropy = _entropy(of_component) + torch.where(stops, 0.0, _entropy(of_arm))
        return self.value(whole).squeeze(-1), log_prob, entropy, weak

    # ---- what sb3-contrib asks ------------------------------------------------------------------------------------

    def forward(  # type: ignore[override]
        self,
        obs: dict[str, torch.Tensor],
        deterministic: bool = False,
        action_masks: Any = None,  # noqa: ANN401 (theirs)
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns actions, values of shape (N, 1), and log-probabilities."""
        actions, values, log_prob, _ = self.choose(self._looks(obs, action_masks), deterministic=deterministic)
        return actions, values[:, None], log_prob

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: dict[str, torch.Tensor] | Kept,
        actions: torch.Tensor,
        action_masks: Any = None,  # noqa: ANN401 (theirs)
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns values of shape (N, 1), log-probabilities and entropies."""
        if not isinstance(obs, Kept):
            looks = self._looks(obs, action_masks)
            per_component = looks.open.shape[2]
            stop = looks.open.shape[1] * per_component
            obs = looks.at(torch.where(actions == stop, 0, actions // per_component))
        values, log_prob, entropy, _ = self.judge(obs, actions)
        return values[:, None], log_prob, entropy

    def predict_values(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """Returns values, shape (N, 1)."""
        looks = self._looks(obs, None)
        _, whole = self._encoded(looks.components, looks.graph, looks.stats, looks.budget)
        value: torch.Tensor = self.value(whole)
        return value

    def _predict(  # type: ignore[override]
        self,
        observation: dict[str, torch.Tensor],
        deterministic: bool = False,
        action_masks: Any = None,  # noqa: ANN401 (theirs)
    ) -> torch.Tensor:
        return self.choose(self._looks(observation, action_masks), deterministic=deterministic)[0]

    def _looks(self, obs: dict[str, torch.Tensor], masks: Any) -> Looks:  # noqa: ANN401 (theirs)
        return looks_at(obs, None if masks is None else torch.as_tensor(masks, device=obs["arms"].device))


def _drawn(log_prob: torch.Tensor, deterministic: bool) -> torch.Tensor:
    """Draws by the Gumbel-max trick, or takes the likeliest."""
    if deterministic:
        return log_prob.argmax(-1)
    noise = -torch.log(-torch.log(torch.rand_like(log_prob).clamp(1e-10, 1.0 - 1e-7)))
    return (log_prob + noise).argmax(-1)


def _entropy(log_prob: torch.Tensor) -> torch.Tensor:
    return -(log_prob.exp() * log_prob).sum(-1)
