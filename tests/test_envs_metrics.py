"""Every metric by name: that the embedded cluster shows it, what it means, and how a Prometheus is asked for it."""

from __future__ import annotations

import pytest

from envs.clusters.base import Component
from envs.clusters.local import _readings
from envs.staging.components import described
from envs.staging.settings import StagingSettings
from envs.staging.training_job import TRAINER
from envs.telemetry.prometheus import Connection, question
from envs.telemetry.promql import Exporters
from envs.telemetry.snapshot import METRICS, component_of, metric_of
from tests.prometheus import real_prometheus

COMPONENTS = tuple(described(StagingSettings()))
READINGS = _readings(
    [Component(name, name, 1, capabilities=frozenset({"Gpus"} if name == TRAINER else ())) for name in COMPONENTS]
)
CATALOGUE = {
    series: Exporters({"cluster": "test", "job": owner}, over_s=1.0, max_age_s=2.0).query(reading)
    for series, (owner, reading) in READINGS.items()
}
ASKED_FOR = {
    "latency": ("client/p50_ms", "client/p90_ms", "gateway/request_ms", "feature-store/request_ms"),
    "throughput": ("client/requests_per_s",),
    "errors": ("client/error_share",),
    "restarts": tuple(f"{name}/restarts" for name in COMPONENTS),
    "CPU": tuple(f"{name}/cpu_share" for name in COMPONENTS),
    "memory": tuple(f"{name}/memory_mb" for name in COMPONENTS),
    "GPU": ("trainer/gpu_memory_share", "trainer/gpu_utilisation"),
    "queue length": ("client/in_flight", "gateway/in_flight"),
    "steps/s": ("trainer/steps_per_s",),
    "checkpoint age": ("trainer/checkpoint_age_s",),
    "accuracy": ("client/accuracy",),
    "calibration error": ("client/calibration_error",),
}
"""What a platform must tell of itself, by the names that people have for it."""


@pytest.mark.parametrize("name", ASKED_FOR)
def test_what_people_ask_for_is_measured_and_known(name):
    for series in ASKED_FOR[name]:
        assert series in READINGS
        assert metric_of(series).name == series.rpartition("/")[2]


def test_every_series_has_a_metric_and_every_metric_a_series():
    assert {series.rpartition("/")[2] for series in READINGS} == set(METRICS)


def test_every_series_belongs_to_somebody():
    assert {component_of(series) for series in READINGS} <= {*COMPONENTS, "client"}


def test_what_a_metric_means_is_complete():
    for metric in METRICS.values():
        assert metric.unit
        assert metric.tolerance > metric.floor > 0


def test_a_real_prometheus_understands_the_query_of_every_series(tmp_path):
    """Each by itself, so that one it does not understand is named; and all of them in the one question of a run."""
    with real_prometheus(tmp_path, tmp_path / "targets.json") as server:
        connection = Connection(server.url, 5.0)
        for series, query in CATALOGUE.items():
            for text in (query.value, query.measured):
                assert connection.ask(text) == [], series
        assert connection.ask(question(CATALOGUE)) == []
        connection.close()
