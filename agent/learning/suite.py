"""The frozen suite: simulated clusters on which policies are compared, drawn before any of them has learnt.

Splits differ from what is learnt on in one respect each. All policies see the same clusters and the same luck. Policies
that are to be compared here learn on `HELD_BACK` (`backburn train --held-back`), in which one form of dependency graph
never occurs and two protections are never missing. On some of the clusters that they learn on something is missing that
is in no list, which no split has; of the experiments that would tell of the two protections, one in a hundred shows
something for such a reason. Changing anything here makes figures of before worthless.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, median
from typing import Any, Final

import numpy as np
import torch

from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import Pool, pool_of
from envs.simulator.structure import FAMILIES, Generator, Structure

from .arena import Chooser, Tally, compared, hit_rate, tallied

CLUSTERS: Final = 512
BUDGET_MIN: Final = 20.0
SEED: Final = 1_000_003
LUCK_SEED: Final = 1_000_004
"""Of the clusters, and of what experiments on them show: with one seed for both, the same draws would decide both."""

ASIDE_SEED: Final = 1_000_002
"""Of clusters by which settings and the best of a training are picked. No training takes a seed from there on."""

_TIMED: Final = 16

_NEW_FORM: Final = "mesh"
_NEW_WEAKNESSES: Final = frozenset({"bounded_queue", "freshness"})

_PREVALENCE: Final = 0.4
"""Makes up for the weaknesses that never occur: about one in eight permitted experiments shows something."""

TRAINING: Final = Generator(
    (6, 24),
    families=tuple(form for form in FAMILIES if form != _NEW_FORM),
    prevalence=_PREVALENCE,
    without=_NEW_WEAKNESSES,
)


_UNLISTED: Final = 0.3

HELD_BACK: Final = replace(TRAINING, unlisted=_UNLISTED)
"""What policies learn on that are to be compared here: on some clusters something is missing that is in no list, and so
is held to be possible anywhere."""


def usual(components: tuple[int, int] = (6, 24)) -> Generator:
    """Returns what policies learn on of which nothing is held back."""
    return Generator(components, unlisted=_UNLISTED)


@dataclass(frozen=True, slots=True)
class Split:
    """Clusters of one sort.

    Attributes:
        generator: draws them.
        differs: in what from those that are learnt on.
        clusters: how many, where fewer than usual have to do.
    """

    generator: Generator
    differs: str
    clusters: int = CLUSTERS


_FORMS: Final[dict[str, Any]] = {"families": TRAINING.families, "without": TRAINING.without}
_USUAL: Final[dict[str, Any]] = _FORMS | {"prevalence": _PREVALENCE}

SPLITS: Final[Mapping[str, Split]] = {
    "iid": Split(TRAINING, "in that nothing is missing that is in no list"),
    "size": Split(Generator((48, 96), **_USUAL), "two to four times as many components", clusters=128),
    "topology": Split(Generator((6, 24), **_USUAL | {"families": (_NEW_FORM,)}), "a form that is new"),
    "family": Split(
        Generator((6, 24), families=TRAINING.families, only=_NEW_WEAKNESSES, prevalence=4.0), "weaknesses that are new"
    ),
    "prevalence": Split(Generator((6, 24), **_FORMS | {"prevalence": _PREVALENCE - 1.0}), "fewer weaknesses"),
    "noise": Split(Generator((6, 24), noise=2.0, **_USUAL), "twice as many false alarms, misses and failures"),
    "plain": Split(
        Generator((6, 24), structure=Structure.none(), **_USUAL), "none of the difficulties: greed is near the best"
    ),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What policies came to on one split.

    Attributes:
        figures: per policy, as in `benchmark.json`.
        curves: per policy, mean severity confirmed by each share of the budget.
        hit_rate: share of permitted experiments that would show something.
    """

    figures: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, Sequence[float]]
    hit_rate: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What one training of a policy came to on one split.

    Attributes:
        tally: what it found.
        violations: choices that the mask forbade.
        decision_ms: how long a choice on one cluster alone takes, median of some, milliseconds.
        seconds: that the whole of it took.
    """

    tally: Tally
    violations: int
    decision_ms: float
    seconds: float


def tried(split: Split, make: Callable[[int], Chooser], clusters: int | None = None) -> Trial:
    """Runs one training of a policy on a split.

    Args:
        split: which clusters.
        make: makes the policy for so many clusters.
        clusters: how many; as many as the split says if not given.
    """
    began_s = time.perf_counter()
    pool = _pool(split, clusters or split.clusters)
    watched = _Watched(make(len(pool)))
    tally = tallied(watched.choose, pool, budget_min=BUDGET_MIN, seed=LUCK_SEED)
    return Trial(tally, watched.violations, _decision_ms(make(1), pool), time.perf_counter() - began_s)


@torch.no_grad()
def _decision_ms(choose: Chooser, pool: Pool) -> float:
    """Times choices on a pool's first cluster alone, as on a real one: hundreds at once cost less each."""
    campaigns = Campaigns(
        pool, 1, seed=LUCK_SEED, budget_min=(BUDGET_MIN, BUDGET_MIN), clusters=torch.zeros(1).long(), restarts=False
    )
    took_s = []
    for _ in range(_TIMED):
        began_s = time.perf_counter()
        actions = choose(campaigns)
        took_s.append(time.perf_counter() - began_s)
        campaigns.step(actions)
    return 1000.0 * median(took_s)


