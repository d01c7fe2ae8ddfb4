"""The data plane: how features get from the outside world to the feature store, and how its processes are started.

    producer -> stream <- feature-pipeline -> feature-store

Every arrow is a call, over a real socket and through the fault proxy. Data go from left to right: the feature store
lives on the pipeline, and the pipeline on the stream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from .feature_pipeline import FeaturePipelineSettings
from .layout import Layout
from .ports import LOOPBACK, Ports
from .producer import ProducerSettings
from .settings import StagingSettings
from .stream import StreamSettings

STREAM = "stream"
FEATURE_PIPELINE = "feature-pipeline"
PRODUCER = "producer"

ROWS = f"{PRODUCER}->{STREAM}"
"""The route on which rows come in."""

TO_STREAM = f"{FEATURE_PIPELINE}->{STREAM}"
WRITES = f"{FEATURE_PIPELINE}->feature-store"


def data_routes(ports: Ports) -> dict[str, tuple[int, int]]:
    """Returns where each route of the data plane begins and leads to."""
    return {
        ROWS: (ports.to_stream_rows, ports.stream_rows),
        TO_STREAM: (ports.to_stream, ports.stream),
        WRITES: (ports.pipeline_to_feature_store, ports.feature_store),
    }


def data_ports(ports: Ports) -> Mapping[str, int]:
    """Returns the exporters of the data plane's components."""
    return {STREAM: ports.stream, FEATURE_PIPELINE: ports.feature_pipeline}


def data_commands(settings: StagingSettings, layout: Layout, ports: Ports) -> dict[str, tuple[list[str], str]]:
    """Returns how each process of the data plane is started: its arguments, and what it reads on stdin."""
    stream = StreamSettings(port=ports.stream, rows_port=ports.stream_rows, folder=str(layout.stream))
    pipeline = FeaturePipelineSettings(
        port=ports.feature_pipeline,
        stream_url=f"http://{LOOPBACK}:{ports.to_stream}",
        store_url=f"http://{LOOPBACK}:{ports.pipeline_to_feature_store}",
        drifts_of=STREAM,
        gated=settings.switches.data_schema_gate == "hardened",
        drift_alarm=settings.switches.data_drift_alarm == "hardened",
        seed=settings.seed,
    )
    producer = ProducerSettings(
        port=ports.producer, rows_port=ports.to_stream_rows, rows_per_s=settings.rows_per_s, seed=settings.seed
    )
    return {
        STREAM: (["-m", f"{__package__}.stream"], json.dumps(asdict(stream))),
        FEATURE_PIPELINE: (["-m", f"{__package__}.feature_pipeline"], json.dumps(asdict(pipeline))),
        PRODUCER: (["-m", f"{__package__}.producer"], json.dumps(asdict(producer))),
    }
