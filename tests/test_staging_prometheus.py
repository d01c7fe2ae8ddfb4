"""The embedded cluster as a real Prometheus shows it: the same experiments, judged alike, and blindness is no health.

    make test-staging ARGS=tests/test_staging_prometheus.py

While a Prometheus tells the agent what is going on, the exporters are asked directly too, on the side. Both lots of
measurements of the one experiment are scored, each against its own calibration. Prints a table of both.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from actuators.clock import BootClock
from agent.build.local import handle_path
from agent.build.telemetry import source_of
from agent.findings.ground_truth import SWITCHES
from agent.progress import Silent
from agent.settings import load
from envs.clusters.local import LocalCluster
from envs.hypothesis import settled_since
from envs.lookout import Lookout
from envs.outcome import Outcome
from envs.scoring import Record, Score, Scorer, Verdict
from envs.telemetry.snapshot import metric_of
from envs.windows import Calibration, window_medians
from tests.embedded import embedded_config, started, telling_fault
from tests.prometheus import RealPrometheus, real_prometheus

pytestmark = pytest.mark.staging

Trace: TypeAlias = Mapping[str, list[tuple[float, float]]]

ROWS: list[str] = []
HEAD = f"{'switch':<26}{'source':<12}{'verdict':<14}{'mechanism':<16}{'p':>7}{'back after':>12}{'worst':>10}{'CPU':>8}"


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    print("\n" + "\n".join([HEAD, *ROWS]))


@contextmanager
def scraped(folder: Path, *weak: str, **limits: float) -> Iterator[tuple[RealPrometheus, Path]]:
    """Runs a Prometheus for an embedded cluster that is still to come; yields it and the cluster's settings."""
    (folder / "state" / "local").mkdir(parents=True)
    with real_prometheus(folder / "server", folder / "state" / "local" / "prometheus-targets.json") as server:
        telemetry = {"source": "prometheus", "prometheus": {"url": server.url}}
        yield server, embedded_config(folder, *weak, telemetry=telemetry, limits=limits)


