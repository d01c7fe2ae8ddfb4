"""What can be seen and moved from outside while the service runs, from any thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from actuators.clock import BootClock
from actuators.errors import Unsafe
from safety.journal import Journal
from safety.lever import Lever, LeverState

from .schedule import day_of, opening
from .settings import ServiceSettings
from .status import Doing, Status
from .store import Store

ALERTMANAGER = "alertmanager"


class Controls:
    """The service, seen from outside.

    Args:
        cluster_id: whose service it is.
        service: its settings.
        journal: the database file.
        lever: of the cluster.
        store: the service's memory.
        status: that its loop keeps up to date.
        moved: is called when the lever was moved.
    """

    def __init__(
        self,
        cluster_id: str,
        service: ServiceSettings,
        *,
        journal: Path,
        lever: Lever,
        store: Store,
        status: Status,
        moved: Callable[[], None],
    ) -> None:
        self._cluster_id = cluster_id
        self._service = service
        self._journal_path = journal
        self._lever = lever
        self._store = store
        self._status = status
        self._moved = moved
        self._moving = threading.Lock()

    # ---- looking --------------------------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Tells whether the service's loop goes round."""
        return self._status.is_alive()

    def lever(self) -> LeverState:
        """Returns the lever's state."""
        return self._lever.read()

    def status(self) -> dict[str, Any]:
        """Returns everything at a glance, as JSON."""
        now = datetime.now(UTC)
        allowed = opening(self._service.schedule, now)
        day = day_of(self._service.schedule, now)
        spent = self._store.spent(day)
        with self._journal("status") as journal:
            still_open = [str(injection.fault) for injection in journal.open_injections()]
            leaked = [str(injection.fault) for injection in journal.leaked()]
        return {
            "cluster": self._cluster_id,
            "at": now.isoformat(timespec="seconds"),
            **asdict(self._status.now()),
            "lever": asdict(self.lever()),
            "schedule": {
                "open": allowed.is_open,
                "until": None if allowed.until is None else allowed.until.isoformat(timespec="seconds"),
                "why": allowed.why,
            },
            "day": {
                "day": day,
                **asdict(spent),
                "minutes_allowed": self._service.daily.minutes,
                "harm_min_allowed": self._service.daily.harm_min,
            },
            "open_faults": still_open,
            "leaked_faults": leaked,
        }

    def metrics(self) -> tuple[bytes, str]:
        """Returns the same as Prometheus' text format, and its media type."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics; see `prometheus_client.registry.Collector`."""
        seen = self.status()

        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"backburn_{name}", text, value=value)

        yield gauge("lever_engaged", "1 while the lever stops everything.", float(seen["lever"]["engaged"]))
        yield gauge("schedule_open", "1 while the schedule allows campaigns.", float(seen["schedule"]["open"]))
        yield gauge("faults_open", "Faults that may be in force.", len(seen["open_faults"]))
        yield gauge("faults_leaked", "Faults whose absence nobody could observe.", len(seen["leaked_faults"]))
        yield gauge("rung", "How far faults may reach: 0 dry run, 1 one instance, 2 all allowed.", seen["rung"])
        yield gauge("day_minutes", "Minutes of campaigns today.", seen["day"]["minutes"])
        yield gauge("day_harm_minutes", "Minutes in which promises were broken today.", seen["day"]["harm_min"])
        yield gauge("loop_silent_seconds", "Since the loop last said that it is alive.", self._status.silent_s())
        doing = GaugeMetricFamily("backburn_doing", "1 for what the service is doing.", labels=["doing"])
        for each in Doing:
            doing.add_metric([each], float(seen["doing"] == each))
        yield doing
        experiments = CounterMetricFamily("backburn_experiments", "Experiments that were judged.", labels=["verdict"])
        for verdict, count in seen["experiments"].items():
            experiments.add_metric([verdict], count)
        yield experiments
        for name, text in (
            ("campaigns", "Campaigns that were begun."),
            ("shams", "Experiments without a fault."),
            ("sham_alarms", "Experiments without a fault that alarmed all the same."),
            ("shams_unjudged", "Experiments without a fault that could not be judged."),
            ("weaknesses", "Weaknesses that were confirmed."),
        ):
            yield CounterMetricFamily(f"backburn_{name}", text, value=seen[name])

    # ---- moving ---------------------------------------------------------------------------------------------------

    def pull(self, engaged: bool, reason: str, by: str = "http") -> LeverState:
        """Moves the lever.

        Raises:
            BadInput: it is to be released, and no reason was given.
        """
        if engaged:
            self._lever.engage(reason, by)  # at once: who holds the lock may wait for a database
        with self._moving:
            if engaged:
                self._lever.engage(reason, by)  # alerts that were resolved may have released it just now
            else:
                self._lever.release(reason, by)
        self._tell(engaged, reason, by)
        return self._lever.read()

    def alerted(self, firing: Mapping[str, str], resolved: Iterable[str]) -> LeverState:
        """Takes a notification of Alertmanager in: an alert that fires engages the lever.

        It is released again by a person, or, where the settings say so, when all such alerts are resolved and nobody
        else has moved it meanwhile.
        """
        engaged = self._engage_for(firing)  # at once: who holds the lock may wait for a database
        released = ""
        with self._moving:
            left = self._store.alerted(firing, resolved)
            engaged = self._engage_for(firing) or engaged  # who released it meanwhile did not know of these
            state = self._lever.read()
            is_ours = state.engaged and state.by == ALERTMANAGER
            if is_ours and not left and self._service.http.release_on_resolved:
                why = "all alerts that engaged it are resolved"
                released = why if self._lever.release(why, ALERTMANAGER, only_if=state) else ""
        if engaged:
            self._tell(True, engaged, ALERTMANAGER)
        if released:
            self._tell(False, released, ALERTMANAGER)
        return self._lever.read()

    def _engage_for(self, firing: Mapping[str, str]) -> str:
        """Engages the lever if alerts fire and it is not engaged; returns the reason, empty if there was none."""
        if not firing or self._lever.read().engaged:
            return ""
        reason = f"alerts are firing: {', '.join(sorted(set(firing.values())))}"
        self._lever.engage(reason, ALERTMANAGER)
        return reason

    def _tell(self, engaged: bool, reason: str, by: str) -> None:
        """Says that the lever was moved, afterwards: a journal that cannot be written must not keep anything going.

        Nor does it make a failure of what has been done; the service itself says that its records cannot be written.
        """
        with suppress(sqlite3.Error, Unsafe), self._journal(by) as journal:
            journal.note("lever", f"{'engaged' if engaged else 'released'}: {reason}")
        self._moved()

    @contextmanager
    def _journal(self, by: str) -> Iterator[Journal]:
        journal = Journal(self._journal_path, BootClock(), by, checked=True)
        try:
            yield journal
        finally:
            journal.close()
