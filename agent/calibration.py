"""What a run has learnt of a cluster's fault-free time, kept for the next one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from envs.clusters.base import Topology
from envs.windows import Array, Calibration

_KEPT_S = 7 * 24 * 3600.0
_MOST_STRETCHES = 50


def remember(path: Path, calibration: Calibration, topology: Topology, source: str) -> None:
    """Keeps the newest fault-free stretches."""
    stretches = calibration.stretches[-_MOST_STRETCHES:]
    draft = path.with_suffix(".draft.npz")
    np.savez(
        draft,
        key=np.array(_key(calibration, topology, source)),
        windows=np.concatenate(stretches),
        lengths=np.array([len(stretch) for stretch in stretches]),
    )
    draft.replace(path)


def recalled(path: Path, calibration: Calibration, topology: Topology, source: str) -> list[Array]:
    """Returns what an earlier run kept, if it was measured in the same way on a cluster of the same form, lately.

    Whether the cluster still behaves as it did is another question (`Calibration.resembles`).
    """
    try:
        if time.time() - path.stat().st_mtime > _KEPT_S:
            return []
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != _key(calibration, topology, source):
                return []
            return np.split(kept["windows"], np.cumsum(kept["lengths"])[:-1])
    except (OSError, ValueError, KeyError):
        # A cache: one that cannot be read costs minutes, not truth.
        return []


def _key(calibration: Calibration, topology: Topology, source: str) -> str:
    form = sorted((component.name, component.replicas) for component in topology.components)
    shape = calibration.shape
    return json.dumps(
        [source, list(calibration.series), shape.window_s, shape.step_s, shape.reference, shape.samples, form]
    )
