"""What was planted, what was found, what was claimed wrongly: the truth about a run on the embedded cluster.

Computed after the fact, from the switches and the finished list of weaknesses. Neither policy nor scorer imports this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SERVING = frozenset({"unavailable", "slow", "not_recovered"})
_STORM = frozenset({"amplified"})
_TRAINING = frozenset({"stuck", "lost_progress", "not_recovered"})
_ANSWERS = frozenset({"wrong_answers", "not_recovered"})
_SILENCE = frozenset({"silent"})
_AGE = frozenset({"stale", "not_recovered"})

_NETWORK = ("delay", "loss", "partition", "bandwidth")
_TO_PROCESSES = ("pause", "kill", "cpu_stress", "memory_stress")
DATA_ROLES = ("stream", "feature-pipeline")
"""Components through which features come to the feature store."""
_OVERLOAD = _SERVING | {"queue_growth"}


@dataclass(frozen=True, slots=True)
class Sign:
    """How a weakness shows itself.

    Attributes:
        kind: the fault that reveals it.
        role: of the component that is hurt.
        mechanisms: any of these ways to break a promise counts.
        at_most: the highest intensity that a hardened cluster bears; harsher experiments tell nothing about the switch.
    """

    kind: str
    role: str
    mechanisms: frozenset[str]
    at_most: float = 1.0

    def fits(self, weakness: Mapping[str, Any]) -> bool:
        """Tells whether a weakness, as JSON, is this: its mildest form counts."""
        kind, role, mechanism = str(weakness["fingerprint"]).split("|")
        mild_enough = weakness["reproducer"]["intensity"] <= self.at_most
        return (kind, role) == (self.kind, self.role) and mechanism in self.mechanisms and mild_enough


SWITCHES: Mapping[str, tuple[Sign, ...]] = {
    # First, for it has no other sign, and others bear this one as well.
    "serving.autoscale": (Sign("pod.cpu_stress", "model-server", _OVERLOAD),),
    # Where a narrow way lets a third of the requests pass, a bound lets that third pass in time; without one, nobody.
    "serving.queue": (
        Sign("network.bandwidth", "model-server", _OVERLOAD, at_most=0.5),
        Sign("pod.cpu_stress", "model-server", _OVERLOAD),
    ),
    "serving.replicas": (
        Sign("pod.kill", "model-server", _SERVING),
        Sign("pod.pause", "model-server", _SERVING),
        Sign("pod.cpu_stress", "model-server", _OVERLOAD),
    ),
    "serving.feature_timeout": (
        Sign("network.delay", "feature-store", _SERVING),
        Sign("pod.pause", "feature-store", _SERVING),
        Sign("pod.kill", "feature-store", _SERVING),
        Sign("network.loss", "feature-store", _SERVING),
        Sign("network.partition", "feature-store", _SERVING),
        Sign("network.bandwidth", "feature-store", _SERVING),
        Sign("pod.cpu_stress", "feature-store", _SERVING),
        Sign("pod.memory_stress", "feature-store", _SERVING),
    ),
    "serving.retries": (
        Sign("network.loss", "feature-store", _STORM),
        Sign("pod.kill", "feature-store", _STORM),
    ),
    "serving.health": (Sign("model.registry_unavailable", "model-server", _SERVING),),
    "training.restart": (
        Sign("pod.kill", "trainer", _TRAINING),
        Sign("pod.node_kill", "trainer", _TRAINING),
    ),
    "training.checkpoint": (
        Sign("model.checkpoint_corrupt", "trainer", _TRAINING),
        Sign("model.checkpoint_delete", "trainer", _TRAINING),
    ),
    "registry.verify": (Sign("model.registry_corrupt", "model-server", _ANSWERS),),
    "deploy.canary_gate": (Sign("model.bad_canary", "model-server", _ANSWERS),),
    "training.hang_timeout": (Sign("pod.pause", "trainer", _TRAINING),),
    # Whatever leaves a component without any exporter for long enough, while all else is borne.
    "monitoring.absent_alert": (
        Sign("pod.pause", "feature-store", _SILENCE),
        Sign("pod.kill", "feature-store", _SILENCE),
        Sign("pod.cpu_stress", "feature-store", _SILENCE),
        Sign("pod.memory_stress", "feature-store", _SILENCE),
        Sign("pod.pause", "trainer", _SILENCE),
        Sign("pod.kill", "trainer", _SILENCE),
        Sign("pod.node_kill", "trainer", _SILENCE),
        Sign("model.checkpoint_corrupt", "trainer", _SILENCE),
        Sign("model.checkpoint_delete", "trainer", _SILENCE),
        Sign("pod.memory_stress", "trainer", _SILENCE),
        Sign("gpu.memory_pressure", "trainer", _SILENCE),
        *(Sign(f"pod.{verb}", role, _SILENCE) for role in DATA_ROLES for verb in _TO_PROCESSES),
    ),
    "data.schema_gate": (
        Sign("data.corrupt_rows", "stream", _ANSWERS),
        Sign("data.schema_change", "stream", _ANSWERS),
    ),
    "data.drift_alarm": (Sign("data.drift", "stream", _ANSWERS),),
    # Whatever keeps newer features from coming in, a gate or an alarm that holds back bad ones included.
    "features.freshness": (
        Sign("data.stream_delay", "stream", _AGE),
        Sign("data.corrupt_rows", "stream", _AGE),
        Sign("data.schema_change", "stream", _AGE),
        Sign("data.drift", "stream", _AGE),
        *(Sign(f"network.{verb}", "stream", _AGE) for verb in _NETWORK),
        *(Sign(f"network.{verb}", "feature-store", _AGE) for verb in _NETWORK),
        *(Sign(f"pod.{verb}", role, _AGE) for role in DATA_ROLES for verb in _TO_PROCESSES),
        *(Sign(f"pod.{verb}", "feature-store", _AGE) for verb in ("pause", "cpu_stress", "memory_stress")),
    ),
}
"""The first sign of a switch is the one that its test looks for. Where several bear the same sign, an earlier one that
is planted gets the finding."""

UNPLANTED: Mapping[str, Sign] = {
    "a single gateway: nothing takes over when it dies": Sign("pod.kill", "gateway", _SERVING),
    "a single gateway: nothing takes over when it hangs": Sign("pod.pause", "gateway", _SERVING),
    "a single gateway: nothing takes over when it gets too little CPU time": Sign(
        "pod.cpu_stress", "gateway", _OVERLOAD
    ),
    "a single gateway: nothing takes over when it is refused memory": Sign("pod.memory_stress", "gateway", _SERVING),
    "the gateway has no answer of its own when the model server is slow": Sign(
        "network.delay", "model-server", _SERVING
    ),
    "the gateway has no answer of its own when its connections to the model server break": Sign(
        "network.loss", "model-server", _SERVING
    ),
    "the gateway has no answer of its own when the model server cannot be reached": Sign(
        "network.partition", "model-server", _SERVING
    ),
    "the gateway has no answer of its own when the way to the model server is narrow": Sign(
        "network.bandwidth", "model-server", _SERVING
    ),
    "all model servers have the same limit on their memory, and meet it in the same moment": Sign(
        "pod.memory_stress", "model-server", _SERVING
    ),
    "a rank that is refused memory makes no more steps, and nobody starts it anew": Sign(
        "pod.memory_stress", "trainer", _TRAINING
    ),
    "nobody moves a training job that gets too little CPU time": Sign("pod.cpu_stress", "trainer", _TRAINING),
    "a single serving node: all model servers are lost with it": Sign("pod.node_kill", "model-server", _SERVING),
    "nobody moves a training job off a GPU whose memory others have taken": Sign(
        "gpu.memory_pressure", "trainer", _TRAINING
    ),
    "nobody moves a training job off a GPU whose time others take": Sign(
        "gpu.compute_contention", "trainer", _TRAINING
    ),
}
"""True weaknesses that no switch controls, listed beforehand; finding one is neither a hit nor a false alarm."""


def described(truth: Mapping[str, list[str]]) -> str:
    """Says in one line what `compare` found.

    >>> described({"planted": ["a", "b"], "found": ["a"], "missed": ["b"], "false_alarms": [], "unplanted": ["x"]})
    'planted 2, found 1, missed 1 (b); false alarms 0; unplanted 1 (x)'
    """
    counts = {name: f"{len(names)} ({', '.join(names)})" if names else "0" for name, names in truth.items()}
    return (
        f"planted {len(truth['planted'])}, found {len(truth['found'])}, missed {counts['missed']}; "
        f"false alarms {counts['false_alarms']}; unplanted {counts['unplanted']}"
    )


def compare(
    switches: Mapping[str, str], weaknesses: Iterable[Mapping[str, Any]], known: Iterable[Mapping[str, Any]] = ()
) -> dict[str, list[str]]:
    """Compares findings with what was planted. One finding counts for at most one switch.

    Args:
        switches: every switch and whether it is `weak` or `hardened`.
        weaknesses: the confirmed findings of one run on that cluster, as JSON.
        known: what earlier runs have confirmed and this one does not claim anew, as JSON. It was claimed then, maybe
            with other switches: here it is neither a hit nor a false alarm, and what it tells of was not missed.

    Returns:
        `planted`, `found`, `known` (by earlier runs alone) and `missed` (switches), `false_alarms` and `unplanted`
        (fingerprints).
    """
    planted = [name for name in SWITCHES if switches.get(name) == "weak"]
    found: list[str] = []
    false_alarms: list[str] = []
    unplanted: list[str] = []
    for weakness in weaknesses:
        switch = _switch_of(weakness, planted)
        if switch is not None:
            found.append(switch)
        elif any(sign.fits(weakness) for sign in UNPLANTED.values()):
            unplanted.append(str(weakness["fingerprint"]))
        else:
            false_alarms.append(str(weakness["fingerprint"]))
    before = {_switch_of(weakness, planted) for weakness in known} - set(found)
    return {
        "planted": planted,
        "found": [name for name in planted if name in found],
        "known": [name for name in planted if name in before],
        "missed": [name for name in planted if name not in before.union(found)],
        "false_alarms": false_alarms,
        "unplanted": unplanted,
    }


def _switch_of(weakness: Mapping[str, Any], planted: Iterable[str]) -> str | None:
    """Returns the switch that a weakness, as JSON, counts for; None if for none that is planted."""
    return next((name for name in planted if any(sign.fits(weakness) for sign in SWITCHES[name])), None)
