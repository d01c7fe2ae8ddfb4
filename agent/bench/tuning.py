"""The rivals' own settings, tried out: a comparison is fair only where they were tuned as well as what learns.

    python -m agent.bench.tuning [--trials N] [--clusters N] [--out F]

Thompson's prior and the width of UCB's bounds are drawn at random, the shipped ones first, and each is tried on the
same simulated clusters, set aside for choosing settings: no training learns on them and no comparison uses them. The
genetic algorithm keeps krkn-ai's defaults; what was published of incidents, and round robin, have nothing to be set.

Prints the trials, the best first, and writes them down with `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.simulator.pool import Pool, pool_of

from ..learning import suite
from ..learning.arena import Chooser, knowing, one_by_one, randomly, tallied
from ..learning.policy import Policy
from ..learning.regression import Prior
from ..learning.rivals import UcbPolicy
from ..learning.thompson import ThompsonPolicy
from .beside import in_one_line, whole_from_1


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting of one rival, and what it came to.

    Attributes:
        policy: its name.
        settings: that were drawn.
        area: under the discovery curve, chance 0 and oracle 1.
    """

    policy: str
    settings: Mapping[str, float]
    area: float


def tuned(trials: int, clusters: int, tell: Callable[[Trial], None] = lambda _: None, *, seed: int = 0) -> list[Trial]:
    """Tries settings of every rival that has any, and returns all of them, the best of each rival first.

    Args:
        trials: of each rival.
        clusters: on which each is tried.
        tell: hears of every trial.
        seed: of what is drawn.
    """
    random = np.random.default_rng(seed)
    pool = pool_of(suite.TRAINING, clusters, seed=suite.ASIDE_SEED)
    bounds = [_area(choose, pool) for choose in (randomly(0), knowing)]
    found: list[Trial] = []
    for number in range(trials):
        prior = Prior() if number == 0 else _drawn_prior(random)
        width = float(np.sqrt(2.0)) if number == 0 else _scaled(random, 0.5)
        drawn: tuple[tuple[str, dict[str, float], Callable[[np.random.Generator], Policy]], ...] = (
            ("thompson", asdict(prior), partial(ThompsonPolicy, prior=prior)),
            ("ucb", {"width": width}, partial(UcbPolicy, width=width)),
        )
        for policy, settings, make in drawn:
            area = (_area(_each(make, clusters), pool) - bounds[0]) / (bounds[1] - bounds[0])
            found.append(Trial(policy, settings, area))
            tell(found[-1])
    return sorted(found, key=lambda trial: (trial.policy, -trial.area))


def _drawn_prior(random: np.random.Generator) -> Prior:
    usual = asdict(Prior())
    del usual["mean"]
    return Prior(float(random.uniform(0.02, 0.4)), **{name: _scaled(random, sd) for name, sd in usual.items()})


def _scaled(random: np.random.Generator, usual: float) -> float:
    """Draws a number up to four times smaller or larger than usual."""
    return float(usual * 4.0 ** random.uniform(-1.0, 1.0))


def _each(make: Callable[[np.random.Generator], Policy], count: int) -> Chooser:
    return one_by_one([make(np.random.default_rng(seed)) for seed in range(count)])


def _area(choose: Chooser, pool: Pool) -> float:
    return float(tallied(choose, pool, budget_min=suite.BUDGET_MIN, seed=suite.LUCK_SEED).area.mean())


def lines_of(trials: Sequence[Trial]) -> list[str]:
    """Returns what a person reads of it."""
    return [
        f"{trial.policy:<10}{trial.area:>7.3f}  "
        + ", ".join(f"{name} {value:.3g}" for name, value in trial.settings.items())
        for trial in trials
    ]


def main() -> None:
    """Tries, prints, and writes down."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.tuning", description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=whole_from_1, default=32, help="settings of each rival")
    parser.add_argument("--clusters", type=whole_from_1, default=128)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    trials = tuned(chosen.trials, chosen.clusters, lambda trial: print(*lines_of([trial]), flush=True))  # noqa: T201
    print("", " ".join(sys.argv), *lines_of(trials), sep="\n")  # noqa: T201
    if chosen.out is not None:
        data: dict[str, Any] = {"command": " ".join(sys.argv), "trials": [asdict(trial) for trial in trials]}
        chosen.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    in_one_line(main)
