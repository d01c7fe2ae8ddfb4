"""Clusters that are gone: one of which what was measured is left, one of which no more is left than its promises."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Final
from zipfile import BadZipFile

import numpy as np

from actuators.clock import ManualClock
from actuators.errors import BackburnError, BadInput
from safety.vitals import Identity

from ..hypothesis import Hypothesis
from ..telemetry.alerts import Alert
from ..telemetry.snapshot import Snapshot
from .base import Topology

DAMAGED: Final = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    TokenError,
    BadZipFile,
    zlib.error,
)
"""What comes of reading a damaged .npz file: NumPy passes on whatever archive, compression and header stumble over."""


class RecordingOver(BackburnError):
    """There is nothing more to be seen."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was measured on one cluster for a while.

    Attributes:
        identity: which cluster it was.
        topology: its components.
        period_s: time between two looks, seconds.
        series: names of everything that could be measured.
        snapshots: the looks, oldest first.
    """

    identity: Identity
    topology: Topology
    period_s: float
    series: tuple[str, ...]
    snapshots: Sequence[Snapshot]

    def save(self, path: Path) -> None:
        """Writes the recording into a compressed file, in one step."""
        unknown = float("nan")
        about = {
            "identity": asdict(self.identity),
            "topology": self.topology.to_json(),
            "period_s": self.period_s,
            "series": list(self.series),
        }
        draft = path.with_suffix(".draft.npz")
        np.savez_compressed(
            draft,
            about=np.array(json.dumps(about)),
            at_s=np.array([snapshot.at_s for snapshot in self.snapshots]),
            alerts=np.array(json.dumps([_alerts_json(snapshot) for snapshot in self.snapshots])),
            values=np.array([[s.values.get(name, unknown) for name in self.series] for s in self.snapshots]),
        )
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Reads a recording.

        Raises:
            BadInput: it cannot be read, or is none.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                about = json.loads(str(kept["about"]))
                # A value that is not known is no finite number, and a snapshot leaves it out.
                snapshots = [
                    Snapshot(float(at_s), dict(zip(about["series"], map(float, row), strict=True)), _alerts_of(firing))
                    for at_s, row, firing in zip(
                        kept["at_s"], kept["values"], json.loads(str(kept["alerts"])), strict=True
                    )
                ]
            return cls(
                Identity(**about["identity"]),
                Topology.from_json(about["topology"]),
                float(about["period_s"]),
                tuple(about["series"]),
                snapshots,
            )
        except DAMAGED as error:
            raise BadInput(f"{path} is not a recording: {error}") from error


def _alerts_json(snapshot: Snapshot) -> list[list[str | None]] | None:
    """Returns the firing alerts as JSON; null when nobody could tell."""
    return None if snapshot.alerts is None else sorted([[a.name, a.component] for a in snapshot.alerts], key=str)


def _alerts_of(data: Sequence[Sequence[str]] | None) -> frozenset[Alert] | None:
    return None if data is None else frozenset(Alert(name, component) for name, component in data)


class RecordedCluster:
    """The sensing half of a cluster that is gone.

    Args:
        recording: what was measured on it.
        snapshots: the part of it to show, oldest first.
    """

    def __init__(self, recording: Recording, snapshots: Sequence[Snapshot]) -> None:
        self.identity = recording.identity
        self.period_s = recording.period_s
        self.series: Sequence[str] = recording.series
        self._topology = recording.topology
        self._left = iter(snapshots)
        first_s = snapshots[0].at_s if snapshots else 0.0
        self.clock = ManualClock("recorded", first_s - self.period_s)

    def topology(self) -> Topology:
        """Returns the components."""
        return self._topology

    def next_snapshot(self, timeout_s: float) -> Snapshot:
        """Moves time on to the next look and returns it.

        Raises:
            RecordingOver: that was the last one.
        """
        snapshot = next(self._left, None)
        if snapshot is None:
            raise RecordingOver("the recording is over")
        self.clock.boottime_s = snapshot.at_s
        return snapshot


class SteadyCluster:
    """The sensing half of a cluster that is as it was promised, whenever anybody looks.

    What is seen of a cluster between two experiments, for each of them began on a steady one.

    Args:
        identity: which cluster it was.
        topology: its components.
        hypothesis: what it promised.
        period_s: time between two looks, seconds.
    """

    def __init__(self, identity: Identity, topology: Topology, hypothesis: Hypothesis, period_s: float) -> None:
        self.identity = identity
        self.period_s = period_s
        self.clock = ManualClock("recorded")
        self._topology = topology
        ready = {f"{component.name}/ready": float(component.replicas) for component in topology.components}
        kept = {
            c.series: c.at_most if c.at_most is not None else c.at_least or 0.0
            for c in hypothesis.clauses
            if c.must != "alert"
        }
        self._values = ready | kept
        # Of what has only to raise an alarm nothing is said; that there is such a series still holds.
        self.series: Sequence[str] = tuple(dict.fromkeys([*self._values, *(c.series for c in hypothesis.clauses)]))

    def topology(self) -> Topology:
        """Returns the components."""
        return self._topology

    def next_snapshot(self, timeout_s: float) -> Snapshot:
        """Moves time on by one period and returns what is seen then."""
        self.clock.advance(self.period_s)
        return Snapshot(self.clock.boottime_s, self._values, frozenset())