class Bystander:
    """Looks at the same cluster by direct scraping, and judges for itself."""

    def __init__(self, config: Path) -> None:
        self.settings = load(config, {"telemetry.source": "scrape"})
        clock = BootClock()
        handle = handle_path(self.settings).resolve()
        source = source_of(self.settings, clock)
        self._cluster = LocalCluster(handle, clock, source, period_s=self.settings.telemetry.period_s)
        self._lookout = Lookout(self._cluster, self.settings.hypothesis, frozenset, lambda now_s: None)
        calibration = Calibration(self._cluster.series, self.settings.shape)
        self._scorer = Scorer(calibration, self.settings.hypothesis, self.settings.scoring.alpha)
        self._quiet_since_s = math.inf
        self._watch()

    def _watch(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, args=(self._stop,))
        self._thread.start()

    def _poll(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._lookout.poll()

    @contextmanager
    def _pausing(self) -> Iterator[None]:
        """Looks away for a moment; what is measured meanwhile waits."""
        self._stop.set()
        self._thread.join()
        yield
        self._watch()

    def quiet_begins(self) -> None:
        """Is told that the gate has just opened: for as long as a reference takes, all was well."""
        self._quiet_since_s = self._lookout.now_s - self.settings.shape.quiet_s

    def quiet_ends(self) -> None:
        """Is told that there is as much fault-free time as it takes."""
        with self._pausing():
            quiet = self._lookout.since(self._quiet_since_s)
            windows = window_medians(quiet, self._cluster.series, self._quiet_since_s, self.settings.shape)
            self._scorer.calibration.add(windows)

    def judge(self, outcome: Outcome) -> tuple[Score, Trace]:
        """Returns what it makes of an experiment that somebody else has run, and the promised series around it."""
        phases, hypothesis = outcome.phases, self.settings.hypothesis
        with self._pausing():
            snapshots = self._lookout.since(phases.injected_s - self.settings.shape.quiet_s)
            trace = self._lookout.trace(snapshots, phases.injected_s)
            snapshots = [snapshot for snapshot in snapshots if snapshot.at_s <= phases.ended_s]
            phases = replace(phases, recovered_s=settled_since(hypothesis, snapshots, phases.injected_s))
            record = Record(outcome.fault, True, snapshots, phases)
            return self._scorer.score(record, self._cluster.topology()), trace

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._cluster.close()


def note(switch: str, source: str, score: Score, cost: str) -> None:
    first = score.broken[0] if score.broken else None
    back = "never" if score.recovery_s is None else f"{score.recovery_s:.1f} s"
    ROWS.append(
        f"{switch:<26}{source:<12}{score.evidence.verdict:<14}{first.mechanism if first else '-':<16}"
        f"{score.evidence.p:>7.3f}{back:>12}{f'{first.worst:.3g}' if first else '-':>10}{cost:>8}"
    )
    print(ROWS[-1], "|", score.reason)


def quiet_median(points: Sequence[tuple[float, float]]) -> float:
    return statistics.median(value for at_s, value in points if at_s < 0.0)


def mechanisms(score: Score) -> set[str]:
    return {broken.mechanism for broken in score.broken}


WEAK_TOGETHER = (
    (
        "monitoring.absent_alert",
        "deploy.canary_gate",
        "registry.verify",
        "serving.health",
        "training.checkpoint",
        "training.hang_timeout",
    ),
    ("serving.feature_timeout", "serving.replicas", "training.restart"),
    ("serving.retries",),
    ("serving.autoscale", "serving.queue"),
    ("data.drift_alarm", "data.schema_gate", "features.freshness"),
)
"""Switches that share a platform: the first sign of one is not hidden by the weakness of another."""


def test_every_switch_is_judged_by_both_sources():
    assert sorted(switch for together in WEAK_TOGETHER for switch in together) == sorted(SWITCHES)


@pytest.mark.parametrize("together", WEAK_TOGETHER, ids=[together[0] for together in WEAK_TOGETHER])
def test_both_sources_judge_the_same_experiment_alike(tmp_path, together):
    judged: list[tuple[str, Outcome, Score, Trace]] = []
    # While both ranks of the job start anew, two cores leave a Prometheus without an answer for three seconds now and
    # then: a fault that is taken out for that (`stale_after_s`) shows nothing.
    with scraped(tmp_path, *together, stale_after_s=6.0) as (server, config):
        bystander: list[Bystander] = []

        class Beside(Silent):
            def entered(self, phase, fault, ends_at_s):
                if not bystander:
                    bystander.append(Bystander(config))
                if phase == "calibrate":
                    bystander[0].quiet_begins()

        world, env = started(config, Beside())
        try:
            bystander[0].quiet_ends()
            for switch in together:
                cpu_s, began_s = server.cpu_s(), time.monotonic()
                # Without the control of a latent fault: whatever is to blame, both sources saw the same.
                outcome = env.experimenter.run(telling_fault(env, SWITCHES[switch][0]))
                if outcome.verdict is Verdict.INVALID:
                    # It has shown nothing: the host stood still for a while.
                    print(switch, "again:", outcome.score.reason)
                    outcome = env.experimenter.run(telling_fault(env, SWITCHES[switch][0]))
                cpu_share = (server.cpu_s() - cpu_s) / (time.monotonic() - began_s)
                direct, beside = bystander[0].judge(outcome)
                note(switch, "prometheus", outcome.score, f"{cpu_share:.1%}")
                note(switch, "scrape", direct, "")
                judged.append((switch, outcome, direct, beside))
        finally:
            if bystander:
                bystander[0].close()
            world.close()
    for switch, outcome, direct, beside in judged:
        for series, points in outcome.trace.items():
            quiet, quiet_beside = quiet_median(points), quiet_median(beside[series])
            assert abs(quiet - quiet_beside) < metric_of(series).tolerance, (switch, series)
        expected = SWITCHES[switch][0].mechanisms
        reasons = (switch, outcome.score.reason, direct.reason)
        assert outcome.verdict is direct.evidence.verdict is Verdict.WEAKNESS, reasons
        # Not only the first mechanism: where errors last for a second, either source may see two samples or three.
        assert mechanisms(outcome.score) & mechanisms(direct) & expected, (outcome.score.broken, direct.broken)
        assert outcome.mechanism in expected, reasons
        # Ranks that start anew may leave the servers too little of two cores for as long, before the job is late.
        if not switch.startswith("training."):
            assert direct.broken[0].mechanism in expected, reasons


def test_a_prometheus_that_dies_in_the_middle_of_a_fault_ends_it(tmp_path):
    """On a hardened cluster every promise was kept for as long as anybody could see; that is not resilience."""
    with scraped(tmp_path) as (server, config):
        killed_s: list[float] = []

        class Killing(Silent):
            def entered(self, phase, fault, ends_at_s):
                if phase == "in force":
                    killed_s.append(BootClock().now().boottime_s + 2.0)
                    threading.Timer(2.0, server.kill).start()

        world, env = started(config, Killing())
        try:
            outcome = env.experiment(telling_fault(env, SWITCHES["serving.feature_timeout"][0]))
        finally:
            world.close()
        gone_s = outcome.phases.cleared_s - killed_s[0]
        print(f"{outcome.stop} {gone_s:.1f} s after the death of Prometheus")
        assert gone_s < load(config).limits.stale_after_s + 2.0
        assert outcome.stop.cause == "telemetry"
        assert outcome.stop.clean
        assert outcome.verdict is Verdict.INVALID, outcome.score.reason
        assert outcome.aborted_by is not None
        assert outcome.repaired == outcome.quarantined == ()
