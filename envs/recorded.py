"""Experiments that were run before, drawn again: the same environment, as far as anybody has looked.

A policy chooses as on a cluster that is there. What its experiment shows is drawn from what the same cell has shown
before, with all the time that took; a cell that nobody ever tried is not offered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from actuators.fault import Fault
from safety.guards import Refusal
from safety.supervisor import Supervisor

from .chaos import ChaosEnv, World
from .clusters.recorded import SteadyCluster
from .confirmation import Cell
from .experiment import Experimenter, Observer, Patience
from .hypothesis import Hypothesis
from .outcome import Outcome
from .scoring import Scorer, Verdict

Recorded: TypeAlias = Mapping[Cell | None, Sequence[Outcome]]
"""What every cell has shown, whoever tried it; under None, what shams have shown."""


class RecordedExperimenter(Experimenter):
    """Runs no experiments, and tells what they have shown before.

    Args:
        cluster: stands for the one that is gone.
        supervisor: says what guards would refuse.
        scorer: says how time was cut.
        hypothesis: what the cluster promised.
        observer: is told nothing, for nothing goes on.
        patience: of the experiments that were run.
        recorded: what they have shown; at least one sham.
        random: draws from it.
    """

    def __init__(
        self,
        cluster: SteadyCluster,
        supervisor: Supervisor,
        scorer: Scorer,
        hypothesis: Hypothesis,
        observer: Observer,
        patience: Patience | None = None,
        *,
        recorded: Recorded,
        random: np.random.Generator,
    ) -> None:
        super().__init__(cluster, supervisor, scorer, hypothesis, observer, patience)
        self._recorded = recorded
        self._random = random
        self._time = cluster.clock
        for _ in range(hypothesis.samples):
            self.lookout.poll()

    def run(self, fault: Fault) -> Outcome:
        """Returns what an experiment with this fault has shown before."""
        refusal = self.supervisor.would_refuse(fault, self.lookout.vitals())
        if refusal is None and Cell.of(fault) not in self._recorded:
            refusal = Refusal("recordings", f"nobody has ever tried {fault}")
        if refusal is not None:
            return self._without_score(fault, Verdict.INVALID, f"refused by {refusal}", self._now_s(), refusal)
        return self._drawn(Cell.of(fault))

    def sham(self) -> Outcome:
        """Returns what an experiment without a fault has shown before."""
        return self._drawn(None)

    def _drawn(self, cell: Cell | None) -> Outcome:
        seen = self._recorded[cell]
        outcome = seen[int(self._random.integers(len(seen)))]
        self._time.advance(60.0 * outcome.evidence.cost_min)
        for component in outcome.quarantined:
            self.supervisor.quarantine(component, "as it was then")
        self.lookout.poll()
        return outcome


class RecordedEnv(ChaosEnv):
    """Chaos experiments of which somebody knows what they show.

    Attributes:
        offered: experiments that the cluster would offer.
        unknown: those of them that nobody ever tried; they are not offered.

    Args:
        world: makes recorded experimenters.
        cells: those that were ever tried.
        budget_min: minutes that an episode may spend on the agent's experiments.
        max_experiments: experiments that an episode may hold; None for no limit but the minutes.
    """

    def __init__(
        self, world: World, cells: Collection[Cell | None], *, budget_min: float, max_experiments: int | None = None
    ) -> None:
        self._cells = cells
        self.offered = self.unknown = 0
        super().__init__(world, budget_min=budget_min, max_experiments=max_experiments)

    def _begin(self, seed: int | None) -> None:
        super()._begin(seed)
        faults = map(self.code.decode, range(self.code.stop))
        tried = torch.tensor([fault is not None and Cell.of(fault) in self._cells for fault in faults])
        self.offered = int(self.action_masks()[:-1].sum())
        self.state = replace(self.state, available=self.state.available & tried.reshape(self.state.available.shape))
        self.unknown = self.offered - int(self.action_masks()[:-1].sum())
