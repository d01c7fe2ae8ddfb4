"""How fast simulated campaigns are, and learning on them: experiments per second, all clusters of a batch together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sb3_contrib import MaskablePPO

from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import Pool, pool_of
from envs.simulator.structure import Generator

from ..learning.arena import greedily
from ..learning.posterior import ArmNetwork
from ..learning.ppo.device import DevicePPO
from ..learning.ppo.set_policy import SetPolicy
from ..learning.ppo.vec_env import CampaignsVecEnv
from ..learning.train import Lessons, taught

COMPONENTS = 16
_BATCH = 4096
_TIMES = 3
_STEPS = 32
_PPO_BATCH, _PPO_STEPS = 512, 32
_PPO: dict[str, Any] = {"n_steps": _PPO_STEPS, "batch_size": 2048, "n_epochs": 2}


def rates(threads: int) -> dict[str, float]:
    """Returns experiments per second of the simulator alone, with a network that chooses, and with one that learns.

    The best of three, on clusters of 16 components.

    Args:
        threads: of the processor.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pool = pool_of(Generator((COMPONENTS, COMPONENTS)), 512, seed=0)
        return {
            "environment only": max(_alone(Campaigns(pool, _BATCH)) for _ in range(_TIMES)),
            "a network chooses": max(_choosing(pool) for _ in range(_TIMES)),
            "a network learns": max(_learning(pool) for _ in range(_TIMES)),
            "PPO's rollout": max(_rollout(pool) for _ in range(_TIMES)),
            "PPO learns": max(_ppo(pool) for _ in range(_TIMES)),
            "PPO learns, stock loop and buffer": max(_stock_ppo(pool) for _ in range(_TIMES)),
        }
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one experiment costs the simulator alone.

    Attributes:
        campaigns: at once.
        components: of every cluster.
        us: microseconds per experiment, all campaigns together.
        mib: memory of everything that changes, MiB.
    """

    campaigns: int
    components: int
    us: float
    mib: float


def growth() -> list[Cost]:
    """Returns costs by number of campaigns and of components; one thread, the best of three."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            *(_cost(campaigns, COMPONENTS) for campaigns in (64, 256, 1024, 4096, 16384)),
            *(_cost(1024, components) for components in (8, 32, 64, 96)),
        ]
    finally:
        torch.set_num_threads(before)


def _cost(count: int, components: int) -> Cost:
    pool = pool_of(Generator((components, components)), 64, seed=0)
    campaigns = Campaigns(pool, count)
    changing = sum(tensor.numel() * tensor.element_size() for tensor in campaigns.saved().values())
    rate = max(_alone(campaigns) for _ in range(_TIMES))
    return Cost(count, components, 1e6 / rate, changing / 2**20)


def _alone(campaigns: Campaigns) -> float:
    random = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(campaigns.masks()[:, :-1].float(), 4, generator=random).T
    return _rate(_STEPS * campaigns.count, lambda: [campaigns.step(drawn[step % 4]) for step in range(_STEPS)])


def _choosing(pool: Pool) -> float:
    campaigns, choose = Campaigns(pool, 256), greedily(ArmNetwork())
    with torch.no_grad():
        return _rate(16 * 256, lambda: [campaigns.step(choose(campaigns)) for _ in range(16)])


def _learning(pool: Pool) -> float:
    return _rate(16 * 256, lambda: taught(pool, Lessons(steps=16, batch=256)))


def _rollout(pool: Pool) -> float:
    model = DevicePPO(Campaigns(pool, _PPO_BATCH), **_PPO)
    _, callback = model._setup_learn(_PPO_BATCH)
    return _rate(
        _PPO_BATCH * _PPO_STEPS,
        lambda: model.collect_rollouts(None, callback, model.rollout_buffer, _PPO_STEPS),
    )


def _ppo(pool: Pool) -> float:
    model = DevicePPO(Campaigns(pool, _PPO_BATCH), weak_epochs=0, **_PPO)
    return _rate(_PPO_BATCH * _PPO_STEPS, lambda: model.learn(_PPO_BATCH * _PPO_STEPS))


def _stock_ppo(pool: Pool) -> float:
    """The same network, epochs and minibatches on the same simulator, with sb3-contrib's own loop and buffer."""
    model = MaskablePPO(SetPolicy, CampaignsVecEnv(Campaigns(pool, _PPO_BATCH)), **_PPO)
    return _rate(_PPO_BATCH * _PPO_STEPS, lambda: model.learn(_PPO_BATCH * _PPO_STEPS))


def _rate(experiments: int, run: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    run()
    return experiments / (time.perf_counter() - began_s)
