"""Where measurements come from: exporters that are asked directly, or the user's own Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from actuators.clock import Clock
from actuators.errors import BackburnError
from envs.telemetry.alerts import WATCHDOG

from ..settings import Settings

if TYPE_CHECKING:
    from envs.clusters.base import Cluster
    from envs.clusters.local import SourceOf
    from envs.telemetry.poller import Source
    from envs.telemetry.reading import Reading
    from envs.telemetry.scrape import Exporter

_KNOWN_WITHIN_S = 30.0


def source_of(settings: Settings, clock: Clock) -> SourceOf:
    """Returns what makes the source of the embedded cluster's snapshots.

    Raises:
        BackburnError: it is a Prometheus, and that cannot be reached.
    """
    from envs.telemetry.scrape import Scraper

    telemetry = settings.telemetry
    if telemetry.source == "scrape":
        return lambda exporters, readings: Scraper(exporters, readings, clock, timeout_s=telemetry.timeout_s)

    # Here and not above: a run that scrapes must not pay for loading the library.
    from envs.telemetry.prometheus import Connection, Prometheus
    from envs.telemetry.promql import AlertQueries, Exporters
    from envs.telemetry.targets import Announced, TargetsFile

    server, cluster = telemetry.prometheus, {"cluster": settings.cluster.id}
    with closing(Connection(server.address, server.timeout_s)) as connection:
        connection.ask("vector(1)")

    def asking(exporters: Callable[[], list[Exporter]], readings: Mapping[str, tuple[str, Reading]]) -> Source:
        catalogue = {
            series: Exporters({**cluster, "job": owner}, server.over_s, server.max_age_s).query(reading)
            for series, (owner, reading) in readings.items()
        }
        connection = Connection(server.address, server.timeout_s)
        alerts = AlertQueries(cluster, server.max_age_s)
        prometheus = Prometheus(connection, catalogue, clock, max_age_s=server.max_age_s, alerts=alerts)
        targets = TargetsFile(settings.cluster_state_dir / "prometheus-targets.json", cluster)
        return Announced(prometheus, exporters, targets)

    return asking


def require_known(cluster: Cluster, settings: Settings, interrupted: Callable[[], bool]) -> None:
    """Waits until a Prometheus knows anything of a cluster, and its alerts; it takes some seconds to find new targets.

    Raises:
        BackburnError: it does not, and most likely it scrapes something else, or evaluates no rules.
    """
    if settings.telemetry.source == "scrape":
        return
    deadline_s = cluster.clock.now().boottime_s + _KNOWN_WITHIN_S
    missing = f"none of the {len(cluster.series)} series of this cluster"
    how = "configs/prometheus.yml shows how it is to scrape them"
    while cluster.clock.now().boottime_s < deadline_s and not interrupted():
        snapshot = cluster.next_snapshot(timeout_s=cluster.period_s)
        if snapshot is None or not snapshot.values:
            continue
        if snapshot.alerts is not None:
            return
        missing = "this cluster, but not whether any of its alerts fires,"
        how = f"configs/alerts.yml holds its rules, with the {WATCHDOG} that proves them evaluated"
    if not interrupted():
        raise BackburnError(
            f"Prometheus at {settings.telemetry.prometheus.address} knows {missing} after {_KNOWN_WITHIN_S:g} s; {how}"
        )
