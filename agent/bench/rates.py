"""How fast simulated campaigns are, and learning on them: experiments per second, all clusters of a batch together.

    python -m agent.bench.rates [--device cuda] [--hidden N] [--processes N]

Clusters of 16 components, rollouts of 32 experiments, two epochs; beside it sb3-contrib's own loop and buffer with the
same network, epochs and minibatches. On a processor with as many processes at the same time as it has cores, one thread
each, which is how workers learn: threads that wait for each other at every step take longer. Prints what
`python -m agent.bench` measures as well, without a cluster.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
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
from ..learning.ppo.practice import Practice
from ..learning.ppo.set_policy import SetPolicy
from ..learning.ppo.vec_env import CampaignsVecEnv
from ..learning.train import Lessons, taught
from .beside import in_one_line, machine_and_command

Model = TypeVar("Model", bound=MaskablePPO)

COMPONENTS = 16
_TIMES = 3
_STEPS = 32
_MEET_WITHIN_S = 300.0
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


def rates(processes: int = 1, device: str = "cpu", hidden: int = Practice().hidden) -> dict[str, float]:
    """Returns experiments per second of the simulator alone, with a network that chooses, and with one that learns.

    The best of three, on clusters of 16 components.

    Args:
        processes: that do the same at the same time, one thread of the processor each; what they do together counts,
            from when all begin until the last one has ended.
        device: cpu or cuda.
        hidden: width of PPO's network.
    """
    context = get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _meeting_at, (barrier,)) as together:
        running = [together.submit(_spans, device, hidden) for _ in range(processes)]
        spans = [each.result() for each in running]
    return {
        name: max(
            sum(each.experiments for each in at_once)
            / (max(each.ended_s for each in at_once) - min(each.began_s for each in at_once))
            for at_once in zip(*(of_one[name] for of_one in spans), strict=True)
        )
        for name in spans[0]
    }


@dataclass(frozen=True, slots=True)
class Span:
    """What one process did in one piece.

    Attributes:
        experiments: how many.
        began_s, ended_s: of the host's monotonic clock, seconds.
    """

    experiments: int
    began_s: float
    ended_s: float


_barriers: list[Barrier] = []
"""Where the processes that measure at the same time meet before every piece."""


def _meeting_at(barrier: Barrier) -> None:
    torch.set_num_threads(1)
    _barriers.append(barrier)


def _spans(device: str, hidden: int) -> dict[str, list[Span]]:
    """Measures everything three times, each time when all who measure are ready and have done it once."""
    sizes = _SIZES[device]
    pool = pool_of(Generator((COMPONENTS, COMPONENTS)), 512, seed=0).to(device)
    pieces: dict[str, Callable[[], tuple[int, Callable[[], object]]]] = {
        "environment only": lambda: _alone(Campaigns(pool, sizes.alone)),
        "a network chooses": lambda: _choosing(pool),
        "a network learns": lambda: _learning(pool),
        "PPO's rollout": lambda: _rollout(pool, sizes, hidden),
        "PPO learns": lambda: _ppo(pool, sizes, hidden),
        "PPO learns, stock loop and buffer": lambda: _stock_ppo(pool, sizes, hidden),
    }
    spans: dict[str, list[Span]] = {name: [] for name in pieces}
    for name, piece in pieces.items():
        for _ in range(_TIMES):
            gc.collect()  # a model that has learnt is held by its own callback, and holds a rollout of memory
            experiments, run = piece()
            run()  # who learns for minutes takes the memory for it once
            for barrier in _barriers:
                barrier.wait(_MEET_WITHIN_S)
            spans[name].append(_span(experiments, run))
    return spans


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
    took_s = [span.ended_s - span.began_s for span in (_span(*_alone(campaigns)) for _ in range(_TIMES))]
    return Cost(count, components, 1e6 * min(took_s) / (_STEPS * count), changing / 2**20)


def _alone(campaigns: Campaigns) -> tuple[int, Callable[[], object]]:
    """Steps by arms that each cluster offers, whichever cluster a campaign has come to: few of them are refused."""
    random = torch.Generator(campaigns.device).manual_seed(0)
    offered = campaigns.pool.available.flatten(1).float()
    drawn = torch.multinomial(offered, _STEPS, replacement=True, generator=random)
    return _STEPS * campaigns.count, lambda: [campaigns.step(drawn[campaigns.cluster, n]) for n in range(_STEPS)]


def _choosing(pool: Pool) -> tuple[int, Callable[[], object]]:
    campaigns = Campaigns(pool, 256)
    choose = greedily(ArmNetwork().to(campaigns.device).requires_grad_(requires_grad=False))
    return 16 * 256, lambda: [campaigns.step(choose(campaigns)) for _ in range(16)]


def _learning(pool: Pool) -> tuple[int, Callable[[], object]]:
    return 16 * 256, lambda: taught(pool, Lessons(steps=16, batch=256))


def _rollout(pool: Pool, sizes: Sizes, hidden: int) -> tuple[int, Callable[[], object]]:
    model = _silent(DevicePPO(Campaigns(pool, sizes.learning), weak_epochs=0, **_ppo_of(sizes, hidden)))
    _, callback = model._setup_learn(sizes.learning)
    return sizes.learning * _STEPS, lambda: model.collect_rollouts(None, callback, model.rollout_buffer, _STEPS)


def _ppo(pool: Pool, sizes: Sizes, hidden: int) -> tuple[int, Callable[[], object]]:
    model = _silent(DevicePPO(Campaigns(pool, sizes.learning), weak_epochs=0, **_ppo_of(sizes, hidden)))
    return sizes.learning * _STEPS, lambda: model.learn(sizes.learning * _STEPS)


def _stock_ppo(pool: Pool, sizes: Sizes, hidden: int) -> tuple[int, Callable[[], object]]:
    """The same network, epochs and minibatches on the same simulator, with sb3-contrib's own loop and buffer."""
    env = CampaignsVecEnv(Campaigns(pool, _STOCK_BATCH))
    model = _silent(MaskablePPO(SetPolicy, env, device=pool.components.device, **_ppo_of(sizes, hidden)))
    return _STOCK_BATCH * _STEPS, lambda: model.learn(_STOCK_BATCH * _STEPS)


