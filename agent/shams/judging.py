"""Judging recorded time as experiments are judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from actuators.fault import Fault, Target
from envs.clusters.recorded import RecordedCluster, Recording, RecordingOver
from envs.experiment import Experimenter, NotSteady
from envs.hypothesis import Phases
from envs.lookout import Lookout
from envs.scoring import UNIT_WINDOWS, Record, Verdict
from envs.windows import Array, window_medians

from ..build.recorded import Archive
from ..settings import Settings
from .power import seen_at


@dataclass(frozen=True, slots=True)
class Sham:
    """One experiment without a fault, on recorded time.

    Attributes:
        start: number of the cluster start that it is from.
        injected_s: when its fault would have been injected.
        verdict: what it amounts to.
        p: per family, the p-value; NaN where nothing of it was known.
        moved: per family, whether anything moved significantly, and by enough to be shown.
        seen: per promised series, whether shifts of it would have been significant; see `power.seen_at`. None where it
            was not tried: for shams that share a look with one for which it was.
    """

    start: int
    injected_s: float
    verdict: Verdict
    p: Mapping[str, float]
    moved: Mapping[str, bool]
    seen: Mapping[str, tuple[bool, ...]] | None = None


class Judge:
    """Judges recorded time with the settings that it was recorded with.

    Args:
        settings: of the recording.
        archive: makes experimenters on it.
    """

    def __init__(self, settings: Settings, archive: Archive) -> None:
        self._settings = settings
        self._archive = archive
        self._tried_s = -math.inf

    def shams(self, start: int, part: Recording, past: Sequence[Array]) -> Iterator[Sham]:
        """Yields the sham that begins at every window of a recording, as far as the gate opens.

        Args:
            start: number of the start.
            part: what is judged.
            past: stretches of fault-free windows to judge by; none of them of `part`.
        """
        begun_s = -math.inf
        self._tried_s = -math.inf
        for first in range(0, len(part.snapshots), self._settings.shape.samples):
            experimenter = self._archive.experimenter(RecordedCluster(part, part.snapshots[first:]))
            experimenter.scorer.calibration.stretches.extend(past)
            try:
                outcome = experimenter.sham()
            except RecordingOver:
                return
            except NotSteady:
                continue
            # Where the cluster is unsteady, several beginnings wait for the same moment.
            phases = outcome.phases
            if phases is not None and phases.injected_s > begun_s:
                begun_s = phases.injected_s
                # By the past alone: the sham has been learnt from by now.
                experimenter.scorer.calibration.stretches[:] = past
                yield self._judged(start, part, experimenter, outcome.verdict, phases)

    def _judged(
        self, start: int, part: Recording, experimenter: Experimenter, verdict: Verdict, phases: Phases
    ) -> Sham:
        """Returns a sham with every family of series that an experiment at this moment could have accused."""
        since_s = phases.injected_s - self._settings.shape.quiet_s
        snapshots = [s for s in part.snapshots if since_s < s.at_s <= phases.ended_s]
        found = {}
        for component in part.topology.components:
            fault = Fault("pod.pause", Target(component.name), 1.0, phases.cleared_s - phases.injected_s)
            families = experimenter.scorer.families(Record(fault, True, snapshots, phases), part.topology)
            found["promised"] = families.promised
            found |= {f"{name} {component.name}": getattr(families, name) for name in ("inside", "exposed", "outside")}
        alpha = self._settings.scoring.alpha
        seen = None
        if self._tries_power(phases.injected_s):
            seen = seen_at(experimenter.scorer, Record(None, True, snapshots, phases), part.topology, alpha)
        return Sham(
            start,
            phases.injected_s,
            verdict,
            {name: family.p for name, family in found.items()},
            {name: bool(family.moved(alpha)) for name, family in found.items()},
            seen,
        )

    def _tries_power(self, injected_s: float) -> bool:
        """Tells whether a sham shares no look with the last one on which shifts were tried."""
        shape = self._settings.shape
        if injected_s - self._tried_s < shape.quiet_s + UNIT_WINDOWS * shape.window_s:
            return False
        self._tried_s = injected_s
        return True

    def past(self, part: Recording) -> list[Array]:
        """Returns the quiet stretches of a recording, cut into windows as a calibration cuts them."""
        lookout = self._archive.experimenter(RecordedCluster(part, part.snapshots)).lookout
        found: list[Array] = []
        since_s = None
        for _ in part.snapshots:
            lookout.poll()
            if lookout.quiet_since_s != since_s:
                found += self._stretch(part, lookout, since_s)
                since_s = lookout.quiet_since_s
        return found + self._stretch(part, lookout, since_s)

    def _stretch(self, part: Recording, lookout: Lookout, since_s: float | None) -> list[Array]:
        if since_s is None:
            return []
        return [window_medians(lookout.quiet_stretch(since_s), part.series, since_s, self._settings.shape)]


def judged(settings: Settings, recordings: Mapping[int, Recording]) -> dict[str, list[Sham]]:
    """Judges all recorded time, each part of it by other parts.

    Args:
        settings: of the recordings.
        recordings: by number of the start.

    Returns:
        Per choice of what to judge by, the shams, oldest first.
    """
    archive = Archive(settings)
    judge = Judge(settings, archive)
    own: list[Sham] = []
    with_others: list[Sham] = []
    for start, whole in recordings.items():
        halves = _halves(whole)
        elsewhere = [stretch for n, other in recordings.items() if n != start for stretch in judge.past(other)]
        for part, other in (halves, halves[::-1]):
            here = judge.past(other)
            own += judge.shams(start, part, here)
            with_others += judge.shams(start, part, [*elsewhere, *here]) if elsewhere else []
    archive.close()
    return {"the other half of the same start": own, "that and all other starts": with_others}


def _halves(whole: Recording) -> tuple[Recording, Recording]:
    middle = len(whole.snapshots) // 2
    return replace(whole, snapshots=whole.snapshots[:middle]), replace(whole, snapshots=whole.snapshots[middle:])
