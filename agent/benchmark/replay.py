"""The same campaigns again, on what a benchmark has recorded: no cluster, no minutes, any policy, many seeds.

Policy, campaign, guards, confirmation and reserve are those of a run; only what an experiment shows is drawn, with
replacement, from what the same cell showed before (`envs.recorded`). Starts with the same weaknesses planted on the
same topology are drawn from together. What was never tried stays unknown and is offered to nobody, and what was tried
once shows the same for ever: the intervals say how far chance in choosing and drawing goes, and nothing of how little
was recorded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actuators.errors import BadInput
from envs.clusters.base import Topology
from envs.clusters.recorded import SteadyCluster
from envs.confirmation import Cell
from envs.experiment import Experimenter
from envs.outcome import Outcome
from envs.recorded import Recorded, RecordedEnv, RecordedExperimenter
from safety.vitals import Identity

from ..build.parts import policy_named
from ..build.recorded import Archive
from ..campaign import Budget, Campaign, Result
from ..findings.weakness import Weakness
from ..learning.policy import Policy
from ..learning.reasons import Reason
from ..progress import Silent
from ..settings import Settings, load
from . import evidence
from .figures import Finds, finds_of, summed_up
from .live import require_known, summary_of
from .oracle import ORACLE, oracle_of


@dataclass(frozen=True, slots=True)
class Replayed:
    """What campaigns on a benchmark's evidence have come to.

    Attributes:
        rows: one per policy, the best first.
        unknown: experiments that nobody ever tried, of all groups of starts.
        offered: those that the clusters would have offered.
    """

    rows: list[dict[str, Any]]
    unknown: int
    offered: int


@dataclass(frozen=True, slots=True)
class Group:
    """Starts that may be drawn from together.

    Attributes:
        start: the first of them.
        planted: every switch and whether it was weak.
        topology: of the cluster.
        recorded: what experiments have shown.
    """

    start: int
    planted: Mapping[str, str]
    topology: Topology
    recorded: Recorded


class Log(Silent):
    """Counts experiments, and tells nobody anything."""

    def __init__(self) -> None:
        self.experiments = 0

    def outcome(self, outcome: Outcome, why: str, reason: Reason | None = None) -> None:
        """Counts one."""
        self.experiments += 1

    def weakness(self, weakness: Weakness) -> None:
        """Keeps nothing."""

    def milder(self, weakness: Weakness) -> None:
        """Keeps nothing."""

    def chose(self, fault: object, spent_min: float, reason: Reason | None = None) -> None:
        """Says nothing."""

    def judged(self, outcome: Outcome, why: str) -> None:
        """Says nothing."""

    def confirmed(self, weakness: Weakness) -> None:
        """Says nothing."""


class RecordedWorld:
    """A cluster of which no more is left than what experiments on it have shown; see `envs.chaos.World`.

    Args:
        settings: of the benchmark.
        group: what is left.
        random: draws from it.
    """

    def __init__(self, settings: Settings, group: Group, random: np.random.Generator) -> None:
        self._settings = settings
        self._group = group
        self._random = random
        self._archive = Archive(settings)

    def start(self, seed: int | None) -> Experimenter:
        """Returns who tells what experiments have shown."""
        settings = self._settings
        identity = Identity(settings.cluster.id, settings.cluster.environment)
        cluster = SteadyCluster(identity, self._group.topology, settings.hypothesis, settings.telemetry.period_s)
        sort = partial(RecordedExperimenter, recorded=self._group.recorded, random=self._random)
        return self._archive.experimenter(cluster, sort)

    def close(self) -> None:
        """Ends the door that leads nowhere."""
        self._archive.close()


def replayed(
    folder: Path, policies: Sequence[str], *, seeds: int, budget_min: float | None, first_seed: int
) -> Replayed:
    """Runs campaigns on what a benchmark has recorded.

    Args:
        folder: of the benchmark.
        policies: their names.
        seeds: campaigns of each policy on each group of starts.
        budget_min: minutes of each; those of the benchmark if not given.
        first_seed: of the first campaign.

    Raises:
        BadInput: the folder holds no benchmark, or no sham was recorded.
    """
    require_known(policies)
    settings, groups = _read(folder, budget_min)
    finds = [
        _campaign(settings, group, policy, seed)
        for policy in policies
        for group in groups
        for seed in range(first_seed, first_seed + seeds)
    ]
    looks = [_look(settings, group) for group in groups]
    unknown, offered = (sum(look[which] for look in looks) for which in (0, 1))
    return Replayed(summed_up(finds, first_seed), unknown, offered)


def _look(settings: Settings, group: Group) -> tuple[int, int]:
    """Returns how many experiments nobody ever tried, and how many could have been."""
    env = _env(settings, group, np.random.default_rng(0))
    env.reset(seed=0)
    env.close()
    return env.unknown, env.offered


def _env(settings: Settings, group: Group, random: np.random.Generator) -> RecordedEnv:
    world, campaign = RecordedWorld(settings, group, random), settings.campaign
    budget_min = _budget(settings).choices_min
    return RecordedEnv(world, group.recorded.keys(), budget_min=budget_min, max_experiments=campaign.experiments)


def _budget(settings: Settings) -> Budget:
    campaign = settings.campaign
    return Budget(campaign.budget_min, campaign.reserve_share, campaign.sham_share)


def _campaign(settings: Settings, group: Group, policy: str, seed: int) -> Finds:
    """Runs one campaign; what it draws and what it chooses come from the same seed, and not from the same numbers."""
    drawing, choosing = np.random.default_rng(seed).spawn(2)
    env = _env(settings, group, drawing)
    log, result = Log(), Result()
    chooser: Policy = oracle_of(env, group.planted) if policy == ORACLE else policy_named(policy, choosing)
    Campaign(
        env,
        chooser,
        _budget(settings),
        record=log,
        progress=log,
        result=result,
        seed=seed,
        stopwatch=time.perf_counter,
    ).run()
    env.close()
    return finds_of(
        result,
        group.planted,
        policy=policy,
        start=group.start,
        seed=seed,
        experiments=log.experiments,
        budget_min=settings.campaign.budget_min,
    )


def _read(folder: Path, budget_min: float | None) -> tuple[Settings, list[Group]]:
    """Returns a benchmark's settings and what it has recorded.

    Raises:
        BadInput: it is none, or of another version, or holds too little.
    """
    data = summary_of(folder)
    try:
        clusters = {int(start): cluster for start, cluster in data["clusters"].items()}
        topologies = {start: Topology.from_json(cluster["topology"]) for start, cluster in clusters.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{folder} is not the folder of a benchmark: {error}") from error
    together: dict[str, list[int]] = {}
    for start, cluster in clusters.items():
        together.setdefault(json.dumps(cluster, sort_keys=True), []).append(start)
    if not together:
        raise BadInput(f"{folder} holds a benchmark of which no campaign is over; nothing can be drawn from it")
    experiments = list(evidence.read(folder))
    groups = []
    for starts in together.values():
        recorded: dict[Cell | None, list[Outcome]] = {}
        for experiment in experiments:
            if experiment.start in starts:
                fault = experiment.outcome.fault
                recorded.setdefault(None if fault is None else Cell.of(fault), []).append(experiment.outcome)
        if None not in recorded:
            raise BadInput(f"{folder} holds no sham of start {starts[0]}; a campaign begins with one")
        groups.append(Group(starts[0], clusters[starts[0]]["planted"], topologies[starts[0]], recorded))
    return load(folder / "settings.yaml", {"campaign.budget_min": budget_min}, environment=False), groups
