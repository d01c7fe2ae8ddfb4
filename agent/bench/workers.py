"""What a second worker costs the first: experiments per second of each, alone and together, at equal threads.

    python -m agent.bench.workers [--steps N] [--rounds N]

Trains by PPO over Ray Train on this host, one thread per worker: one alone; two that have nothing to do with each
other, at the same time, which is what the machine itself takes; and two that learn together. How much memory gives
changes by the minute where others share it, so all three are measured once in every round, and what is told are the
medians. Prints and writes `workers.json` into the runs folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

from envs.simulator.structure import Generator

from ..learning.policy_file import SHIPPED, read
from ..learning.posterior import ArmNetwork
from ..learning.ppo.practice import Practice
from ..learning.ppo.together import Group, practised_together
from .beside import machine_and_command

_COMPONENTS = 16
_CLUSTERS = 256
_AIM = 0.9
_CASES = {"alone": (1,), "two strangers": (1, 1), "two together": (2,)}
"""How many workers each group has that trains at the time."""


def rate(workers: int, steps: int, folder: Path) -> float:
    """Returns experiments per second of the first of some workers, judging and checkpoints left out.

    Args:
        workers: how many train together.
        steps: experiments on each cluster of each worker's batch.
        folder: a new one.
    """
    practice = Practice(steps=steps, batch=256, critic_first=0, judged_every=steps)
    teacher = read(SHIPPED["posterior"], ArmNetwork)
    generator = Generator((_COMPONENTS, _COMPONENTS))
    group = Group(workers, 1, "cpu", None, generator, clusters=_CLUSTERS, aside=8, aside_seed=1)
    practised_together(group, practice, teacher, folder, {"of": "a benchmark"})
    with (folder / "log-0" / "progress.csv").open(encoding="utf-8") as file:
        return float([row["time/fps"] for row in csv.DictReader(file) if row["time/fps"]][-1])


def apart(workers: Sequence[int], steps: int, folder: Path) -> float:
    """Returns the mean rate of some groups at the same time, each in a process of its own: Ray starts once in one.

    Args:
        workers: of each group.
        steps: see `rate`.
        folder: a new one.
    """
    with ProcessPoolExecutor(len(workers), get_context("spawn")) as processes:
        groups = [processes.submit(rate, each, steps, folder / str(number)) for number, each in enumerate(workers)]
        return fmean(group.result() for group in groups)


def main() -> None:
    """Measures, prints, and writes down."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.workers", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=384, help="experiments on each cluster of a batch")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    chosen = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="bb-") as place:
        for number in range(chosen.rounds):
            folder = Path(place) / str(number)
            folder.mkdir()
            rounds.append({name: apart(groups, chosen.steps, folder / name) for name, groups in _CASES.items()})
    print(machine_and_command())  # noqa: T201
    for name in _CASES:
        each = [rates[name] for rates in rounds]
        print(  # noqa: T201
            f"  {name:<14} {median(each):>8,.0f} experiments/s of each worker ({min(each):,.0f} to {max(each):,.0f})"
        )
    facts: dict[str, Any] = {"experiments_per_s": rounds}
    for than in ("alone", "two strangers"):
        ratios = [rates["two together"] / rates[than] for rates in rounds]
        facts[f"together to {than}"] = median(ratios)
        print(f"  together to {than}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")  # noqa: T201
    print(f"  aim: together to alone at least {_AIM:g}")  # noqa: T201
    path = Path("runs") / "workers.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
