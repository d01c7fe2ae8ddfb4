"""Simulated campaigns as a vector environment of Stable-Baselines3: the path in numpy, for its unchanged algorithms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.vec_env import VecEnv

from envs import encoding
from envs.simulator.campaigns import Campaigns


class CampaignsVecEnv(VecEnv):
    """A view of `Campaigns` in numpy; what it shows and does is the same, copied.

    Args:
        campaigns: have to restart by themselves, as SB3 expects of its vector environments.
        shows: whether anything is copied; not for who looks at the campaigns themselves.
    """

    def __init__(self, campaigns: Campaigns, *, shows: bool = True) -> None:
        self.campaigns = campaigns
        self._shows = shows
        self._actions = torch.zeros(campaigns.count, dtype=torch.long)
        super().__init__(
            campaigns.count,
            encoding.observation_space(campaigns.state),
            gym.spaces.Discrete(campaigns.stop + 1),
        )

    def reset(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns what is seen now, nothing if nothing is to be shown; campaigns have begun already."""
        return self._observations()

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        """Takes the actions."""
        self._actions = torch.as_tensor(actions, device=self.campaigns.device).long()

    def step_wait(self) -> Any:  # noqa: ANN401 (theirs)
        """Runs one experiment in every campaign; one that is over has begun anew, its end is a true one."""
        step = self.campaigns.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return self._observations(), step.reward.cpu().numpy(), step.over.cpu().numpy(), infos

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns which actions are allowed now, shape (B, A + 1)."""
        masks: npt.NDArray[np.bool_] = self.campaigns.masks().cpu().numpy()
        return masks

    def env_method(
        self,
        method_name: str,
        *method_args: Any,  # noqa: ANN401 (theirs)
        indices: int | Iterable[int] | None = None,
        **method_kwargs: Any,  # noqa: ANN401 (theirs)
    ) -> list[Any]:
        """Calls a method for every campaign; the only one is `action_masks`.

        Raises:
            AttributeError: another method.
        """
        if method_name != "action_masks":
            raise AttributeError(f"simulated campaigns have no method {method_name!r}")
        masks = self.action_masks()
        return [masks[index] for index in self._chosen(indices)]

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Returns an attribute of every campaign: `render_mode` and `action_masks`, as SB3 looks for them.

        Raises:
            AttributeError: another attribute.
        """
        known = {"render_mode": None, "action_masks": self.action_masks}
        if attr_name not in known:
            raise AttributeError(f"simulated campaigns have no attribute {attr_name!r}")
        return [known[attr_name] for _ in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:  # noqa: ANN401
        """Refuses.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"attribute {attr_name!r} of simulated campaigns cannot be set")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: int | Iterable[int] | None = None) -> list[bool]:
        """Tells that none is."""
        return [False for _ in self._chosen(indices)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Begins anew with a seed."""
        self.campaigns.begin(torch.arange(self.num_envs, device=self.campaigns.device), seed=seed)
        return [seed] * self.num_envs

    def close(self) -> None:
        """Has nothing to end."""

    def _chosen(self, indices: int | Iterable[int] | None) -> Iterable[int]:
        return range(self.num_envs) if indices is None else [indices] if isinstance(indices, int) else indices

    def _observations(self) -> dict[str, npt.NDArray[np.float32]]:
        if not self._shows:
            return {}
        return {name: tensor.cpu().numpy().copy() for name, tensor in encoding.seen(self.campaigns.state).items()}
