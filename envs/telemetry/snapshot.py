"""One look at a cluster, and what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .alerts import Alert


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was measured at one moment.

    Attributes:
        at_s: when, on the cluster's clock (boot time), seconds.
        values: newest value per series, named `component/metric`. A series that could not be measured is absent:
            unknown, never 0 and never fine. So is one whose value is no finite number; it is left out on the way in.
        alerts: those that the cluster itself raises; None when nobody can tell, which is not the same as none.
    """

    at_s: float
    values: Mapping[str, float]
    alerts: frozenset[Alert] | None = None

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.values.values())):
            finite = {series: value for series, value in self.values.items() if math.isfinite(value)}
            object.__setattr__(self, "values", finite)


@dataclass(frozen=True, slots=True)
class Metric:
    """What is true of one metric, whichever component shows it.

    Attributes:
        name: the part behind the slash of a series name.
        role: `sli` (what users feel), `model` (how right the answers are), `platform` (what the platform says of
            itself) or `resource`.
        unit: physical unit.
        worse: the bad direction.
        tolerance: the change that matters in practice, in `unit`.
        floor: the least noise that is ever believed in, in `unit`; keeps constant series from looking infinitely
            significant.
        progress: whether it only ever grows by itself; what counts is then how far it falls back.
    """

    name: str
    role: Literal["sli", "model", "platform", "resource"]
    unit: str
    worse: Literal["up", "down"]
    tolerance: float
    floor: float
    progress: bool = False

    @property
    def sign(self) -> float:
        """+1 where larger is worse, -1 where smaller is."""
        return 1.0 if self.worse == "up" else -1.0


_METRICS = (
    Metric("error_share", "sli", "share of completed requests", "up", 0.05, 0.01),
    Metric("p50_ms", "sli", "ms", "up", 50.0, 1.0),
    Metric("p90_ms", "sli", "ms", "up", 100.0, 2.0),
    Metric("accuracy", "model", "share of answers", "down", 0.10, 0.01),
    Metric("calibration_error", "model", "ECE of answers", "up", 0.10, 0.02),
    Metric("requests_per_s", "sli", "answers/s", "down", 10.0, 2.0),
    Metric("steps_per_s", "sli", "steps/s", "down", 5.0, 0.5),
    Metric("step", "platform", "steps", "down", 100.0, 5.0, progress=True),
    Metric("checkpoint_age_s", "platform", "s", "up", 10.0, 0.5),
    Metric("ready", "platform", "instances", "down", 0.5, 0.1),
    # The noise of an exporter that is there is none: its loss must stand out from whatever a busy host does to others.
    Metric("up", "platform", "exporters", "down", 0.5, 0.05),
    Metric("restarts", "platform", "restarts", "up", 0.5, 0.1),
    Metric("request_ms", "platform", "ms", "up", 50.0, 1.0),
    Metric("fallback_share", "platform", "share of answers", "up", 0.1, 0.01),
    Metric("feature_attempts", "platform", "attempts per request", "up", 0.25, 0.05),
    Metric("in_flight", "platform", "requests", "up", 20.0, 1.0),
    Metric("shed_share", "sli", "share of completed requests", "up", 0.05, 0.01),
    Metric("answered_share", "sli", "share of completed requests", "down", 0.05, 0.01),
    Metric("cpu_share", "resource", "cores", "up", 0.5, 0.05),
    Metric("memory_mb", "resource", "MB", "up", 200.0, 5.0),
    Metric("gpu_memory_share", "resource", "share of a card's memory", "up", 0.2, 0.02),
    Metric("gpu_utilisation", "resource", "share of the time", "up", 0.3, 0.05),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}


def metric_of(series: str) -> Metric:
    """Returns what is known of a series' metric.

    Raises:
        KeyError: the catalogue does not know it.
    """
    return METRICS[series.rpartition("/")[2]]


def component_of(series: str) -> str:
    """Returns the component that a series belongs to."""
    return series.rpartition("/")[0]
