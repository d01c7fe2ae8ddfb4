"""What a run has learnt of a cluster's fault-free time, kept for the next one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.clusters.base import Topology
from envs.clusters.recorded import DAMAGED
from envs.windows import Array, Calibration

_KEPT_S = 7 * 24 * 3600.0
_MOST_STRETCHES = 50


@dataclass(frozen=True, slots=True)
class Stretch:
    """Fault-free time without a break.

    Attributes:
        windows: its window medians, shape (rows, series).
        learnt_s: when they were learnt, Unix time.
    """

    windows: Array
    learnt_s: float


def remember(path: Path, stretches: Sequence[Stretch], key: str) -> None:
    """Keeps the newest stretches; they come oldest first."""
    newest = stretches[-_MOST_STRETCHES:]
    draft = path.with_suffix(".draft.npz")
    np.savez(
        draft,
        key=np.array(key),
        windows=np.concatenate([stretch.windows for stretch in newest]),
        lengths=np.array([len(stretch.windows) for stretch in newest]),
        learnt_s=np.array([stretch.learnt_s for stretch in newest]),
    )
    draft.replace(path)


def recalled(path: Path, key: str) -> list[Stretch]:
    """Returns what earlier runs kept, oldest first, if it was measured in the same way on a cluster of the same form.

    What is older than a week is left out. Whether the cluster still behaves as it did is another question
    (`Calibration.resembles`).
    """
    since_s = time.time() - _KEPT_S
    try:
        # Opened here: of a file that is no archive numpy would leave it open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return []
            windows = np.split(kept["windows"], np.cumsum(kept["lengths"])[:-1])
            found = [Stretch(*each) for each in zip(windows, kept["learnt_s"].tolist(), strict=True)]
    except DAMAGED:
        # A cache: one that cannot be read costs minutes, not truth.
        return []
    return [stretch for stretch in found if stretch.learnt_s > since_s]


def key_of(calibration: Calibration, topology: Topology, source: str) -> str:
    """Returns what has to be equal for one run's fault-free time to be of use to another."""
    form = sorted((component.name, component.replicas) for component in topology.components)
    shape = calibration.shape
    return json.dumps(
        [source, list(calibration.series), shape.window_s, shape.step_s, shape.reference, shape.samples, form]
    )
