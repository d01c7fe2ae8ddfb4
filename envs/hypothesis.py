"""What a healthy cluster promises while something in it is broken, and how a promise can be broken.

A hypothesis is a list of clauses over named series. `hold` clauses must be kept all the time that a fault is in force;
`return` clauses may be broken, but must be kept again within a deadline from the injection; `keep` clauses forbid to
lose what had been reached. Every clause must be kept again within `recover_within_s` of the fault's end.

`alert` clauses are about being told. Their series may break its bound as long as the fault lasts; but where the target
does so for longer than `within_s`, an alert that names it has to fire meanwhile. Their bound says what is worth an
alarm, and is no promise of its own: neither the steady state nor the recovery depends on it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from actuators.catalogue import kind_of
from actuators.errors import BadInput
from actuators.fault import Fault

from .telemetry.snapshot import METRICS, Snapshot, component_of, metric_of

_BEYOND_DEADLINE_S = 5.0
"""For how long a promise with a deadline is looked at beyond it: one window and a few samples."""


class Mechanism(StrEnum):
    """How a clause was broken: a closed list, told from telemetry alone. Earlier ones explain later ones."""

    UNAVAILABLE = "unavailable"
    STUCK = "stuck"
    LOST_PROGRESS = "lost_progress"
    WRONG_ANSWERS = "wrong_answers"
    SLOW = "slow"
    AMPLIFIED = "amplified"
    QUEUE_GROWTH = "queue_growth"
    STALE = "stale"
    NOT_RECOVERED = "not_recovered"
    SPREAD = "spread"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Clause:
    """One promise about one series.

    Attributes:
        series: `component/metric`.
        mechanism: what it is called when this promise is broken.
        must: `hold`, `return`, `keep` or `alert` (see the module's text).
        at_most: highest value that keeps the promise; for `keep`, the most that may be lost.
        at_least: lowest value that keeps the promise.
        within_s: deadline of a `return` clause, seconds from the injection; the longest outage that an `alert` clause
            allows nobody to be told of, seconds.
        recover_within_s: deadline for every clause to be kept again, seconds from the end of the fault.

    Raises:
        BadInput: the series is unknown, what is given does not fit together, a number is not finite (such a promise
            could never be broken), or a time is negative.
    """

    series: str
    mechanism: Mechanism
    must: Literal["hold", "return", "keep", "alert"] = "hold"
    at_most: float | None = None
    at_least: float | None = None
    within_s: float | None = None
    recover_within_s: float = 15.0

    def __post_init__(self) -> None:
        if self.series.rpartition("/")[2] not in METRICS or "/" not in self.series:
            known = ", ".join(METRICS)
            raise BadInput(f"hypothesis names the series {self.series!r}; allowed is component/metric with {known}")
        if (self.at_most is None) == (self.at_least is None):
            raise BadInput(f"the clause on {self.series} needs exactly one of at_most and at_least")
        if (self.must in {"return", "alert"}) != (self.within_s is not None):
            raise BadInput(
                f"the clause on {self.series}: within_s belongs to `must: return` and `alert`, and to no other"
            )
        if (self.must == "alert") != (self.mechanism is Mechanism.SILENT):
            raise BadInput(f"the clause on {self.series}: `must: alert` and the mechanism silent belong together")
        if self.must == "keep" and self.at_most is None:
            raise BadInput(f"the clause on {self.series}: `must: keep` needs at_most, the most that may be lost")
        self._require_finite()

    def _require_finite(self) -> None:
        for name in ("at_most", "at_least"):
            bound = getattr(self, name)
            if bound is not None and not math.isfinite(bound):
                raise BadInput(f"the clause on {self.series}: {name} is {bound}; allowed are finite values")
        for name in ("within_s", "recover_within_s"):
            time_s = getattr(self, name)
            if time_s is not None and not 0.0 <= time_s < math.inf:
                raise BadInput(f"the clause on {self.series}: {name} is {time_s}; allowed are finite values from 0")

    @property
    def bounds(self) -> bool:
        """Whether its bound has to be kept in the steady state, and again after a fault."""
        return self.must in {"hold", "return"}

    def excess(self, value: float) -> float:
        """Returns by how much a value breaks the bound, in tolerances of the metric; 0 when it keeps it."""
        beyond = value - self.at_most if self.at_most is not None else (self.at_least or 0.0) - value
        return max(0.0, beyond / metric_of(self.series).tolerance)

    def recovery_deadline_s(self, injected_s: float, cleared_s: float) -> float:
        """Returns by when the promise has to be kept again, whatever was allowed before."""
        return max(cleared_s + self.recover_within_s, injected_s + (self.within_s or 0.0))

    def __str__(self) -> str:
        bound = f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"
        unit = metric_of(self.series).unit
        if self.must == "keep":
            return f"{self.series} loses {bound} {unit}"
        if self.must == "alert":
            return f"{self.series} {bound} {unit}, or an alert within {self.within_s:g} s"
        deadline = f", again within {self.within_s:g} s of the injection" if self.within_s is not None else ""
        return f"{self.series} {bound} {unit}{deadline}"


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """All the promises of one cluster.

    Attributes:
        clauses: the promises.
        samples: how many samples in a row must break a clause before it counts as broken.

    Raises:
        BadInput: of no sample nothing can be told, or two promises but to be told are about one series.
    """

    clauses: Sequence[Clause] = field(default_factory=tuple)
    samples: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.samples < math.inf:
            raise BadInput(f"hypothesis.samples is {self.samples}; allowed are whole numbers from 1")
        promised = Counter(clause.series for clause in self.clauses if clause.must != "alert")
        for series, count in promised.items():
            if count > 1:  # a series is tested once, on the windows that its promise speaks of
                raise BadInput(
                    f"hypothesis.clauses has {count} clauses on {series}; allowed is one, and beside it `must: alert`"
                )

    def concerning(self, target: str, needing: Collection[str]) -> tuple[Clause, ...]:
        """Returns the promises that a fault can be expected to break: of its target, and of what needs that.

        Args:
            target: the component that is hit; it alone owes an alarm.
            needing: everything that needs it, observers included.
        """
        return tuple(
            clause
            for clause in self.clauses
            if component_of(clause.series) == target
            or (clause.must != "alert" and component_of(clause.series) in needing)
        )

    def telling_s(self, component: str) -> float:
        """Returns how long a fault of a component has to last to break its promises with a deadline, seconds."""
        deadlines = [c.within_s for c in self.clauses if c.within_s is not None and component_of(c.series) == component]
        return max(deadlines) + _BEYOND_DEADLINE_S if deadlines else 0.0

    def unsteady(self, snapshots: Sequence[Snapshot], without: frozenset[str] = frozenset()) -> tuple[str, ...] | None:
        """Returns what is broken in the newest snapshots, None when it cannot be told.

        Args:
            snapshots: oldest first; only the last `samples` are looked at.
            without: components whose series are out of the game.
        """
        newest = snapshots[-self.samples :]
        if len(newest) < self.samples:
            return None
        broken = []
        for clause in self.clauses:
            if not clause.bounds or component_of(clause.series) in without:
                continue
            known = [s.values[clause.series] for s in newest if clause.series in s.values]
            # One healthy sample is enough to be steady: a single late request is no incident.
            if any(clause.excess(value) <= 0 for value in known):
                continue
            if len(known) < len(newest):
                return None
            broken.append(f"{clause.series} is {known[-1]:.3g}, promised {clause}")
        return tuple(broken)


@dataclass(frozen=True, slots=True)
class Phases:
    """When the parts of one experiment began, on the cluster's clock, seconds.

    Attributes:
        injected_s: the fault was applied (or would have been, in a sham).
        cleared_s: it was reverted.
        recovered_s: from here on all clauses were kept; None if they never were.
        ended_s: measuring ended.
    """

    injected_s: float
    cleared_s: float
    recovered_s: float | None
    ended_s: float


@dataclass(frozen=True, slots=True)
class Broken:
    """One broken promise, with the numbers.

    Attributes:
        clause: the promise, in words.
        series: its series.
        mechanism: how it was broken.
        worst: the value farthest from the bound.
        excess: how far, in tolerances.
        samples: how many samples broke it.
    """

    clause: str
    series: str
    mechanism: Mechanism
    worst: float
    excess: float
    samples: int


def broken_clauses(
    hypothesis: Hypothesis,
    snapshots: Sequence[Snapshot],
    phases: Phases,
    without: frozenset[str] = frozenset(),
    fault: Fault | None = None,
) -> list[Broken]:
    """Returns every promise that one experiment saw broken, the most telling mechanism first.

    Args:
        hypothesis: the promises.
        snapshots: the whole experiment, from before the injection to the end, oldest first.
        phases: when its parts began.
        without: components whose series are out of the game.
        fault: what was done; None for nothing. Only its target owes an alarm.
    """
    found = []
    for clause in hypothesis.clauses:
        if component_of(clause.series) in without:
            continue
        if clause.must == "alert":
            found += [
                outage.as_broken() for outage in outages(clause, snapshots, phases, fault) if outage.told is False
            ]
            continue
        during = [
            (s.at_s, s.values[clause.series])
            for s in snapshots
            if clause.series in s.values and s.at_s > phases.injected_s
        ]
        check = _CHECKS[clause.must]
        broken = check(clause, hypothesis.samples, snapshots, during, phases)
        if broken is not None:
            found.append(broken)
        if clause.bounds:
            deadline_s = clause.recovery_deadline_s(phases.injected_s, phases.cleared_s)
            late = [(t, v) for t, v in during if t > deadline_s]
            not_back = _run_of_breaks(clause, late, hypothesis.samples)
            if not_back is not None:
                found.append(_as_broken(clause, Mechanism.NOT_RECOVERED, not_back))
    order = list(Mechanism)
    return sorted(found, key=lambda broken: order.index(broken.mechanism))


def _hold(
    clause: Clause, least: int, snapshots: Sequence[Snapshot], during: list[tuple[float, float]], phases: Phases
) -> Broken | None:
    in_force = [(t, v) for t, v in during if t <= phases.cleared_s]
    return _described(clause, _run_of_breaks(clause, in_force, least))


def _return(
    clause: Clause, least: int, snapshots: Sequence[Snapshot], during: list[tuple[float, float]], phases: Phases
) -> Broken | None:
    deadline_s = phases.injected_s + (clause.within_s or 0.0)
    return _described(clause, _run_of_breaks(clause, [(t, v) for t, v in during if t > deadline_s], least))


def _keep(
    clause: Clause, least: int, snapshots: Sequence[Snapshot], during: list[tuple[float, float]], phases: Phases
) -> Broken | None:
    before = [s.values[clause.series] for s in snapshots if clause.series in s.values and s.at_s <= phases.injected_s]
    if not before:
        return None
    losses = [(t, before[-1] - v) for t, v in during]
    return _described(clause, _run_of_breaks(clause, losses, least))


_CHECKS = {"hold": _hold, "return": _return, "keep": _keep}


def _run_of_breaks(clause: Clause, values: list[tuple[float, float]], least: int) -> list[float] | None:
    """Returns the values that broke the clause, if at least `least` of them came in a row."""
    run, longest = 0, 0
    for _, value in values:
        run = run + 1 if clause.excess(value) > 0 else 0
        longest = max(longest, run)
    return [value for _, value in values if clause.excess(value) > 0] if longest >= least else None


def _described(clause: Clause, breaks: list[float] | None) -> Broken | None:
    return None if breaks is None else _as_broken(clause, clause.mechanism, breaks)


def _as_broken(clause: Clause, mechanism: Mechanism, breaks: list[float]) -> Broken:
    worst = max(breaks, key=clause.excess)
    return Broken(str(clause), clause.series, mechanism, worst, clause.excess(worst), len(breaks))


@dataclass(frozen=True, slots=True)
class Outage:
    """A stretch in which the target of a fault was worth an alarm for longer than is allowed without one.

    Attributes:
        clause: the promise to be told of it.
        values: what broke its bound; empty where all of it was missing.
        samples: how many there were, the missing ones included.
        told: whether an alert named the target meanwhile; None when nobody can tell.
    """

    clause: Clause
    values: tuple[float, ...]
    samples: int
    told: bool | None

    def as_broken(self) -> Broken:
        """Returns the broken promise. What has fallen silent altogether is shown as 0."""
        worst = max(self.values, key=self.clause.excess, default=0.0)
        excess = self.clause.excess(worst)
        return Broken(str(self.clause), self.clause.series, self.clause.mechanism, worst, excess, self.samples)


def outages(clause: Clause, snapshots: Sequence[Snapshot], phases: Phases, fault: Fault | None) -> list[Outage]:
    """Returns the outages of a fault's target that owe an alarm, by one `alert` clause, oldest first.

    Whatever else breaks meanwhile may have reasons of its own, and a sham has no target: neither owes anything.
    """
    if fault is None or component_of(clause.series) != fault.target.name:
        return []
    missing_counts = clause.series in blinded(fault)
    found: list[Outage] = []
    run: list[Snapshot] = []
    for snapshot in [s for s in snapshots if phases.injected_s < s.at_s <= phases.cleared_s]:
        value = snapshot.values.get(clause.series)
        # What is missing for no reason is unknown, and an unknown sample proves no outage.
        if missing_counts if value is None else clause.excess(value) > 0:
            run.append(snapshot)
            continue
        found += _owing(clause, run)
        run = []
    return found + _owing(clause, run)


def blinded(fault: Fault) -> frozenset[str]:
    """Returns the series that may fall silent as an effect of a fault."""
    return frozenset(f"{fault.target.name}/{metric}" for metric in kind_of(fault.kind).blinds)


def _owing(clause: Clause, run: Sequence[Snapshot]) -> list[Outage]:
    """Returns the outage that a run of samples is, none if it was too short to owe an alarm."""
    within_s = clause.within_s or 0.0
    if not run or run[-1].at_s - run[0].at_s <= within_s:
        return []
    component = component_of(clause.series)
    told = any(alert.component == component for snapshot in run for alert in snapshot.alerts or ())
    # Whoever wants to say that nobody was told must have looked when somebody should have been.
    looked = any(snapshot.alerts is not None for snapshot in run if snapshot.at_s - run[0].at_s > within_s)
    values = tuple(snapshot.values[clause.series] for snapshot in run if clause.series in snapshot.values)
    return [Outage(clause, values, len(run), told if told or looked else None)]


def settled_since(
    hypothesis: Hypothesis, snapshots: Sequence[Snapshot], from_s: float, without: frozenset[str] = frozenset()
) -> float | None:
    """Returns since when, at or after `from_s`, every promise has been kept; None if one is broken at the end.

    A promise counts as broken where as many samples in a row break it as for a verdict; a missing sample breaks it. Of
    fewer samples than that nobody can tell, and so they are none that keep it.
    """
    since_s = from_s
    seen = [snapshot for snapshot in snapshots if snapshot.at_s >= from_s]
    if len(seen) < hypothesis.samples:
        return None
    for clause in hypothesis.clauses:
        if not clause.bounds or component_of(clause.series) in without:
            continue
        run = 0
        for snapshot in seen:
            value = snapshot.values.get(clause.series)
            if value is None or clause.excess(value) > 0:
                run += 1
                continue
            if run >= hypothesis.samples:
                since_s = max(since_s, snapshot.at_s)
            run = 0
        if run >= hypothesis.samples:
            return None
    return since_s


def by_series(snapshots: Sequence[Snapshot], series: Sequence[str]) -> Mapping[str, list[tuple[float, float]]]:
    """Returns the (time, value) pairs of some series; moments at which one was unknown are left out."""
    return {name: [(s.at_s, s.values[name]) for s in snapshots if name in s.values] for name in series}
