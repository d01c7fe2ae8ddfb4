"""How fast simulated campaigns are, and learning on them: experiments per second, all clusters of a batch together.

    python -m agent.bench.rates [--device cuda] [--threads N]

Clusters of 16 components, rollouts of 32 experiments, two epochs; beside it sb3-contrib's own loop and buffer with the
same network, epochs and minibatches. Prints what `python -m agent.bench` measures as well, without a cluster.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.logger import Logger

from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import Pool, pool_of
from envs.simulator.structure import Generator

from ..learning.arena import greedily
from ..learning.posterior import ArmNetwork
from ..learning.ppo.device import DevicePPO
from ..learning.ppo.set_policy import SetPolicy
from ..learning.ppo.vec_env import CampaignsVecEnv
from ..learning.train import Lessons, taught

Model = TypeVar("Model", bound=MaskablePPO)

COMPONENTS = 16
_TIMES = 3
_STEPS = 32
_STOCK_BATCH = 512
"""Campaigns of the stock loop, whose buffer holds all that is seen: 80 kB for each of them and step."""

AIMS: Final[Mapping[str, Mapping[str, float]]] = {
    "cpu": {"environment only": 5e5, "PPO's rollout": 8e4, "PPO learns": 2.5e4},
    "cuda": {"environment only": 2e7, "PPO's rollout": 5e6, "PPO learns": 1e6},
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done at once.

    Attributes:
        alone: campaigns of the simulator alone.
        learning: campaigns of PPO.
        minibatch: experiments per gradient.
    """

    alone: int
    learning: int
    minibatch: int


_SIZES = {"cpu": Sizes(4096, 1024, 2048), "cuda": Sizes(16384, 16384, 16384)}


def rates(threads: int, device: str = "cpu") -> dict[str, float]:
    """Returns experiments per second of the simulator alone, with a network that chooses, and with one that learns.

    The best of three, on clusters of 16 components.

    Args:
        threads: of the processor.
        device: cpu or cuda.
    """
    before, sizes = torch.get_num_threads(), _SIZES[device]
    torch.set_num_threads(threads)
    try:
        pool = pool_of(Generator((COMPONENTS, COMPONENTS)), 512, seed=0).to(device)
        return {
            "environment only": max(_alone(Campaigns(pool, sizes.alone)) for _ in range(_TIMES)),
            "a network chooses": max(_choosing(pool) for _ in range(_TIMES)),
            "a network learns": max(_learning(pool) for _ in range(_TIMES)),
            "PPO's rollout": max(_rollout(pool, sizes) for _ in range(_TIMES)),
            "PPO learns": max(_ppo(pool, sizes) for _ in range(_TIMES)),
            "PPO learns, stock loop and buffer": max(_stock_ppo(pool, sizes) for _ in range(_TIMES)),
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
    random = torch.Generator(campaigns.device).manual_seed(0)
    drawn = torch.multinomial(campaigns.masks()[:, :-1].float(), 4, generator=random).T
    return _rate(_STEPS * campaigns.count, lambda: [campaigns.step(drawn[step % 4]) for step in range(_STEPS)])


def _choosing(pool: Pool) -> float:
    device = pool.components.device
    campaigns, choose = Campaigns(pool, 256), greedily(ArmNetwork().to(device))
    with torch.no_grad():
        return _rate(16 * 256, lambda: [campaigns.step(choose(campaigns)) for _ in range(16)])


def _learning(pool: Pool) -> float:
    return _rate(16 * 256, lambda: taught(pool, Lessons(steps=16, batch=256)))


def _rollout(pool: Pool, sizes: Sizes) -> float:
    model = _silent(DevicePPO(Campaigns(pool, sizes.learning), weak_epochs=0, **_ppo_of(sizes)))
    _, callback = model._setup_learn(sizes.learning)
    return _rate(
        sizes.learning * _STEPS,
        lambda: model.collect_rollouts(None, callback, model.rollout_buffer, _STEPS),
    )


def _ppo(pool: Pool, sizes: Sizes) -> float:
    model = _silent(DevicePPO(Campaigns(pool, sizes.learning), weak_epochs=0, **_ppo_of(sizes)))
    return _rate(sizes.learning * _STEPS, lambda: model.learn(sizes.learning * _STEPS))


def _stock_ppo(pool: Pool, sizes: Sizes) -> float:
    """The same network, epochs and minibatches on the same simulator, with sb3-contrib's own loop and buffer."""
    env = CampaignsVecEnv(Campaigns(pool, _STOCK_BATCH))
    model = _silent(MaskablePPO(SetPolicy, env, device=pool.components.device, **_ppo_of(sizes)))
    return _rate(_STOCK_BATCH * _STEPS, lambda: model.learn(_STOCK_BATCH * _STEPS))


def _silent(model: Model) -> Model:
    """Returns a model that logs nothing, and leaves no folder for it."""
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _ppo_of(sizes: Sizes) -> dict[str, Any]:
    return {"n_steps": _STEPS, "batch_size": sizes.minibatch, "n_epochs": 2}


def _rate(experiments: int, run: Callable[[], object]) -> float:
    _wait()
    began_s = time.perf_counter()
    run()
    _wait()
    return experiments / (time.perf_counter() - began_s)


def _wait() -> None:
    """Waits for what a GPU still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.rates", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=sorted(_SIZES), default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; allowed here is cpu")
    found = rates(chosen.threads, chosen.device)
    card = f", {torch.cuda.get_device_name()}" if chosen.device == "cuda" else ""
    print(f"{chosen.threads} threads{card}, Linux {platform.release()}: {' '.join(sys.argv)}")  # noqa: T201
    for name, rate in found.items():
        aim = AIMS[chosen.device].get(name)
        print(f"  {name:<34}{rate:>12,.0f} experiments/s" + (f"  {rate / aim:.2f} of the aim" if aim else ""))  # noqa: T201
    ratio = found["PPO learns"] / found["PPO learns, stock loop and buffer"]
    print(f"  PPO learns {ratio:.1f} times as fast as in the stock loop")  # noqa: T201
    print("the simulator alone, one thread of the processor:")  # noqa: T201
    for cost in growth():
        what = f"{cost.campaigns:,} campaigns on {cost.components} components"
        print(f"  {what:<40}{cost.us:>8.1f} us per experiment, {cost.mib:>7.0f} MiB")  # noqa: T201


if __name__ == "__main__":
    main()
