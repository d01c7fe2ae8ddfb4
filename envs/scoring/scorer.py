"""From one experiment's measurements to evidence and a verdict.

A *weakness* needs both: a promise of the hypothesis broken for several samples in a row, and a p-value that this
cluster's own fault-free time rarely gives (`conformal`). An effect on the target alone only proves that the fault took.
What could not be measured is `invalid` or `inconclusive`, never `resilient`.

*Silence* is the last finding: it is one only where every other promise was kept. That no alert fires is no rare event
that fault-free time could be compared with; it is how a healthy cluster is. So the statement under test is "something
was wrong with the target, and nobody said so". Its first half has a p-value, that of the target's own series (where an
exporter that went dark is a loss of `up`); its second half was seen or not seen, and has none. A sham has no target,
and so it can never be silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actuators.catalogue import kind_of

from ..clusters.base import Topology
from ..hypothesis import Broken, Hypothesis, Mechanism, Phases, blinded, broken_clauses, outages
from ..telemetry.snapshot import Snapshot, component_of, metric_of
from ..windows import Array, Calibration, median_over_windows, rows, window_medians
from .conformal import Family, conformal_test, e_value, robust_z
from .evidence import Evidence, Families, Record, Score, Verdict
from .tested import UNIT_WINDOWS, TestedWindows

_MOST_UNKNOWN = 0.10
_BAD_TIME_ALLOWED = 0.10
_WEIGHT_SPREAD, _WEIGHT_BUDGET, _WEIGHT_SILENT = 0.8, 0.6, 0.5
_TERMS_OF_THEIR_OWN = frozenset({Mechanism.NOT_RECOVERED, Mechanism.SILENT})


class Scorer:
    """Scores experiments on one cluster.

    Args:
        calibration: the cluster's fault-free past.
        hypothesis: what it promises.
        alpha: the level of a single verdict.
    """

    def __init__(self, calibration: Calibration, hypothesis: Hypothesis, alpha: float = 0.05) -> None:
        self.calibration = calibration
        self._hypothesis = hypothesis
        self._alpha = alpha

    @property
    def units(self) -> int:
        """How many fault-free units stand behind a p-value."""
        return self.calibration.size(UNIT_WINDOWS)

    def score(self, record: Record, topology: Topology) -> Score:
        """Scores one experiment."""
        broken = tuple(broken_clauses(self._hypothesis, record.snapshots, record.phases, record.without, record.fault))
        promised, inside, exposed, outside = self.families(record, topology)
        decisive = inside if _is_silence_alone(broken) else promised
        if broken and not (decisive.p <= self._alpha or self._was_compared(record, broken, decisive)):
            decisive = replace(decisive, p=math.nan)  # it is a number about something else
        verdict, reason = self._verdict(record, topology, broken, decisive)
        silent = _silent(record, broken)
        spread = max(map(_squashed, outside.moved(self._alpha).values()), default=0.0)
        recovery_ratio = self._recovery_ratio(record, broken)
        evidence = Evidence(
            verdict=verdict,
            effect=max(map(_squashed, inside.moved(self._alpha).values()), default=0.0),
            anomaly_score=self._anomaly_score(record, broken, spread, recovery_ratio, silent=bool(silent))
            if verdict is Verdict.WEAKNESS
            else 0.0,
            impact=_impact(promised, inside, exposed, outside),
            p=decisive.p,
            p_floor=1.0 / (self.units + 1),
            mde=decisive.mde,
            e_value=_e_value(verdict, decisive.p),
            recovery_ratio=recovery_ratio,
            spread=spread,
            silent=silent,
            cost_min=record.cost_min,
        )
        families = (inside, exposed, outside, promised)
        moved = {name: move for family in families for name, move in family.moved(self._alpha).items()}
        tested = tuple(sorted({component_of(name) for family in families for name in family.z}))
        return Score(evidence, broken, reason, _recovery_s(record.phases), _largest_first(moved), tested)

    def families(self, record: Record, topology: Topology) -> Families:
        """Tests what was promised, what belongs to the target, what needs it, and what has no reason to notice."""
        tested = TestedWindows(self.calibration, record)
        promised = self._test(self._promised(record, tested))
        return Families(promised, *self._test_radius(record, topology, tested))

    def present_z(self, snapshots: Sequence[Snapshot]) -> dict[str, float]:
        """Returns how unusual each component looks right now: its largest robust z, scaled to [-1, 1].

        Args:
            snapshots: the newest ones, at least as long as the reference and one more window, oldest first.
        """
        calibration = self.calibration
        if not snapshots or not self.units:
            return {}
        start_s = snapshots[-1].at_s - calibration.shape.quiet_s - calibration.shape.window_s
        windows = window_medians(snapshots, calibration.series, start_s, calibration.shape)
        reference = rows(calibration.shape.reference)
        if len(windows) <= reference + 1:
            return {}
        change = windows[-1] - median_over_windows(windows[:reference])
        highest: dict[str, float] = {}
        for name, z in robust_z(calibration, change, UNIT_WINDOWS).items():
            highest[component_of(name)] = max(highest.get(component_of(name), -1.0), z)
        return highest

    # ---- what is tested -------------------------------------------------------------------------------------------

    def _promised(self, record: Record, tested: TestedWindows) -> dict[str, Array]:
        """Returns the test windows of every promised series, chosen by what its promise says."""
        windows: dict[str, Array] = {}
        for clause in self._hypothesis.clauses:
            if component_of(clause.series) in record.without or clause.must == "alert":
                continue
            if clause.must == "hold":
                windows[clause.series] = np.concatenate([tested.during(clause.series), tested.post(clause.series)])
            elif clause.must == "keep":
                windows[clause.series] = tested.lowest(clause.series)
            else:
                within_s = math.inf if clause.within_s is None else clause.within_s
                at_deadline = tested.from_injection(clause.series, within_s)
                windows[clause.series] = at_deadline if len(at_deadline) else tested.post(clause.series)
        return windows

    def _test_radius(self, record: Record, topology: Topology, tested: TestedWindows) -> tuple[Family, Family, Family]:
        """Tests what belongs to the target, what needs the target, and what has no reason to notice."""
        if record.fault is None:
            return self._test({}), self._test({}), self._test({})
        target = record.fault.target.name
        needing = topology.dependents_of(target)
        families: tuple[list[str], list[str], list[str]] = ([], [], [])
        for series in self.calibration.series:
            owner, role = component_of(series), metric_of(series).role
            if owner == target:
                families[0].append(series)
            elif owner in needing and role != "resource":
                families[1].append(series)
            elif owner not in needing and role in {"sli", "model"}:
                # Cores and memory are shared on one host; only what users see can accuse a bystander.
                families[2].append(series)
        inside, exposed, outside = (self._test({name: tested.during(name) for name in family}) for family in families)
        return inside, exposed, outside

    def _test(self, windows: dict[str, Array]) -> Family:
        return conformal_test(self.calibration, windows, UNIT_WINDOWS, self._alpha)

    # ---- what it amounts to ---------------------------------------------------------------------------------------

    def _verdict(
        self, record: Record, topology: Topology, broken: Sequence[Broken], decisive: Family
    ) -> tuple[Verdict, str]:
        p = decisive.p
        if not record.took:
            symptom = "" if record.fault is None else f": {kind_of(record.fault.kind).symptom}"
            return Verdict.INVALID, f"the fault's symptom was never observed{symptom}"
        if broken:
            first = f"{broken[0].series} reached {broken[0].worst:.3g}, promised {broken[0].clause}"
            first += " (and no alert fired)" if broken[0].mechanism is Mechanism.SILENT else ""
            if p <= self._alpha:
                return Verdict.WEAKNESS, f"{first} (p = {p:.3f})"
            if math.isnan(p):
                return Verdict.INCONCLUSIVE, f"{first}, but too little of that could be compared with before"
            return Verdict.INCONCLUSIVE, f"{first}, but p = {p:.3f} does not tell it from this cluster's own noise"
        unseen = self._unseen(record, topology)
        if unseen is not None:
            return Verdict.INVALID, f"nobody looked at {unseen}: its component, or what that needs, is quarantined"
        unknown = self._unknown(record)
        if unknown is not None:
            return Verdict.INVALID, unknown
        if self._is_unheard(record):
            return Verdict.INVALID, "the target was out for long, and nobody can tell whether an alert fired"
        if record.phases.recovered_s is None:
            return Verdict.INVALID, "nobody saw that every promise was kept again"
        if math.isnan(p):
            return Verdict.INVALID, "no promised series could be compared with the fault-free past"
        return Verdict.RESILIENT, "every promise was kept"

    def _was_compared(self, record: Record, broken: Sequence[Broken], decisive: Family) -> bool:
        """Tells whether a test has seen any of what broke a promise: it looks at a few windows, not at all the time."""
        if _is_silence_alone(broken):
            return True
        tested, phases = TestedWindows(self.calibration, record), record.phases
        clauses = {clause.series: clause for clause in self._hypothesis.clauses if clause.must != "alert"}
        for one in broken:
            if one.mechanism is Mechanism.SILENT or one.series not in decisive.z:
                continue
            clause = clauses[one.series]
            since_s, until_s = phases.injected_s, phases.ended_s
            if one.mechanism is Mechanism.NOT_RECOVERED and one.mechanism is not clause.mechanism:
                since_s = clause.recovery_deadline_s(phases.injected_s, phases.cleared_s)
            elif clause.must == "hold":
                until_s = phases.cleared_s
            elif clause.must == "return":
                since_s += clause.within_s or 0.0
            elif clause.must == "keep":
                return True
            broke_s = [
                snapshot.at_s
                for snapshot in record.snapshots
                if since_s < snapshot.at_s <= until_s and clause.excess(snapshot.values.get(one.series, math.nan)) > 0
            ]
            if any(tested.includes(clause, at_s) for at_s in broke_s):
                return True
        return False

    def _unseen(self, record: Record, topology: Topology) -> str | None:
        """Returns a promise's series that the fault could be expected to move, and that was out of the game.

        What is out of the game elsewhere takes nothing away: the fault had no reason to be felt there.
        """
        if record.fault is None:
            return None
        target = record.fault.target.name
        concerned = self._hypothesis.concerning(target, topology.dependents_of(target))
        return next((c.series for c in concerned if component_of(c.series) in record.without), None)

    def _unknown(self, record: Record) -> str | None:
        """Returns which promised series was unknown too often to speak of a kept promise, in words."""
        seen = record.after_injection
        for clause in self._hypothesis.clauses:
            if clause.must == "alert" and record.fault is not None and clause.series in blinded(record.fault):
                continue
            if component_of(clause.series) in record.without:
                continue
            too_long = f"{clause.series} was unknown for {_MOST_UNKNOWN:.0%} or more of the time"
            if _missing(clause.series, seen) >= _MOST_UNKNOWN * max(1, len(seen)):
                return too_long
            # Before its deadline it may be broken as it likes: what is known of that time says nothing of the rest.
            due_s = record.phases.injected_s + (clause.within_s or 0.0)
            due = [snapshot for snapshot in seen if snapshot.at_s > due_s] if clause.must == "return" else []
            if _missing(clause.series, due) >= max(self._hypothesis.samples, _MOST_UNKNOWN * len(due)):
                return f"{too_long} after its deadline"
        return None

    def _is_unheard(self, record: Record) -> bool:
        """Tells whether an alarm was owed of which nobody can tell whether it came."""
        alarms = [clause for clause in self._hypothesis.clauses if clause.must == "alert"]
        return any(
            outage.told is None
            for clause in alarms
            if component_of(clause.series) not in record.without
            for outage in outages(clause, record.snapshots, record.phases, record.fault)
        )

    def _anomaly_score(
        self, record: Record, broken: Sequence[Broken], spread: float, recovery_ratio: float, *, silent: bool
    ) -> float:
        """Combines how far promises were broken, as independent reasons for concern: 1 - prod(1 - weight * term)."""
        late = 0.0 if math.isnan(recovery_ratio) else max(0.0, recovery_ratio - 1.0)
        terms = (
            max((_squashed(b.excess) for b in broken if b.mechanism not in _TERMS_OF_THEIR_OWN), default=0.0),
            1.0 if math.isinf(late) else _squashed(late),
            _WEIGHT_SPREAD * spread,
            _WEIGHT_BUDGET * _squashed(self._bad_time(record) / _BAD_TIME_ALLOWED),
            _WEIGHT_SILENT * silent,
        )
        return 1.0 - math.prod(1.0 - term for term in terms)

    def _bad_time(self, record: Record) -> float:
        """Returns the share of samples in which a promise to hold was seen broken."""
        holds = [clause for clause in self._hypothesis.clauses if clause.must == "hold"]
        seen = record.after_injection
        bad = sum(
            any(clause.series in s.values and clause.excess(s.values[clause.series]) > 0 for clause in holds)
            for s in seen
        )
        return bad / len(seen) if seen else 0.0

    def _recovery_ratio(self, record: Record, broken: Sequence[Broken]) -> float:
        """Returns the time that recovery took after the fault's end, over the longest time allowed."""
        phases = record.phases
        if phases.recovered_s is None:
            return math.inf if any(b.mechanism is Mechanism.NOT_RECOVERED for b in broken) else math.nan
        allowed_s = max((clause.recover_within_s for clause in self._hypothesis.clauses), default=1.0)
        return max(0.0, phases.recovered_s - phases.cleared_s) / allowed_s


