"""The same campaigns again, on what a benchmark has recorded: no cluster, no minutes, any policy, many seeds.

Policy, campaign, guards, confirmation and reserve are those of a run; only what an experiment shows is drawn, with
replacement, from what the same cell showed before (`envs.recorded`). Starts with the same weaknesses planted on the same
topology are drawn from together. What was never tried is masked, and what was tried once shows the same for ever: the
intervals say how far chance in choosing and drawing goes, and nothing of how little was recorded.
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
from ..progress import Silent
from ..settings import Settings, load
from . import evidence
from .figures import Finds, finds_of, summed_up
from .live import SCHEMA_VERSION, SUMMARY, require_known
from .oracle import ORACLE, oracle_of


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

    def outcome(self, outcome: Outcome, why: str) -> None:
        """Counts one."""
        self.experiments += 1

    def chose(self, fault: object, spent_min: float) -> None:
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
) -> list[dict[str, Any]]:
    """Runs campaigns on what a benchmark has recorded.

    Args:
        folder: of the benchmark.
        policies: their names.
        seeds: campaigns of each policy on each group of starts.
        budget_min: minutes of each; those of the benchmark if not given.
        first_seed: of the first campaign.

    Returns:
        One row per policy, the best first.

    Raises:
        BadInput: the folder holds no benchmark, or no sham was recorded.
    """
    require_known(policies)
    settings, groups = _read(folder)
    minutes = budget_min or settings.campaign.budget_min
    finds = [
        _campaign(settings, group, policy, seed, minutes)
        for policy in policies
        for group in groups
        for seed in range(first_seed, first_seed + seeds)
    ]
    return summed_up(finds, first_seed)


def _campaign(settings: Settings, group: Group, policy: str, seed: int, minutes: float) -> Finds:
    """Runs one campaign; what it draws and what it chooses come from the same seed, and not from the same numbers."""
    drawing, choosing = np.random.default_rng(seed).spawn(2)
    campaign = settings.campaign
    budget = Budget(minutes, campaign.reserve_share, campaign.sham_share)
    world = RecordedWorld(settings, group, drawing)
    env = RecordedEnv(world, group.recorded.keys(), budget_min=budget.choices_min, max_experiments=campaign.experiments)
    log, result = Log(), Result()
    chooser: Policy = oracle_of(env, group.planted) if policy == ORACLE else policy_named(policy, choosing)
    Campaign(
        env,
        chooser,
        budget,
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
        budget_min=minutes,
    )


def _read(folder: Path) -> tuple[Settings, list[Group]]:
    """Returns a benchmark's settings and what it has recorded.

    Raises:
        BadInput: it is none, or of another version, or holds too little.
    """
    try:
        data = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise BadInput(
                f"{folder} was written in schema version {data['schema_version']}; this Backburn reads {SCHEMA_VERSION}"
            )
        clusters = {int(start): cluster for start, cluster in data["clusters"].items()}
        topologies = {start: Topology.from_json(cluster["topology"]) for start, cluster in clusters.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{folder} is not the folder of a benchmark: {error}") from error
    together: dict[str, list[int]] = {}
    for start, cluster in clusters.items():
        together.setdefault(json.dumps(cluster, sort_keys=True), []).append(start)
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
    return load(folder / "settings.yaml"), groups
