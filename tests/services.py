"""Services on simulated clusters for tests, with everything that can be looked at, and what they come to see."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from actuators.fault import Fault, Target
from agent.findings.report import load_run
from agent.service import retention
from agent.service.runner import Service
from agent.service.status import Status
from agent.service.store import Store
from agent.settings import Settings, load
from envs.hypothesis import Broken, Mechanism, Phases
from envs.outcome import Outcome
from envs.scoring import Evidence, Score, Verdict
from safety.journal import Journal
from safety.lever import Lever
from tests.conftest import config_file

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)  # a Friday
QUICK = {"campaign_min": 3.0, "pause_s": 0.0, "ladder": {"begin": 2}}


class Wall:
    """A wall clock that moves on by itself, a second per look, and when told to."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


class Watched:
    """A service on simulated clusters, with everything that can be looked at."""

    def __init__(self, folder: Path, journal: Journal, campaigns: int | None = 1, **service: object) -> None:
        self.settings = quick(folder, **service)
        self.folder, self.journal, self.wall = folder, journal, Wall()
        self.lever = Lever(self.settings.cluster_state_dir / "lever.json")
        self.lever.release("a test", "test")
        self.store, self.status = Store(folder / "service.db"), Status()
        self.service = Service(
            self.settings,
            Console(quiet=True),
            journal=journal,
            lever=self.lever,
            store=self.store,
            status=self.status,
            now=self.wall,
            campaigns=campaigns,
        )

    def said(self, event: str) -> list[str]:
        return [entry.reason for entry in self.journal.entries() if entry.event == event]

    def runs(self) -> list[dict]:
        return [load_run(folder) for folder, _ in retention.own_runs(self.settings.runs_dir)]


def quick(folder: Path, **service: object) -> Settings:
    return load(config_file(folder, scoring={"units": 24}, service=QUICK | service))


def when(watched: Watched, condition: Callable[[], bool], then: Callable[[], None]) -> None:
    """Has something done as soon as the service waits and a condition holds; it looks once per turn."""
    listen = watched.service._listen
    done = []

    def look(seconds: float) -> None:
        if not done and condition():
            done.append(True)
            then()
        listen(0.0)

    watched.service._listen = look


def outcome(verdict: Verdict = Verdict.WEAKNESS, *, recovered_s: float | None = 40.0, cost_min: float = 1.0) -> Outcome:
    broken = (
        (Broken("web/up >= 1", "web/up", Mechanism.UNAVAILABLE, 0.0, 1.0, 3),) if verdict is Verdict.WEAKNESS else ()
    )
    evidence = Evidence(verdict, anomaly_score=0.5, e_value=9.0, p=0.012, cost_min=cost_min)
    phases = Phases(10.0, 20.0, recovered_s, 70.0)
    fault = Fault("pod.kill", Target("web"), 0.5, 10.0)
    return Outcome(fault, Score(evidence, broken, "because", 3.0, ()), phases=phases)
