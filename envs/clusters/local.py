"""The embedded cluster, seen through its own exporters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from actuators.clock import Clock
from safety.vitals import Identity

from ..staging import cards
from ..staging import handle as platform
from ..staging.errors import StagingError
from ..telemetry.poller import Poller, Source
from ..telemetry.reading import Answering, Gauge, Quantile, Rate, Ratio, Reading
from ..telemetry.scrape import Exporter
from ..telemetry.snapshot import Snapshot
from ..telemetry.traces import Seen
from ..telemetry.traces import read as read_traces
from .base import Component, Topology

_TRAINER = "trainer"
_MODEL_SERVER = "model-server"
_OBSERVERS = {"client": ("gateway",)}
_FAILED = ({"outcome": "error"}, {"outcome": "timeout"})
_SHED = ({"outcome": "shed"},)
_ANSWERED = ({"outcome": "ok"},)

SourceOf: TypeAlias = Callable[[Callable[[], list[Exporter]], Mapping[str, tuple[str, Reading]]], Source]
"""Makes the source of a cluster's snapshots.

It is given what returns the exporters of the moment, for replicas come and go; and per series, whose exporters tell it
and how their samples are read.
"""


def _readings(components: Sequence[Component]) -> dict[str, tuple[str, Reading]]:
    """Returns whom to ask, and how, for every series of the embedded cluster."""
    readings: dict[str, tuple[str, Reading]] = {
        "client/error_share": ("client", Ratio("client_requests_total", "client_requests_total", _FAILED)),
        "client/shed_share": ("client", Ratio("client_requests_total", "client_requests_total", _SHED)),
        "client/answered_share": ("client", Ratio("client_requests_total", "client_requests_total", _ANSWERED)),
        "client/p50_ms": ("client", Quantile("client_latency_seconds", 0.5, scale=1000.0)),
        "client/p90_ms": ("client", Quantile("client_latency_seconds", 0.9, scale=1000.0)),
        "client/accuracy": (
            "client",
            Ratio("client_correct_total", "client_requests_total", whole_labels={"outcome": "ok"}),
        ),
        "client/calibration_error": ("client", Gauge("client_calibration_error")),
        "client/requests_per_s": ("client", Rate("client_requests_total", {"outcome": "ok"})),
        "client/in_flight": ("client", Gauge("client_in_flight")),
        "gateway/in_flight": ("gateway", Gauge("gateway_in_flight")),
        "gateway/request_ms": ("gateway", Quantile("gateway_upstream_seconds", 0.5, scale=1000.0)),
        "feature-store/request_ms": ("feature-store", Quantile("feature_request_seconds", 0.5, scale=1000.0)),
        "model-server/fallback_share": ("model-server", Ratio("model_fallbacks_total", "model_requests_total")),
        "model-server/feature_attempts": (
            "model-server",
            Ratio("model_feature_attempts_total", "model_feature_fetches_total"),
        ),
        # Progress is read where it survives a dead rank: standing still is then 0, and not unknown.
        "trainer/steps_per_s": ("monitor", Rate("train_step")),
        "trainer/step": ("monitor", Gauge("train_step")),
        "trainer/checkpoint_age_s": ("monitor", Gauge("checkpoint_age_seconds")),
    }
    for component in components:
        name = component.name
        labels = {"component": name}
        readings[f"{name}/ready"] = ("monitor", Gauge("component_ready", labels))
        readings[f"{name}/up"] = (name, Answering())
        readings[f"{name}/restarts"] = ("monitor", Gauge("component_restarts_total", labels))
        readings[f"{name}/cpu_share"] = (name, Rate("process_cpu_seconds_total"))
        readings[f"{name}/memory_mb"] = (name, Gauge("process_resident_memory_bytes", scale=1e-6))
        if "Gpus" in component.capabilities:
            readings[f"{name}/{cards.MEMORY_SHARE}"] = ("monitor", Gauge(cards.MEMORY_SHARE, labels))
            readings[f"{name}/{cards.UTILISATION}"] = ("monitor", Gauge(cards.UTILISATION, labels))
    return readings


class LocalCluster:
    """The sensing half of the embedded cluster.

    Args:
        handle: path of the platform's handle; the platform must be ready.
        clock: the cluster's.
        source: makes the source of what is measured.
        period_s: time between two looks, seconds.

    Raises:
        StagingError: there is no platform behind the handle.
    """

    def __init__(self, handle: Path, clock: Clock, source: SourceOf, *, period_s: float) -> None:
        self.clock = clock
        self.period_s = period_s
        self._handle = handle
        self._topology = _topology_of(platform.read(handle))
        readings = _readings(self._topology.components)
        self.series: Sequence[str] = tuple(readings)
        self._poller = Poller(source(self._exporters, readings), period_s)
        self._newest_at_s = float("-inf")
        self._poller.start()

    @property
    def identity(self) -> Identity:
        """What the platform itself says it is; an unreadable handle is nobody's."""
        try:
            found = platform.read(self._handle)
        except (OSError, StagingError):
            return Identity("", "")
        return Identity(found.cluster_id, found.environment)

    def topology(self) -> Topology:
        """Returns the components; the embedded cluster neither gains nor loses any while it lives."""
        return self._topology

    def next_snapshot(self, timeout_s: float) -> Snapshot | None:
        """Waits for the next look at all exporters."""
        snapshot = self._poller.after(self._newest_at_s, timeout_s)
        if snapshot is not None:
            self._newest_at_s = snapshot.at_s
        return snapshot

    def requests(self, from_s: float, until_s: float) -> Seen | None:
        """Returns the recorded requests that began in a time; the platform and its measurer share one clock."""
        try:
            folder = platform.read(self._handle).paths["traces"]
        except (OSError, StagingError, KeyError):
            return None
        return read_traces(Path(folder), from_s, until_s)

    def close(self) -> None:
        """Stops to look."""
        self._poller.close()

    def _exporters(self) -> list[Exporter]:
        try:
            found = platform.read(self._handle)
        except (OSError, StagingError):
            return []
        of_components = [
            Exporter(name, instance.metrics_url)
            for name, component in found.components.items()
            for instance in component.instances
        ]
        return of_components + [Exporter(name, observer.metrics_url) for name, observer in found.observers.items()]


def _topology_of(found: platform.Handle) -> Topology:
    return Topology(
        [
            Component(
                name=name,
                role=component.role,
                replicas=component.desired,
                depends_on=component.depends_on,
                labels=component.labels,
                capabilities=_capabilities(component, found),
            )
            for name, component in found.components.items()
        ],
        observers=_OBSERVERS,
    )


def _capabilities(component: platform.Component, found: platform.Handle) -> frozenset[str]:
    neighbours = [other for other in found.components.values() if other.node == component.node]
    has: Mapping[str, bool] = {
        "Pods": component.desired > 0,
        "Memory": component.desired > 0,
        "Network": bool(component.routes_in),
        "Checkpoints": component.role == _TRAINER,
        "Registry": component.role == _MODEL_SERVER,
        # What is lost with a node that others live on as well, nobody has been asked about.
        "Nodes": component.node in found.nodes and neighbours == [component],
        "Gpus": any(cards.is_seen(instance.card) for instance in component.instances),
    }
    return frozenset(name for name, present in has.items() if present)
