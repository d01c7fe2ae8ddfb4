"""What a second worker costs the first: experiments per second of each, alone and together, at equal threads.

    python -m agent.bench.workers [--steps N]

Trains by PPO over Ray Train on this host, with one worker and with two, one thread each; prints and writes
`workers.json` into the runs folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from envs.simulator.structure import Generator

from ..learning.policy_file import read
from ..learning.posterior import ArmNetwork
from ..learning.ppo.practice import Practice
from ..learning.ppo.together import Group, practised_together
from ..settings import PACKAGED

_COMPONENTS = 16
_CLUSTERS = 256
_AIM = 0.9


def rate(workers: int, steps: int, folder: Path) -> float:
    """Returns experiments per second of the first of some workers, judging and checkpoints left out.

    Args:
        workers: how many train together.
        steps: experiments on each cluster of each worker's batch.
        folder: a new one.
    """
    practice = Practice(steps=steps, batch=256, judged_every=steps)
    teacher = read(PACKAGED / "policies" / "posterior.safetensors", ArmNetwork)
    generator = Generator((_COMPONENTS, _COMPONENTS))
    group = Group(workers, 1, "cpu", None, generator, clusters=_CLUSTERS, aside=8, aside_seed=1)
    practised_together(group, practice, teacher, folder, {"of": "a benchmark"})
    with (folder / "log-0" / "progress.csv").open(encoding="utf-8") as file:
        return float([row["time/fps"] for row in csv.DictReader(file) if row["time/fps"]][-1])


def apart(workers: int, steps: int, folder: Path) -> float:
    """Returns the same, from a process of its own: Ray starts once in a process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(rate, workers, steps, folder).result()


def main() -> None:
    """Measures, prints, and writes down."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.workers", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=192)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bb-") as place:
        rates = {workers: apart(workers, chosen.steps, Path(place) / str(workers)) for workers in (1, 2)}
    share = rates[2] / rates[1]
    print(f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release()}: {' '.join(sys.argv)}")  # noqa: T201
    for workers, each in rates.items():
        print(f"  {workers} worker(s), 1 thread each: {each:,.0f} experiments/s of each")  # noqa: T201
    print(f"  ratio {share:.2f} (aim: at least {_AIM:g})")  # noqa: T201
    path = Path("runs") / "workers.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"experiments_per_s": rates, "ratio": share}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
