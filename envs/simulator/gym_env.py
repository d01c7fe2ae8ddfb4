"""Simulated campaigns as Gymnasium environments, one or many; importing `agent.environments` registers them.

    gymnasium.make("agent.environments:backburn/SimulatedChaos-v0")
    gymnasium.make_vec(
        "agent.environments:backburn/SimulatedChaos-v0", num_envs=64, vectorization_mode="vector_entry_point"
    )

Both show the same numbers for the same seed; a batch of one is one. Who learns in PyTorch takes `Campaigns` itself,
and copies nothing.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode

from actuators.errors import BadInput

from .. import encoding
from .campaigns import Campaigns, Step
from .pool import Pool, pool_of
from .structure import Generator

Observation: TypeAlias = dict[str, npt.NDArray[np.float32]]

_CLUSTERS = 256
_LARGEST_SEED = 2**31


class SimulatedChaosEnv(gym.Env[Observation, np.int64]):
    """Chaos campaigns on simulated clusters, another one in every episode; spaces and reward as in `envs.chaos`.

    Smaller clusters than the largest are padded: where there is no component, all is zero and masked.

    Args:
        generator: how clusters are drawn.
        clusters: how many there are to begin on.
        pool_seed: of their drawing; the seed of `reset` decides which of them comes next.
        budget_min: least and most minutes of a campaign.
        pool: takes the place of drawn clusters.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        *,
        generator: Generator | None = None,
        clusters: int = _CLUSTERS,
        pool_seed: int = 0,
        budget_min: tuple[float, float] = (10.0, 40.0),
        pool: Pool | None = None,
    ) -> None:
        self.campaigns = _campaigns(1, generator, clusters, pool_seed, budget_min, pool)
        self._has_luck = False
        self.observation_space = cast("gym.Space[Observation]", encoding.observation_space(self.campaigns.state))
        self.action_space = gym.spaces.Discrete(self.campaigns.stop + 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins a new campaign; the seed decides on which cluster, and what comes of everything."""
        super().reset(seed=seed)
        draws = None if seed is None and self._has_luck else int(self.np_random.integers(_LARGEST_SEED))
        self._has_luck = True
        self.campaigns.begin(torch.zeros(1, dtype=torch.long, device=self.campaigns.device), seed=draws)
        return encoding.observe(self.campaigns.state), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Runs one experiment; a masked one is refused and touches nothing.

        Raises:
            BadInput: there is no such action.
        """
        step = self.campaigns.step(_actions(np.array([action]), self.campaigns.stop, self.campaigns.device))
        info = {name: float(value[0]) for name, value in _told(step).items()}
        return encoding.observe(self.campaigns.state), float(step.reward[0]), bool(step.over[0]), False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns which actions are allowed now, shape (actions,); `stop` always is (name as sb3-contrib asks)."""
        masks: npt.NDArray[np.bool_] = self.campaigns.masks()[0].cpu().numpy()
        return masks


class SimulatedChaosVectorEnv(gym.vector.VectorEnv[Observation, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """As many campaigns at once; one that is over begins anew in the same step, its last observation in the info."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        generator: Generator | None = None,
        clusters: int = _CLUSTERS,
        pool_seed: int = 0,
        budget_min: tuple[float, float] = (10.0, 40.0),
        pool: Pool | None = None,
    ) -> None:
        self.num_envs = num_envs
        self._has_luck = False
        self.campaigns = _campaigns(num_envs, generator, clusters, pool_seed, budget_min, pool)
        self.single_observation_space = encoding.observation_space(self.campaigns.state)
        self.single_action_space = gym.spaces.Discrete(self.campaigns.stop + 1)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins new campaigns everywhere."""
        super().reset(seed=seed)
        draws = None if seed is None and self._has_luck else int(self.np_random.integers(_LARGEST_SEED))
        self._has_luck = True
        self.campaigns.begin(torch.arange(self.num_envs, device=self.campaigns.device), seed=draws)
        return self._observations(), {}

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Observation, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Runs one experiment in every campaign.

        Raises:
            BadInput: there is no such action, or not one for each environment.
        """
        chosen = np.asarray(actions)
        if chosen.shape != (self.num_envs,):
            raise BadInput(f"actions have shape {chosen.shape}; allowed is ({self.num_envs},), one per environment")
        step = self.campaigns.step(_actions(chosen, self.campaigns.stop, self.campaigns.device))
        over = step.over.cpu().numpy()
        info: dict[str, Any] = {name: value.cpu().numpy() for name, value in _told(step).items()}
        observations = self._observations()
        if over.any():
            last = np.empty(self.num_envs, dtype=object)
            for index in np.flatnonzero(over):
                last[index] = {name: values[index].copy() for name, values in observations.items()}
            info |= {"final_obs": last, "_final_obs": over}
            self.campaigns.begin(step.over.nonzero().squeeze(1))
            observations = self._observations()
        return observations, step.reward.cpu().numpy(), over, np.zeros_like(over), info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns which actions are allowed now, shape (num_envs, actions)."""
        masks: npt.NDArray[np.bool_] = self.campaigns.masks().cpu().numpy()
        return masks

    def _observations(self) -> Observation:
        return {name: tensor.cpu().numpy().copy() for name, tensor in encoding.seen(self.campaigns.state).items()}


def _campaigns(
    count: int,
    generator: Generator | None,
    clusters: int,
    pool_seed: int,
    budget_min: tuple[float, float],
    pool: Pool | None,
) -> Campaigns:
    if clusters < 1:
        raise BadInput(f"clusters: {clusters}; allowed are values from 1")
    low, high = budget_min
    if not 0.0 < low <= high < math.inf:
        raise BadInput(f"budget_min: {low:g} to {high:g}; allowed is a finite range above 0")
    pool = pool or pool_of(generator or Generator(), clusters, seed=pool_seed)
    return Campaigns(pool, count, budget_min=budget_min, restarts=False)


def _actions(actions: npt.NDArray[np.int64], stop: int, device: torch.device) -> torch.Tensor:
    if ((actions < 0) | (actions > stop)).any():
        raise BadInput(f"action {actions[(actions < 0) | (actions > stop)][0]} does not exist; allowed are 0 to {stop}")
    return torch.from_numpy(actions.astype(np.int64)).to(device)


def _told(step: Step) -> dict[str, torch.Tensor]:
    """Returns what an experimenter would learn of an experiment beside the observation."""
    confirmed = (step.found > 0) | step.false
    return {"cost_min": step.shown.cost_min, "p": step.p, "confirmed": confirmed, "refused": step.refused}