def result_of(
    split: Split, trials: Mapping[str, Sequence[Trial]], clusters: int | None = None, reference: str | None = None
) -> Result:
    """Returns what policies came to on a split.

    Args:
        split: which clusters.
        trials: of every training of a policy; `random` and `oracle` have to be among them.
        clusters: as for `tried`.
        reference: see `arena.compared`.
    """
    pool = _pool(split, clusters or split.clusters)
    own = {
        name: {
            "violations": float(sum(trial.violations for trial in of)),
            "decision_ms": fmean(trial.decision_ms for trial in of),
            "clusters": float(len(pool)),
        }
        for name, of in trials.items()
    }
    tallies = {name: [trial.tally for trial in of] for name, of in trials.items()}
    figures = {name: figure | own[name] for name, figure in compared(tallies, reference=reference).items()}
    curves = {name: np.mean([tally.curve for tally in of], axis=(0, 1)).tolist() for name, of in tallies.items()}
    return Result(figures, curves, hit_rate(pool))


@lru_cache(maxsize=1)
def _pool(split: Split, clusters: int) -> Pool:
    return pool_of(split.generator, clusters, seed=SEED)


class _Watched:
    """A policy whose choices are checked against the mask.

    Attributes:
        violations: how many of them it forbade.
    """

    def __init__(self, choose: Chooser) -> None:
        self._choose = choose
        self.violations = 0

    def choose(self, campaigns: Campaigns) -> torch.Tensor:
        actions = self._choose(campaigns)
        self.violations += int((~campaigns.masks().gather(1, actions[:, None])).sum())
        return actions


def has_seen_what_is_held_back(generator: Mapping[str, Any]) -> bool:
    """Tells whether somebody learnt on a form of graph or a kind of weakness that occurs in no training for the suite.

    Args:
        generator: of the clusters that were learnt on, as the record of a policy has it.
    """
    return not set(generator.get("without", ())) >= _NEW_WEAKNESSES or _NEW_FORM in generator.get("families", FAMILIES)


def frozen(split: str, clusters: int = CLUSTERS) -> tuple[float, float]:
    """Returns what a split is known by: its hit rate, and how many experiments of a cluster would show something."""
    pool: Pool = pool_of(SPLITS[split].generator, clusters, seed=SEED)
    return hit_rate(pool), float(pool.tells.sum(1).float().mean())
