"""The policy as sb3-contrib's MaskablePPO asks for it: two choices, one action.

First a component is chosen (or `stop`), then one of its arms; the probability of an action is the product. That makes
tens of numbers out of a thousand, and lets arms be told apart by attributes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from envs.simulator.campaigns import Campaigns

from ..arms import Surroundings
from ..head import Head
from .looks import Kept, Looks, looks_at, looks_on
from .network import SetNetwork


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
        privileged: whether values are those of a critic that is shown what is left to be found, where it is.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        *args: Any,  # noqa: ANN401 (handed on)
        hidden: int = 16,
        arm_hidden: int = 8,
        teacher: int | None = None,
        privileged: bool = False,
        **kwargs: Any,  # noqa: ANN401 (handed on)
    ) -> None:
        self.hidden, self.arm_hidden = hidden, arm_hidden
        self._privileged = privileged
        self.teacher_hidden = teacher
        self._leash: tuple[SetPolicy, ...] = ()
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        self.network = SetNetwork(self.hidden, self.arm_hidden, self.teacher_hidden, privileged=self._privileged)
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = self.optimizer_class(learnt, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

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
        return looks._replace(bets=self.network.bets(Surroundings.on(campaigns), looks, head))

    def looks_at(self, seen: Mapping[str, torch.Tensor], masks: torch.Tensor | None, head: Head | None = None) -> Looks:
        """Returns what the policy looks at in what is seen; see `looks.looks_at`, and `looks_on` for the head."""
        looks = looks_at(seen, masks)
        if self.teacher_hidden is None:
            return looks
        return looks._replace(bets=self.network.bets(Surroundings.of(seen), looks, head))

    # ---- choosing -------------------------------------------------------------------------------------------------

    def choose(
        self, looks: Looks, *, deterministic: bool = False, outlook: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Kept]:
        """Returns actions, values and log-probabilities, shape (N,) each, and what to keep to judge them later.

        Args:
            looks: at the states.
            deterministic: whether to take the likeliest.
            outlook: for the critic alone; see `Campaigns.outlook`.
        """
        z, whole = self.network.encoded(looks)
        n, c, m = looks.open.shape
        of_component = self.network.component_logits(z, whole, looks, looks.bets.amax(-1))
        component = _first_choice(of_component, deterministic)
        stops = component == c
        kept = looks.at(torch.where(stops, 0, component))
        kept = kept if outlook is None else kept._replace(outlook=outlook)
        row = torch.arange(n, device=component.device)
        at = torch.where(stops, 0, component)
        of_arm = self.network.arm_logits(z[row, at], whole, kept)
        arm = _drawn(of_arm, deterministic)
        log_prob = of_component[row, component] + torch.where(stops, 0.0, of_arm[row, arm])
        return torch.where(stops, c * m, at * m + arm), self.network.worth(whole, kept), log_prob, kept

    def judge(self, kept: Kept, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns values, log-probabilities and entropies, shape (N,) each.

        Of what was kept on a leash, entropies are relative ones: minus the divergence from the other policy, as
        estimated on the component that was chosen. That component is drawn and not weighed: the gradient knows how far
        arms have strayed on it, and not what it costs to choose components more often where they have.
        """
        at, arm, stops = _parts(kept, actions)
        component = torch.where(stops, kept.able.shape[1], at)
        row = torch.arange(len(at), device=actions.device)
        of_component, of_arm, whole = self._chances(kept, at)
        log_prob = of_component[row, component] + torch.where(stops, 0.0, of_arm[row, arm])
        spread = _spread(of_component, kept.usual) + torch.where(stops, 0.0, _spread(of_arm, kept.usual_here))
        return self.network.worth(whole, kept), log_prob, spread

    def _chances(self, kept: Kept, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns log-probabilities of components and of one's arms, and the whole's embedding.

        Args:
            kept: of states.
            at: the component, int64, shape (N,).
        """
        z, whole = self.network.encoded(kept)
        of_arm = self.network.arm_logits(_picked(z, at), whole, kept)
        return self.network.component_logits(z, whole, kept, kept.best_bets), of_arm, whole

    def weak(self, kept: Kept, actions: torch.Tensor) -> torch.Tensor:
        """Returns log-odds that arms of the components that were chosen are weak, shape (N, M)."""
        z, whole = self.network.encoded(kept)
        return self.network.weak_logits(_picked(z, _parts(kept, actions)[0]), whole, kept)

    def acting(self) -> dict[str, torch.Tensor]:
        """Returns the state of all but the privileged critic: that of a policy without one."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("network.critic.")}

    def leashed_to(self, usual: SetPolicy) -> None:
        """Makes the entropy that PPO adds to its aim one relative to another policy: minus the divergence from it.

        What was learnt by imitation is then given up only for what pays, as in the fine-tuning of language models
        (Ouyang et al., "Training language models to follow instructions with human feedback", NeurIPS 2022).

        Args:
            usual: is not changed, and no part of this policy.
        """
        self._leash = (usual.requires_grad_(requires_grad=False),)

    @torch.no_grad()
    def on_leash(self, kept: Kept, actions: torch.Tensor) -> Kept:
        """Returns what was kept of states with what the other policy would do there; that does not change any more."""
        if not self._leash:
            return kept
        usual, usual_here, _ = self._leash[0]._chances(kept, _parts(kept, actions)[0])
        return kept._replace(usual=usual, usual_here=usual_here)

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
        values, log_prob, entropy = self.judge(obs, actions)
        return values[:, None], log_prob, entropy

    def predict_values(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """Returns values, shape (N, 1)."""
        _, whole = self.network.encoded(self._looks(obs, None))
        value: torch.Tensor = self.network.value(whole)
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


def _parts(kept: Kept, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns which component actions choose, and which of its arms, the first ones where they stop; and whether."""
    m = kept.open.shape[1]
    stops = actions == kept.able.shape[1] * m
    chosen = torch.where(stops, 0, actions)
    return chosen // m, chosen % m, stops


def _picked(z: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Returns one component's embedding per state, shape (N, H)."""
    return z[torch.arange(len(at), device=at.device), at]


def _drawn(log_prob: torch.Tensor, deterministic: bool) -> torch.Tensor:
    """Draws by the Gumbel-max trick (Maddison et al., "A* sampling", NeurIPS 2014), or takes the likeliest."""
    if deterministic:
        return log_prob.argmax(-1)
    noise = -torch.log(-torch.log(torch.rand_like(log_prob).clamp(1e-10, 1.0 - 1e-7)))
    return (log_prob + noise).argmax(-1)


def _first_choice(log_prob: torch.Tensor, deterministic: bool) -> torch.Tensor:
    """Draws a component or, last, to stop; or takes the likeliest component unless it is likelier to stop than not.

    Whether to stop is one choice and where to go on another: the more components share what is left, the less likely
    is each of them, and that must not end a campaign.
    """
    if not deterministic:
        return _drawn(log_prob, deterministic)
    stop = log_prob.shape[1] - 1
    return torch.where(log_prob[:, stop] > math.log(0.5), stop, log_prob[:, :stop].argmax(-1))


def _spread(log_prob: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """Returns entropies, relative to other log-probabilities if there are any."""
    return -(log_prob.exp() * (log_prob - usual if usual.shape[1] else log_prob)).sum(-1)
