"""What one experiment was, and what it amounts to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from actuators.fault import Fault

from ..hypothesis import Broken, Phases
from ..telemetry.snapshot import Snapshot
from .conformal import Family


class Verdict(StrEnum):
    """What one experiment amounts to."""

    RESILIENT = "resilient"
    WEAKNESS = "weakness"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    TOOL_ERROR = "tool_error"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one experiment showed: the only thing that a policy learns from it.

    Attributes:
        verdict: what it amounts to.
        effect: how far the target itself moved, in [0, 1]; proves no more than that the fault took.
        anomaly_score: how far the cluster left what its hypothesis allows, in [0, 1].
        impact: the raw deviation anywhere, in [0, 1]; shown, never rewarded.
        p: p-value of the hypothesis family, or of the target's own series where silence is all there is; NaN when it
            could not be computed.
        p_floor: the smallest p-value that this much calibration can give.
        mde: the smallest shift that would have been significant, in tolerances, for the least sensitive promise.
        e_value: evidence against "no weakness", to be multiplied over replicates.
        recovery_ratio: time to recover over the time allowed; infinite if it did not in time, NaN if nobody waited.
        spread: how far components moved that do not depend on the target, in [0, 1].
        silent: whether the target was out, or a promise broke, without an alert; None where no alerts can be seen.
        cost_min: what the experiment cost, minutes.
    """

    verdict: Verdict
    effect: float = 0.0
    anomaly_score: float = 0.0
    impact: float = 0.0
    p: float = math.nan
    p_floor: float = 1.0
    mde: float = math.inf
    e_value: float = 1.0
    recovery_ratio: float = 0.0
    spread: float = 0.0
    silent: bool | None = None
    cost_min: float = 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """Evidence, with what a reader needs to believe it.

    Attributes:
        evidence: the numbers.
        broken: every broken promise, the most telling first.
        reason: the verdict in one sentence.
        recovery_s: seconds from the injection until all promises were kept for good; None if they never were.
        moved: series that moved significantly, with the size of the move in tolerances, largest first.
        tested: components and observers of which some series was tested; of the others nobody can tell whether they
            moved.
    """

    evidence: Evidence
    broken: tuple[Broken, ...]
    reason: str
    recovery_s: float | None
    moved: tuple[tuple[str, float], ...]
    tested: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One experiment as it was measured.

    Attributes:
        fault: what was done; None for a sham.
        took: whether the fault's symptom was observed; True for a sham.
        snapshots: from before the reference windows to the end, oldest first.
        phases: when its parts began.
        without: quarantined components, whose series are out of the game.
        cost_min: what it cost, minutes.
    """

    fault: Fault | None
    took: bool
    snapshots: Sequence[Snapshot]
    phases: Phases
    without: frozenset[str] = frozenset()
    cost_min: float = 0.0

    @property
    def after_injection(self) -> list[Snapshot]:
        """The snapshots from the injection on."""
        return [snapshot for snapshot in self.snapshots if snapshot.at_s > self.phases.injected_s]


class Families(NamedTuple):
    """The series of one experiment, tested in groups: around the target, they say how far a fault has reached.

    Attributes:
        promised: what the hypothesis names.
        inside: what belongs to the target.
        exposed: what needs the target.
        outside: what has no reason to notice.
    """

    promised: Family
    inside: Family
    exposed: Family
    outside: Family
