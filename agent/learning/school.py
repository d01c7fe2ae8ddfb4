"""`backburn train`: draws clusters, teaches a network on them, tries it on others, and writes it down."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from actuators.errors import BadInput
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator

from .arena import Tally, compared, greedily, hit_rate, knowing, one_by_one, randomly, statically, tallied
from .policy import RoundRobinPolicy
from .policy_file import store
from .posterior import ArmNetwork
from .thompson import ThompsonPolicy
from .train import Lessons, Progress, taught

_CLUSTERS = 4096
_HELD_OUT = 128
_HELD_OUT_SEED = 1_000_003
"""Held-out clusters are drawn from this seed on, which no training takes."""

_BUDGET_MIN = 20.0


def train(lessons: Lessons, generator: Generator, path: Path, console: Console, *, device: str, threads: int) -> None:
    """Trains a network and stores it with its record.

    Args:
        lessons: how.
        generator: of the clusters.
        path: of the policy; must not exist.
        console: where progress goes.
        device: to learn on.
        threads: of the processor.

    Raises:
        BadInput: the path is taken or of another kind, the device is not there, or the seed is one of the held-out.
    """
    if path.suffix != ".safetensors" or path.exists():
        raise BadInput(f"--out {path}: {'exists already' if path.exists() else 'has to end in .safetensors'}")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch sees no GPU here; allowed is cpu")
    if lessons.seed >= _HELD_OUT_SEED:
        raise BadInput(f"--seed {lessons.seed}; allowed is 0 to {_HELD_OUT_SEED - 1}")
    torch.set_num_threads(threads)
    began_s = time.monotonic()
    pool = pool_of(generator, _CLUSTERS, seed=lessons.seed)
    console.print(f"{len(pool)} clusters; choosing at random hits {hit_rate(pool):.1%}", highlight=False)

    def tell(progress: Progress) -> None:
        left_s = (lessons.steps - progress.step) * lessons.batch / progress.steps_per_s
        console.print(
            f"step {progress.step}/{lessons.steps}  loss {progress.loss:.4f}  found {progress.found:.2f} per campaign  "
            f"{progress.steps_per_s:,.0f} experiments/s  {left_s:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    network = taught(pool.to(device), lessons, tell).cpu()
    learnt_s = time.monotonic() - began_s
    figures = held_out(network, generator)
    console.print(table(figures))
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()} CPU, {threads} thread(s)",
        "torch": torch.__version__,
        "seconds": round(learnt_s, 1),
        "experiments": lessons.steps * lessons.batch,
        "lessons": asdict(lessons),
        "generator": _plain(asdict(generator)),
        "held_out": {"clusters": _HELD_OUT, "budget_min": _BUDGET_MIN, "figures": figures},
    }
    store(network, path, record)
    console.print(f"policy: {path}", highlight=False)


def held_out(network: ArmNetwork, generator: Generator) -> dict[str, dict[str, float]]:
    """Returns the figures of a network and its rivals on clusters that nobody has learnt on; see `arena.compared`."""
    pool = pool_of(generator, _HELD_OUT, seed=_HELD_OUT_SEED)
    choosers = {
        "random": randomly(0),
        "round_robin": one_by_one([RoundRobinPolicy()] * _HELD_OUT),
        "thompson": one_by_one([ThompsonPolicy(np.random.default_rng(seed)) for seed in range(_HELD_OUT)]),
        "static": statically(network),
        "posterior": greedily(network),
        "oracle": knowing,
    }
    tallies: dict[str, Tally] = {
        name: tallied(choose, pool, budget_min=_BUDGET_MIN, seed=_HELD_OUT_SEED) for name, choose in choosers.items()
    }
    return compared(tallies)


def table(figures: dict[str, dict[str, float]]) -> Table:
    """Returns figures as a table, the best first."""
    shown = Table("policy", "area (random 0, oracle 1)", "95 %", "severity", "weaknesses", "false")
    for name, of in sorted(figures.items(), key=lambda item: -item[1]["auc"]):
        shown.add_row(
            name,
            f"{of['auc']:.3f}",
            f"{of['low']:.3f} to {of['high']:.3f}",
            f"{of['severity']:.2f}",
            f"{of['discoveries']:.2f}",
            f"{of['fdr']:.1%}",
        )
    return shown


def _plain(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Returns sets as sorted lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value
