"""MaskablePPO whose rollout never leaves the device: one overridden method, and a buffer of tensors.

Everything that makes it PPO (Schulman et al., "Proximal policy optimization algorithms", 2017; with masked actions:
Huang and Ontañón, "A closer look at invalid action masking in policy gradient algorithms", FLAIRS 2022), `train()`
above all, is sb3-contrib's. What is kept of a state is what it takes to judge
the choice made in it (`looks.Kept`), a small part of what was seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from envs.encoding import BUDGET_FEATURES
from envs.simulator.campaigns import Campaigns

from .averaging import average
from .looks import Kept
from .set_policy import SetPolicy
from .vec_env import CampaignsVecEnv

_LEFT = BUDGET_FEATURES.index("left_share")
_CRITIC_RATE = 3e-3
_CRITIC_EPOCHS = 4


class Samples(NamedTuple):
    """A minibatch, under the names that `MaskablePPO.train` asks for."""

    observations: Kept
    actions: torch.Tensor
    old_values: torch.Tensor
    old_log_prob: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    action_masks: None
    weak: torch.Tensor


class DeviceRolloutBuffer(MaskableDictRolloutBuffer):
    """A rollout on the device; tensors of T steps and B campaigns, allocated once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (handed on)
        self._kept: list[torch.Tensor] = []
        self._numbers: dict[str, torch.Tensor] = {}
        self._weak = torch.empty(0)
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Begins a new rollout in the old place."""
        self.pos, self.full = 0, False

    def chose(
        self, kept: Kept, actions: torch.Tensor, values: torch.Tensor, log_prob: torch.Tensor, weak: torch.Tensor
    ) -> None:
        """Keeps what was chosen in which states, before these go on.

        Args:
            kept: of the states.
            actions: that were chosen, shape (B,).
            values: of the states, shape (B,).
            log_prob: of the actions, shape (B,).
            weak: which arms of the chosen components are weak, shape (B, M), bool, the simulator's truth; (B, 0) where
                nobody learns it.
        """
        numbers = {"actions": actions, "values": values, "log_prob": log_prob, "rewards": values, "over": values}
        if not self._kept:
            size = self.buffer_size
            self._kept = [torch.empty((size, *each.shape), dtype=each.dtype, device=each.device) for each in kept]
            self._numbers = {
                name: torch.empty((size, *each.shape), dtype=each.dtype, device=each.device)
                for name, each in numbers.items()
            }
            self._weak = torch.empty((size, *weak.shape), dtype=torch.bool, device=weak.device)
        for place, each in zip(self._kept, kept, strict=True):
            place[self.pos] = each
        for name, number in numbers.items():
            self._numbers[name][self.pos] = number
        self._weak[self.pos] = weak

    def came(self, rewards: torch.Tensor, over: torch.Tensor) -> None:
        """Keeps what came of it.

        Args:
            rewards: shape (B,).
            over: whether campaigns ended, shape (B,), bool.
        """
        self._numbers["rewards"][self.pos] = rewards
        self._numbers["over"][self.pos] = over.float()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def finish(self, last_values: torch.Tensor) -> None:
        """Computes returns and advantages (Schulman et al., "High-dimensional continuous control using GAE", 2016)."""
        values, rewards, over = (self._numbers[name] for name in ("values", "rewards", "over"))
        advantages = torch.empty_like(values)
        following, gathered = last_values, torch.zeros_like(last_values)
        for step in reversed(range(self.buffer_size)):
            goes_on = 1.0 - over[step]
            surprise = rewards[step] + self.gamma * goes_on * following - values[step]
            gathered = surprise + self.gamma * self.gae_lambda * goes_on * gathered
            advantages[step] = gathered
            following = values[step]
        self._numbers |= {"advantages": advantages, "returns": advantages + values}
        # All that `train` wants of the whole, for one figure of its log.
        self.values = values.cpu().numpy()
        self.returns = self._numbers["returns"].cpu().numpy()

    def get(self, batch_size: int | None = None) -> Iterator[Samples]:  # type: ignore[override]
        """Yields minibatches in a random order; who would be alone in the last one is in the one before."""
        total = self.buffer_size * self.n_envs
        size = batch_size or total
        ends = [*range(size, total, size), total]
        if len(ends) > 1 and total - ends[-2] == 1:  # the spread of one advantage is no number
            del ends[-2]
        order = torch.randperm(total, device=self._weak.device)
        kept = [each.flatten(0, 1) for each in self._kept]
        numbers = {name: each.flatten() for name, each in self._numbers.items()}
        weak = self._weak.flatten(0, 1)
        for begin, end in pairwise([0, *ends]):
            rows = order[begin:end]
            yield Samples(
                observations=Kept(*(each.index_select(0, rows) for each in kept)),
                actions=numbers["actions"][rows],
                old_values=numbers["values"][rows],
                old_log_prob=numbers["log_prob"][rows],
                advantages=numbers["advantages"][rows],
                returns=numbers["returns"][rows],
                action_masks=None,
                weak=weak.index_select(0, rows),
            )


class DevicePPO(MaskablePPO):
    """MaskablePPO on `Campaigns`, with a head that learns from the simulator's truth how likely arms are weak.

    Args:
        campaigns: to learn on; they have to restart by themselves.
        weak_epochs: passes of that head over each rollout, 0 for none.
        critic_first: rollouts from which only the value is learnt: a policy that was taught otherwise loses what it
            knows to the advantages of a critic that knows nothing.
        hurries: whether a weakness pays by the share of the budget that is left when it is confirmed, which is its part
            of the area under the discovery curve, and experiments cost nothing but the time that they take; in full,
            less what experiments cost, otherwise. Whoever pays twice for minutes learns to stop before they are over.
        kwargs: of `MaskablePPO`.
    """

    policy: SetPolicy
    rollout_buffer: DeviceRolloutBuffer  # type: ignore[assignment]

    def __init__(
        self,
        campaigns: Campaigns,
        *,
        weak_epochs: int = 1,
        critic_first: int = 0,
        hurries: bool = False,
        **kwargs: Any,  # noqa: ANN401 (handed on)
    ) -> None:
        self.campaigns = campaigns
        self._weak_epochs = weak_epochs
        self._critic_first = critic_first
        self._hurries = hurries
        self._earned = torch.zeros(campaigns.count, device=campaigns.device)
        self._lasted = torch.zeros(campaigns.count, device=campaigns.device)
        super().__init__(
            SetPolicy,
            CampaignsVecEnv(campaigns, shows=False),
            rollout_buffer_class=DeviceRolloutBuffer,
            device=campaigns.device,
            **kwargs,
        )

    def collect_rollouts(  # type: ignore[override]
        self,
        env: object,
        callback: BaseCallback,
        rollout_buffer: DeviceRolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool = True,
    ) -> bool:
        """Fills the buffer on the device; what finished campaigns have earned is copied to the host at its end.

        On a GPU the host waits twice in a step, for how many campaigns ended and how many arms the teacher looks at.
        """
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        campaigns, ended = self.campaigns, []
        with torch.no_grad():
            for _ in range(n_rollout_steps):
                looks = self.policy.looks_on(campaigns)
                actions, values, log_prob, kept = self.policy.choose(looks, outlook=self._outlook())
                kept = self.policy.on_leash(kept, actions)
                rollout_buffer.chose(kept, actions, values, log_prob, self._weak(kept, actions))
                left, budget_min = campaigns.state.budget[:, _LEFT].clone(), campaigns.budget_min.clone()
                step = campaigns.step(actions)
                left = (left - step.shown.cost_min / budget_min).clamp(min=0.0)
                reward = left * step.found if self._hurries else step.reward
                rollout_buffer.came(reward, step.over)
                self._earned += reward
                self._lasted += 1
                ended.append(torch.stack([step.over.float(), self._earned, self._lasted]))
                self._earned = torch.where(step.over, 0.0, self._earned)
                self._lasted = torch.where(step.over, 0.0, self._lasted)
                self.num_timesteps += campaigns.count
                callback.update_locals({"self": self, "rewards": reward, "dones": step.over})
                if not callback.on_step():
                    return False
            looks = self.policy.looks_on(campaigns)
            rollout_buffer.finish(self.policy.choose(looks, deterministic=True, outlook=self._outlook())[1])
        over, earned, lasted = torch.stack(ended, dim=1).flatten(1).cpu()
        newest = (over > 0).nonzero().squeeze(1)[-self._stats_window_size :]
        for reward, length in zip(earned[newest].tolist(), lasted[newest].tolist(), strict=True):
            cast("Any", self.ep_info_buffer).append({"r": reward, "l": length, "t": 0.0})
        callback.on_rollout_end()
        return True

    def _weak(self, kept: Kept, actions: torch.Tensor) -> torch.Tensor:
        if not self._weak_epochs:
            return kept.open[:, :0]
        component = torch.where(actions == self.campaigns.stop, 0, actions // kept.open.shape[1])
        return self.campaigns.would_show_on(component) & kept.open

    def _outlook(self) -> torch.Tensor | None:
        return self.campaigns.outlook() if self.policy.network.critic is not None else None

    def train(self) -> None:
        """Learns from the rollout; those of a group, each from its own, go on from their average."""
        if self.num_timesteps <= self._critic_first * self.n_steps * self.n_envs:
            self._train_critic()
        else:
            super().train()
            self._train_weak()
        average(self.policy.optimizer)

    def _train_weak(self) -> None:
        """Learns how likely the arms that were looked at are weak."""
        for _ in range(self._weak_epochs):
            for samples in self.rollout_buffer.get(self.batch_size):
                weak = self.policy.weak(samples.observations, samples.actions)
                allowed = samples.observations.open
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    weak[allowed], samples.weak[allowed].to(weak.dtype)
                )
                self.policy.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
        if self._weak_epochs:
            self.logger.record("train/weak_loss", float(loss.detach()))

    def _train_critic(self) -> None:
        """Learns what states are worth to the policy as it is; nothing of what it chooses by is changed."""
        optimizer = self.policy.optimizer_class(self.policy.network.critic_parameters(), lr=_CRITIC_RATE)  # type: ignore[call-arg]
        for _ in range(_CRITIC_EPOCHS):
            for samples in self.rollout_buffer.get(self.batch_size):
                values, *_ = self.policy.judge(samples.observations, samples.actions)
                loss = torch.nn.functional.mse_loss(values, samples.returns)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.policy.optimizer.zero_grad()
        self.logger.record("train/value_loss", float(loss.detach()))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "campaigns", "_earned", "_lasted"]