def _missing(series: str, snapshots: Sequence[Snapshot]) -> int:
    return sum(series not in snapshot.values for snapshot in snapshots)


def _is_silence_alone(broken: Sequence[Broken]) -> bool:
    return bool(broken) and all(one.mechanism is Mechanism.SILENT for one in broken)


def _silent(record: Record, broken: Sequence[Broken]) -> bool | None:
    """Tells whether something went wrong that no alert told of; None when nobody can tell whether one did."""
    if any(one.mechanism is Mechanism.SILENT for one in broken):
        return True
    seen = record.after_injection
    unknown = sum(snapshot.alerts is None for snapshot in seen)
    if not seen or unknown > _MOST_UNKNOWN * len(seen):
        return None
    return record.fault is not None and bool(broken) and not any(snapshot.alerts for snapshot in seen)


def _squashed(excess: float) -> float:
    return excess / (1.0 + excess)


def _e_value(verdict: Verdict, p: float) -> float:
    """Returns the evidence for a weakness: without a broken promise there can be evidence against one only."""
    if verdict is Verdict.INVALID or math.isnan(p):
        return 1.0
    return e_value(p) if verdict in {Verdict.WEAKNESS, Verdict.INCONCLUSIVE} else min(1.0, e_value(p))


def _impact(*families: Family) -> float:
    return 1.0 - math.prod(1.0 - max(map(_squashed, family.moves.values()), default=0.0) for family in families)


def _recovery_s(phases: Phases) -> float | None:
    return None if phases.recovered_s is None else max(0.0, phases.recovered_s - phases.injected_s)


def _largest_first(moved: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(moved.items(), key=lambda item: -item[1]))
