"""What would have been seen: fault-free time in which one promised series is worse by so many of its own deviations.

A scorer that never alarms keeps every promise about false alarms. How large a shift has to be for it to be significant
is the other half: measured on the same recorded time, series by series, at some robust standard deviations of how far
its windows wander by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from envs.clusters.base import Topology
from envs.scoring import Record, Scorer
from envs.telemetry.snapshot import Snapshot, metric_of

SHIFTS: Final = (1.0, 2.0, 3.0, 6.0, 12.0)
"""In robust standard deviations."""


def seen_at(scorer: Scorer, record: Record, topology: Topology, alpha: float) -> dict[str, tuple[bool, ...]]:
    """Returns per promised series whether each of the shifts would have been significant in a fault-free record.

    Args:
        scorer: calibrated on other time.
        record: of a sham.
        topology: of the cluster.
        alpha: the level.
    """
    scales = scorer.families(record, topology).promised.scales
    return {
        series: tuple(
            scorer.families(_worse(record, series, shift * scale), topology).promised.p <= alpha for shift in SHIFTS
        )
        for series, scale in scales.items()
    }


def shares(seen: Sequence[Mapping[str, tuple[bool, ...]]]) -> dict[str, tuple[float, ...]]:
    """Returns per series the share of records in which each shift was significant; of what was known alone."""
    names = dict.fromkeys(name for record in seen for name in record)
    found = {}
    for name in names:
        known = [record[name] for record in seen if name in record]
        found[name] = tuple(sum(shift) / len(known) for shift in zip(*known, strict=True))
    return found


def _worse(record: Record, series: str, tolerances: float) -> Record:
    """Returns a record in which a series has been worse by so many tolerances since the injection.

    Of a series that only ever grows, so much is lost.
    """
    metric = metric_of(series)
    shift = metric.sign * tolerances * metric.tolerance
    since_s = record.phases.injected_s
    return replace(record, snapshots=[_shifted(snapshot, series, shift, since_s) for snapshot in record.snapshots])


def _shifted(snapshot: Snapshot, series: str, shift: float, since_s: float) -> Snapshot:
    if snapshot.at_s <= since_s or series not in snapshot.values:
        return snapshot
    return replace(snapshot, values={**snapshot.values, series: snapshot.values[series] + shift})
