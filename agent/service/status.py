"""What the service is doing, for whoever asks from another thread."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_SILENT_FOR_S = 30.0
_STARTING_FOR_S = 600.0


class Doing(StrEnum):
    """What the service is doing."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class Now:
    """One look at the service.

    Attributes:
        doing: waiting, starting a cluster, running a campaign, or ending.
        why: what it waits for, or which campaign.
        until: when that changes by itself, ISO 8601; None if it does not, or nobody knows.
        phase: of the experiment that runs.
        fault: that is in force or about to be; None between experiments and in a sham.
        rung: how far faults may reach.
        campaigns: that were begun since the service started.
        experiments: judged since then, by verdict.
        shams: of them, those without a fault; how many of those alarmed, and how many could not be judged.
        sham_alarms: see `shams`.
        shams_unjudged: see `shams`.
        weaknesses: confirmed since then.
        last_error: what went wrong last, if anything did.
    """

    doing: Doing
    why: str
    until: str | None
    phase: str
    fault: str | None
    rung: int
    campaigns: int
    experiments: dict[str, int]
    shams: int
    sham_alarms: int
    shams_unjudged: int
    weaknesses: int
    last_error: str | None


class Status:
    """Is written by the service's loop and read by its web address."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._beat_s = time.monotonic()
        self._facts: dict[str, Any] = {
            "doing": Doing.STARTING,
            "why": "the service",
            "until": None,
            "phase": "",
            "fault": None,
            "rung": 0,
            "campaigns": 0,
            "shams": 0,
            "sham_alarms": 0,
            "shams_unjudged": 0,
            "weaknesses": 0,
            "last_error": None,
        }
        self._experiments: Counter[str] = Counter()

    def set(self, **facts: Any) -> None:  # noqa: ANN401 (the attributes of `Now`)
        """Changes facts, and says that the loop is alive."""
        with self._lock:
            self._facts |= facts
            self._beat_s = time.monotonic()

    def count(self, name: str, by: int = 1) -> None:
        """Counts something of `Now` up."""
        with self._lock:
            self._facts[name] += by

    def judged(self, verdict: str) -> None:
        """Counts an experiment."""
        with self._lock:
            self._experiments[verdict] += 1

    def beat(self) -> None:
        """Says that the loop is alive."""
        with self._lock:
            self._beat_s = time.monotonic()

    def now(self) -> Now:
        """Returns what the service is doing."""
        with self._lock:
            return Now(**self._facts, experiments=dict(self._experiments))

    def silent_s(self) -> float:
        """Returns for how long the loop has not said that it is alive, seconds."""
        with self._lock:
            return time.monotonic() - self._beat_s

    def is_alive(self) -> bool:
        """Tells whether the loop goes round: starting and ending a cluster take minutes, all else seconds."""
        with self._lock:
            allowed_s = _STARTING_FOR_S if self._facts["doing"] in {Doing.STARTING, Doing.ENDING} else _SILENT_FOR_S
            return time.monotonic() - self._beat_s < allowed_s
