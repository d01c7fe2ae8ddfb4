"""One actor and critic for clusters of any size: a shared network per component, messages along the graph, two choices.

First a component is chosen (or `stop`), then one of its arms; the probability of an action is the product. That makes
tens of numbers out of a thousand, and lets arms be told apart by attributes alone. The recommendation and its sources
are those of sets and graphs under a changing size (Zaheer et al., "Deep sets", NeurIPS 2017, for shared encoders with
mean and max pooling; Jiang et al., "Graph convolutional reinforcement learning", ICLR 2020, for messages).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from envs.encoding import ARM_FEATURES, BUDGET_FEATURES, COMPONENT_FEATURES, ROLES, arm_attributes
from envs.history import BY_KIND, HISTORY_FEATURES
from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import KINDS

from ..arms import Surroundings
from ..head import Head
from ..posterior import ArmNetwork, believed
from ..worth import worth_of
from .looks import STATS, Kept, Looks, looks_at, looks_on

_ROLES = len(ROLES) + 1
_IMPOSSIBLE = -1e8
_LEAST_WORTH = 1e-9
_SHARPNESS = 5.0
"""By which power of its worth an arm is likelier, at first: narrow enough to be good, wide enough to see other ends."""

_STOP = -8.0


class SetPolicy(MaskableActorCriticPolicy):
    """The policy for `MaskablePPO` and `DevicePPO`; see `MaskableActorCriticPolicy` for what is not told here.

    Args:
        observation_space: as `envs.encoding.observation_space` makes it; its size is not learnt.
        action_space: `Discrete`, the last action stops.
        lr_schedule: learning rate by remaining progress.
        hidden: width of what is known of a component.
        arm_hidden: width of what is known of an arm; there are dozens per component.
        teacher: width of a posterior-greedy network that this policy begins as, and learns to stray from (residual
            policy learning: Silver et al., 2018; Johannink et al., ICRA 2019): its likeliest choices are that network's
            best bets at first. No teacher if not given. The network itself is not trained.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        *args: Any,  # noqa: ANN401 (handed on)
        hidden: int = 32,
        arm_hidden: int = 8,
        teacher: int | None = None,
        **kwargs: Any,  # noqa: ANN401 (handed on)
    ) -> None:
        self.hidden, self.arm_hidden = hidden, arm_hidden
        self.teacher_hidden = teacher
        self._leash: tuple[SetPolicy, ...] = ()
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    # ---- the network ----------------------------------------------------------------------------------------------

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        h, a = self.hidden, self.arm_hidden
        attributes = arm_attributes(KINDS)
        self.register_buffer("arm_attributes", attributes, persistent=False)
        # A kind is what its attributes say, whatever the level.
        self.register_buffer("kind_attributes", attributes[:, 0, :-1], persistent=False)
        self.of_component = nn.Linear(len(COMPONENT_FEATURES), h)
        self.of_lately = nn.Linear(1, h, bias=False)
        self.of_budget = nn.Linear(len(BUDGET_FEATURES), h, bias=False)
        self.of_kind = nn.Sequential(
            nn.Linear(len(ARM_FEATURES) - 1, 16), nn.Tanh(), nn.Linear(16, len(BY_KIND) * h, bias=False)
        )
        self.norm = nn.LayerNorm(h)
        self.message = nn.Linear(h, h)
        self.messages = nn.ModuleList(nn.Linear(h, h, bias=False) for _ in range(3))
        self.of_all = nn.Linear(2 * h + len(BUDGET_FEATURES) + 1, h)
        self.value = nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 1))
        self.choice_here = nn.Linear(h, h, bias=False)
        self.choice_whole = nn.Linear(h, h)
        self.choice = nn.Linear(h, 1)
        self.stop = nn.Linear(h, 1)
        self.arm_here = nn.Linear(2 * h, a)
        self.arm_history = nn.Linear(len(HISTORY_FEATURES), a, bias=False)
        self.arm_kind = nn.Linear(len(STATS), a, bias=False)
        self.arm_attribute = nn.Linear(len(ARM_FEATURES), a, bias=False)
        self.arm = nn.Linear(a, 2)
        """Logits of an arm: how likely it is chosen, and how likely it is weak."""
        if self.teacher_hidden is not None:
            self.teacher = ArmNetwork(self.teacher_hidden).requires_grad_(requires_grad=False)
            self.log_sharpness = nn.Parameter(torch.tensor(math.log(_SHARPNESS)))
            with torch.no_grad():
                for layer in (self.choice, self.stop):
                    layer.weight.zero_()
                    layer.bias.zero_()
                self.stop.bias.fill_(_STOP)
                self.arm.weight[0].zero_()
                self.arm.bias[0].zero_()
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = self.optimizer_class(learnt, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _encoded(self, seen: Looks | Kept) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns an embedding of every component, shape (N, C, H), and one of the whole, shape (N, H)."""
        graph, role = seen.graph, seen.components[..., :_ROLES]
        inside = role.sum(-1, keepdim=True)
        weights = self.of_kind(self.kind_attributes).view(-1, self.hidden)
        own = self.of_component(seen.components) + self.of_budget(seen.budget)[:, None, :]
        own = own + self.of_lately(seen.lately[..., None])
        tried = seen.kinds.flatten(2) @ (weights / math.sqrt(len(weights)))
        # Nobody listens to places without a component: no edge leads there, and no role.
        z = torch.relu(self.norm(own + tried))
        like = role @ (role / role.sum(1, keepdim=True).clamp(min=1.0)).transpose(1, 2)
        heard = self.message(z)
        for means, message in zip((_means(graph), _means(graph.transpose(1, 2)), like), self.messages, strict=True):
            heard = torch.baddbmm(heard, means, message(z))
        z = heard
        z = torch.relu(z) * inside
        count = inside.sum(1)
        whole = torch.cat(
            [z.sum(1) / count.clamp(min=1.0), z.amax(1), seen.budget, count.clamp(min=1.0).log2() / 6.0], dim=-1
        )
        return z, torch.relu(self.of_all(whole))

    def _component_logits(
        self, z: torch.Tensor, whole: torch.Tensor, able: torch.Tensor, best_bets: torch.Tensor
    ) -> torch.Tensor:
        """Returns log-probabilities of components and, last, of `stop`, shape (N, C + 1)."""
        each = self.choice(torch.relu(self.choice_here(z) + self.choice_whole(whole)[:, None, :])).squeeze(-1)
        each = (each + self._sharp(best_bets)).masked_fill(~able, _IMPOSSIBLE)
        # Whether to stop is one choice, and where to go on another: what makes all components less attractive, such as
        # that each of them was hit lately, must not end the campaign.
        each = torch.log_softmax(each, dim=-1).masked_fill(~able, _IMPOSSIBLE)
        return torch.log_softmax(torch.cat([each, self.stop(whole)], dim=-1), dim=-1)

    def _arm_logits(self, z: torch.Tensor, whole: torch.Tensor, kept: Kept) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns log-probabilities of a component's arms, and log-odds that they are weak, shape (N, M) each."""
        n, k, _ = kept.here.shape
        of_kind = self.arm_here(torch.cat([z, whole], dim=-1))[:, None, :] + self.arm_kind(kept.here)
        inner = self.arm_history(kept.history).view(n, k, -1, self.arm_hidden) + of_kind[:, :, None, :]
        inner = torch.relu(inner + self.arm_attribute(self.arm_attributes))
        logits, weak = self.arm(inner).view(n, -1, 2).unbind(-1)
        logits = logits + self._sharp(kept.bets)
        return torch.log_softmax(logits.masked_fill(~kept.open, _IMPOSSIBLE), dim=-1), weak

    def _sharp(self, bets: torch.Tensor) -> torch.Tensor:
        return bets if self.teacher_hidden is None else bets * self.log_sharpness.exp()

    # ---- looking --------------------------------------------------------------------------------------------------

    def looks_on(self, campaigns: Campaigns, head: Head | None = None) -> Looks:
        """Returns what the policy looks at in simulated campaigns; a view, see `looks.looks_on`.

        Args:
            campaigns: to choose in.
            head: corrects what the teacher thinks of these clusters; learns from what is seen.
        """
        looks = looks_on(campaigns)
        if self.teacher_hidden is None:
            return looks
        return looks._replace(bets=self._bets(Surroundings.on(campaigns), looks, head))

    def looks_at(self, seen: Mapping[str, torch.Tensor], masks: torch.Tensor | None, head: Head | None = None) -> Looks:
        """Returns what the policy looks at in what is seen; see `looks.looks_at`, and `looks_on` for the head."""
        looks = looks_at(seen, masks)
        if self.teacher_hidden is None:
            return looks
        return looks._replace(bets=self._bets(Surroundings.of(seen), looks, head))

    @torch.no_grad()
    def _bets(self, around: Surroundings, looks: Looks, head: Head | None) -> torch.Tensor:
        odds = believed(self.teacher, around, looks.open.flatten(1), head).view(around.arms.history.shape[:4])
        worth = worth_of(around.components, around.arms, odds).view(looks.open.shape).masked_fill(~looks.open, 0.0)
        bets = worth.clamp(min=_LEAST_WORTH).log()
        return bets - bets.amax((1, 2), keepdim=True)

    # ---- choosing -------------------------------------------------------------------------------------------------

    def choose(
        self, looks: Looks, *, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Kept]:
        """Returns actions, values and log-probabilities, shape (N,) each, and what to keep to judge them later."""
        z, whole = self._encoded(looks)
        n, c, m = looks.open.shape
        of_component = self._component_logits(z, whole, looks.able, looks.bets.amax(-1))
        component = _drawn(of_component, deterministic)
        stops = component == c
        kept = looks.at(torch.where(stops, 0, component))
        row = torch.arange(n, device=component.device)
        at = torch.where(stops, 0, component)
        of_arm, _ = self._arm_logits(z[row, at], whole, kept)
        arm = _drawn(of_arm, deterministic)
        log_prob = of_component[row, component] + torch.where(stops, 0.0, of_arm[row, arm])
        return torch.where(stops, c * m, at * m + arm), self.value(whole).squeeze(-1), log_prob, kept

    def judge(self, kept: Kept, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns values, log-probabilities, entropies, shape (N,) each, and log-odds of weakness, shape (N, M).

        On a leash, entropies are relative ones: minus the divergence from the other policy.
        """
        n, c = kept.able.shape
        m = kept.history.shape[1]
        stops = actions == c * m
        component, arm = torch.where(stops, c, actions // m), torch.where(stops, 0, actions % m)
        row = torch.arange(n, device=actions.device)
        of_component, of_arm, weak, whole = self._chances(kept, torch.where(stops, 0, component))
        log_prob = of_component[row, component] + torch.where(stops, 0.0, of_arm[row, arm])
        usual: tuple[torch.Tensor | float, torch.Tensor | float] = (0.0, 0.0)
        if self._leash:
            with torch.no_grad():
                usual = self._leash[0]._chances(kept, torch.where(stops, 0, component))[:2]
        spread = _spread(of_component, usual[0]) + torch.where(stops, 0.0, _spread(of_arm, usual[1]))
        return self.value(whole).squeeze(-1), log_prob, spread, weak

    def _chances(self, kept: Kept, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns log-probabilities of components and of one's arms, log-odds of weakness, and the whole's embedding.

        Args:
            kept: of states.
            at: the component, int64, shape (N,).
        """
        z, whole = self._encoded(kept)
        of_arm, weak = self._arm_logits(z[torch.arange(len(at), device=at.device), at], whole, kept)
        return self._component_logits(z, whole, kept.able, kept.best_bets), of_arm, weak, whole

    def critic_parameters(self) -> list[nn.Parameter]:
        """Returns what can be learnt without any change of what is chosen.

        With a teacher, before anything else was learnt: all but what strays from it, which is nothing yet.
        """
        if self.teacher_hidden is None:
            return list(self.value.parameters())
        apart = {"choice", "stop", "arm", "log_sharpness", "teacher"}
        return [value for name, value in self.named_parameters() if name.split(".")[0] not in apart]

    def leashed_to(self, usual: SetPolicy) -> None:
        """Makes the entropy that PPO adds to its aim one relative to another policy: minus the divergence from it.

        What was learnt by imitation is then given up only for what pays, as in the fine-tuning of language models
        (Ouyang et al., "Training language models to follow instructions with human feedback", NeurIPS 2022).

        Args:
            usual: is not changed, and no part of this policy.
        """
        self._leash = (usual.requires_grad_(requires_grad=False),)

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
        _, whole = self._encoded(self._looks(obs, None))
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
        if masks is None:
            return looks_at(obs, None)
        return self.looks_at(obs, torch.as_tensor(masks, device=obs["arms"].device))


def _means(graph: torch.Tensor) -> torch.Tensor:
    """Returns what turns values of components into means over those that each row points at."""
    return graph / graph.sum(-1, keepdim=True).clamp(min=1.0)


def _drawn(log_prob: torch.Tensor, deterministic: bool) -> torch.Tensor:
    """Draws by the Gumbel-max trick, or takes the likeliest."""
    if deterministic:
        return log_prob.argmax(-1)
    noise = -torch.log(-torch.log(torch.rand_like(log_prob).clamp(1e-10, 1.0 - 1e-7)))
    return (log_prob + noise).argmax(-1)


def _spread(log_prob: torch.Tensor, usual: torch.Tensor | float) -> torch.Tensor:
    """Returns entropies, relative to other log-probabilities if there are any."""
    return -(log_prob.exp() * (log_prob - usual)).sum(-1)
