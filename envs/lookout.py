"""Watching a cluster: the newest measurements, whether its promises are kept, and since when it has been quiet."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from safety.vitals import ComponentVitals, Vitals

from .clusters.base import Cluster
from .hypothesis import Clause, Hypothesis, by_series, settled_since
from .telemetry.alerts import Spell, spells
from .telemetry.snapshot import Snapshot, component_of

KEPT_SNAPSHOTS = 4096
_NOTHING_YET = Snapshot(float("-inf"), {})


class Lookout:
    """Takes a cluster's measurements one by one and knows what they say of its promises.

    Attributes:
        quiet_since_s: since when the steady state has held with no fault in force, on the cluster's clock; None while
            it does not.
        fault_in_force: set by whoever breaks something; no time is quiet meanwhile, whatever is measured.
        waited_s: time spent waiting for measurements, seconds of this process.

    Args:
        cluster: what is watched.
        hypothesis: what it promises.
        quarantined: returns the components that are out of the game.
        polled: is told the time of every measurement.
    """

    def __init__(
        self,
        cluster: Cluster,
        hypothesis: Hypothesis,
        quarantined: Callable[[], frozenset[str]],
        polled: Callable[[float], None],
    ) -> None:
        self._cluster = cluster
        self._hypothesis = hypothesis
        self._quarantined = quarantined
        self._polled = polled
        self._snapshots: deque[Snapshot] = deque(maxlen=KEPT_SNAPSHOTS)
        self._known_at_s = float("-inf")
        self.quiet_since_s: float | None = None
        self.fault_in_force = False
        self.waited_s = 0.0

    @property
    def now_s(self) -> float:
        """The present on the cluster's clock, seconds."""
        return self._cluster.clock.now().boottime_s

    def poll(self) -> Vitals:
        """Takes the next measurement and returns what guards may know of it."""
        asked_s = time.monotonic()
        snapshot = self._cluster.next_snapshot(timeout_s=2.0 * self._cluster.period_s)
        self.waited_s += time.monotonic() - asked_s
        if snapshot is not None:
            self._snapshots.append(snapshot)
            # A look that has shown nothing at all makes nothing younger.
            self._known_at_s = snapshot.at_s if snapshot.values else self._known_at_s
        vitals = self.vitals()
        if self.fault_in_force or vitals.unsteady != () or vitals.firing_alerts != ():
            self.quiet_since_s = None
        elif self.quiet_since_s is None:
            self.quiet_since_s = self.now_s
        self._polled(self.now_s)
        return vitals

    def vitals(self) -> Vitals:
        """Returns what guards may know of the newest measurement."""
        newest = self._newest()
        components = {
            component.name: ComponentVitals(
                ready=_whole(newest.values.get(f"{component.name}/ready")),
                total=component.replicas,
                labels=component.labels,
            )
            for component in self._cluster.topology().components
        }
        return Vitals(
            identity=self._cluster.identity,
            components=components,
            service_levels={c.series: newest.values.get(c.series) for c in self._hypothesis.clauses},
            age_s=self.now_s - self._known_at_s,
            unsteady=self._hypothesis.unsteady(list(self._snapshots), self.out_of_game()),
            firing_alerts=self._firing_alerts(),
        )

    def out_of_game(self) -> frozenset[str]:
        """Returns the components and observers whose series say nothing while something is quarantined."""
        topology = self._cluster.topology()
        quarantined = self._quarantined()
        return quarantined.union(*(topology.dependents_of(name) for name in quarantined))

    def since(self, at_s: float) -> list[Snapshot]:
        """Returns the measurements later than a moment, oldest first."""
        return [snapshot for snapshot in self._snapshots if snapshot.at_s > at_s]

    def is_broken(self, clause: Clause) -> bool:
        """Tells whether the newest measurement breaks a promise; an unknown value does."""
        if not clause.bounds or component_of(clause.series) in self.out_of_game():
            return False
        value = self._newest().values.get(clause.series)
        return value is None or clause.excess(value) > 0

    def is_broken_for_good(self, clause: Clause) -> bool:
        """Tells whether none of the newest measurements, as many as a verdict takes, has shown a promise kept."""
        newest = list(self._snapshots)[-self._hypothesis.samples :]
        if not clause.bounds or component_of(clause.series) in self.out_of_game():
            return False
        kept = [s for s in newest if clause.series in s.values and clause.excess(s.values[clause.series]) <= 0]
        return len(newest) == self._hypothesis.samples and not kept

    def is_blind(self) -> bool:
        """Tells whether the newest measurement shows no promised series at all, or there has been none for long."""
        newest = self._newest()
        if self.now_s - self._known_at_s > (self._hypothesis.samples + 1) * self._cluster.period_s:
            return True
        return not any(clause.series in newest.values for clause in self._hypothesis.clauses if clause.must != "alert")

    def settled_since(self, from_s: float) -> float | None:
        """Returns since when, at or after a moment, every promise has been kept; None if one is broken now."""
        return settled_since(self._hypothesis, self.since(from_s), from_s, self.out_of_game())

    def has_settled(self, from_s: float, for_s: float) -> bool:
        """Tells whether every promise has been kept for a while, counted from a moment at the earliest."""
        since_s = self.settled_since(from_s)
        return since_s is not None and self.now_s - since_s >= for_s

    def quiet_stretch(self, since_s: float) -> list[Snapshot]:
        """Returns the measurements of a quiet stretch that began at a moment and ends now, or has ended lately.

        Where it was ended by a broken promise, the measurements that led to it are left out.
        """
        ended_quietly = self.quiet_since_s == since_s
        noticed_after_s = 0.0 if ended_quietly else (self._hypothesis.samples + 1) * self._cluster.period_s
        return [snapshot for snapshot in self.since(since_s) if snapshot.at_s <= self.now_s - noticed_after_s]

    def trace(self, snapshots: Sequence[Snapshot], zero_s: float) -> Mapping[str, list[tuple[float, float]]]:
        """Returns the promised series as (seconds from `zero_s`, value) pairs."""
        promised = list(dict.fromkeys(clause.series for clause in self._hypothesis.clauses))
        return {
            name: [(round(at_s - zero_s, 2), round(value, 6)) for at_s, value in points]
            for name, points in by_series(snapshots, promised).items()
        }

    def alerts(self, snapshots: Sequence[Snapshot], zero_s: float) -> list[Spell]:
        """Returns which alerts fired in the course of some snapshots, and when, in seconds from `zero_s`."""
        return spells((round(snapshot.at_s - zero_s, 2), snapshot.alerts) for snapshot in snapshots)

    def _firing_alerts(self) -> tuple[str, ...] | None:
        """Returns the alerts that were last seen to fire; None when nobody could tell in the newest few looks."""
        newest = list(self._snapshots)[-self._hypothesis.samples :]
        known = next((snapshot.alerts for snapshot in reversed(newest) if snapshot.alerts is not None), None)
        if known is None:
            return None
        # Of what waits for a person everybody has been told.
        out_of_game = self.out_of_game()
        return tuple(sorted(str(alert) for alert in known if alert.component not in out_of_game))

    def _newest(self) -> Snapshot:
        return self._snapshots[-1] if self._snapshots else _NOTHING_YET


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
