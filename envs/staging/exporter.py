"""Metrics in Prometheus' text format: one exporter per process."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from .ports import LOOPBACK

METRICS_PATH = "/metrics"
HEALTH_PATH = "/healthz"

_FASTEST_S, _SLOWEST_S, _RATIO = 0.002, 5.0, 1.3


def latency_buckets() -> tuple[float, ...]:
    """Returns bucket bounds from 2 ms to 5 s in steps of at most 30 %.

    >>> len(latency_buckets()), latency_buckets()[0], latency_buckets()[-1]
    (31, 0.002, 5.0)
    """
    steps = math.ceil(math.log(_SLOWEST_S / _FASTEST_S) / math.log(_RATIO))
    ratio = (_SLOWEST_S / _FASTEST_S) ** (1 / steps)
    return tuple(float(f"{_FASTEST_S * ratio**step:.4g}") for step in range(steps + 1))


def new_metrics() -> CollectorRegistry:
    """Returns an empty set of metrics that already tells CPU time and memory of this process."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # creation times double the number of samples and nobody reads them
    metrics = CollectorRegistry()
    ProcessCollector(registry=metrics)
    return metrics


def routes(metrics: CollectorRegistry) -> list[web.RouteDef]:
    """Returns the HTTP routes of a process that has an aiohttp server anyway."""
    return [web.get(METRICS_PATH, _exposition(metrics)), web.get(HEALTH_PATH, _healthy)]


def export_in_thread(metrics: CollectorRegistry) -> str:
    """Serves metrics from a thread, for a process whose main loop is not ours; returns their URL."""
    server, _ = start_http_server(0, LOOPBACK, metrics)
    return f"http://{LOOPBACK}:{server.server_port}{METRICS_PATH}"


def _exposition(metrics: CollectorRegistry) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return answer


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")