def _silent(model: Model) -> Model:
    """Returns a model that logs nothing, and leaves no folder for it."""
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _ppo_of(sizes: Sizes, hidden: int) -> dict[str, Any]:
    return {
        "n_steps": _STEPS,
        "batch_size": sizes.minibatch,
        "n_epochs": 2,
        "policy_kwargs": {"hidden": hidden},
    }


def _span(experiments: int, run: Callable[[], object]) -> Span:
    _wait()
    began_s = time.monotonic()
    run()
    _wait()
    return Span(experiments, began_s, time.monotonic())


def _wait() -> None:
    """Waits for what a GPU still has to do, where one is used."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.rates", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=sorted(_SIZES), default="cpu")
    parser.add_argument("--hidden", type=int, default=Practice().hidden, help="width of PPO's network")
    parser.add_argument("--processes", type=int, help="at once; one on a GPU, else as many as there are cores")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; allowed here is cpu")
    usual = 1 if chosen.device == "cuda" else len(os.sched_getaffinity(0))
    processes = usual if chosen.processes is None else chosen.processes
    if processes < 1 or chosen.hidden < 1:
        parser.error("--processes and --hidden: allowed is 1 and more")
    found = rates(processes, chosen.device, chosen.hidden)
    card = f"{torch.cuda.get_device_name()}, " if chosen.device == "cuda" else ""
    print(card + machine_and_command())  # noqa: T201
    print(f"{processes} process(es) of one thread, network {chosen.hidden} wide, clusters of {COMPONENTS} components")  # noqa: T201
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
    in_one_line(main)
