"""What a second worker costs the first: experiments per second of each, alone and together, at equal threads.

    python -m agent.bench.workers [--steps N] [--rounds N] [--cases alone together]

Trains by PPO on this host, one thread per worker: one alone over Ray Train; two that learn together over Ray Train; and
two that learn together without Ray, which is what the machine itself and the averaging take. How much memory gives
changes by the minute where others share it, so all are measured once in every round, there and back, and what is told
are the medians. Prints and writes `workers.json` into the runs folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator

from ..learning.policy_file import SHIPPED, read
from ..learning.posterior import ArmNetwork
from ..learning.ppo.practice import FolderKeeper, Practice, practised
from ..learning.ppo.together import Group, practised_together
from .beside import in_one_line, machine_and_command, whole_from_1

_GENERATOR = Generator((16, 16))
_CLUSTERS, _ASIDE, _ASIDE_SEED = 256, 8, 1
_ORIGIN = {"of": "a benchmark"}
_AIM = 0.9


def over_ray(workers: int, steps: int, folder: Path) -> float:
    """Returns experiments per second of the first of some workers, judging and checkpoints left out.

    Args:
        workers: how many train together.
        steps: experiments on each cluster of each worker's batch.
        folder: a new one.
    """
    group = Group(workers, 1, "cpu", None, _GENERATOR, clusters=_CLUSTERS, aside=_ASIDE, aside_seed=_ASIDE_SEED)
    practised_together(group, _practice(steps), _teacher(), folder, _ORIGIN)
    return _told(folder)


def without_ray(rank: int, workers: int, steps: int, folder: Path) -> None:
    """Is one of some workers that average what they learn over gloo as those of Ray Train do; the first one logs.

    Args:
        rank: which one.
        workers: see `over_ray`.
        steps: likewise.
        folder: likewise, for all of them.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    pools = (pool_of(_GENERATOR, _CLUSTERS, seed=0), pool_of(_GENERATOR, _ASIDE, seed=_ASIDE_SEED))
    keeper = FolderKeeper(folder if rank == 0 else folder / str(rank))
    keeper.rank = rank
    practised(*pools, _practice(steps), _teacher(), keeper, _ORIGIN)


def together_without_ray(steps: int, folder: Path) -> float:
    """Returns experiments per second of the first of two workers; see `without_ray`."""
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        for each in [processes.submit(without_ray, rank, 2, steps, folder) for rank in range(2)]:
            each.result()
    return _told(folder)


_CASES: Final[Mapping[str, Callable[[int, Path], float]]] = {
    "alone": partial(over_ray, 1),
    "together": partial(over_ray, 2),
    "together without Ray": together_without_ray,
}


def measured(names: Sequence[str], steps: int, folder: Path) -> dict[str, float]:
    """Returns the rate of each case, one after the other, in processes of their own: Ray starts once in one.

    Args:
        names: of the cases, in their order.
        steps: see `over_ray`.
        folder: a new one.
    """
    rates = {}
    for name in names:
        with ProcessPoolExecutor(1, get_context("spawn")) as processes:
            rates[name] = processes.submit(_CASES[name], steps, folder / name).result()
    return rates


def _practice(steps: int) -> Practice:
    return Practice(steps=steps, batch=256, critic_first=0, judged_every=steps)


def _teacher() -> ArmNetwork:
    return read(SHIPPED["posterior"], ArmNetwork)


def _told(folder: Path) -> float:
    """Returns the last rate that a training has logged."""
    with (folder / "log-0" / "progress.csv").open(encoding="utf-8") as file:
        return float([row["time/fps"] for row in csv.DictReader(file) if row["time/fps"]][-1])


def main() -> None:
    """Measures, prints, and writes down."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.workers", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=whole_from_1, default=384, help="experiments on each cluster of a batch")
    parser.add_argument("--rounds", type=whole_from_1, default=5, help="how often each is measured")
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=list(_CASES), help="which; always alone as well")
    chosen = parser.parse_args()
    names = [name for name in _CASES if name == "alone" or name in chosen.cases]
    with tempfile.TemporaryDirectory(prefix="bb-") as place:
        rounds = [
            measured(names[:: 1 if number % 2 == 0 else -1], chosen.steps, Path(place) / str(number))
            for number in range(chosen.rounds)
        ]
    print(machine_and_command())  # noqa: T201
    for name in names:
        each = [rates[name] for rates in rounds]
        print(f"  {name:<20} {median(each):>8,.0f} experiments/s of each worker ({min(each):,.0f} to {max(each):,.0f})")  # noqa: T201
    facts: dict[str, Any] = {"experiments_per_s": rounds}
    for name in names[1:]:
        ratios = [rates[name] / rates["alone"] for rates in rounds]
        facts[f"{name} to alone"] = median(ratios)
        print(f"  {name} to alone: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")  # noqa: T201
    print(f"  aim: together to alone at least {_AIM:g}")  # noqa: T201
    path = Path("runs") / "workers.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    in_one_line(main)
