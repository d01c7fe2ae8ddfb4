"""One experiment from gate to score; and the same without a fault, which keeps the scorer honest.

gate      steady state for as long as the reference windows need, nothing else going on
inject    through the supervisor's door
watch     until the fault expires, or anything stops it earlier
recover   until every promise is kept again, or its deadline has passed
post      two more windows
repair    a component that is not back gets its declared repair, or is quarantined
score     windows to evidence to verdict
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from actuators.catalogue import kind_of
from actuators.errors import BackburnError, InjectionFailed, RepairFailed
from actuators.fault import Fault, Injection
from safety.guards import Refusal
from safety.supervisor import Stop, Supervisor
from safety.vitals import ComponentVitals, Vitals

from .clusters.base import Cluster
from .hypothesis import Clause, Hypothesis, Mechanism, Phases, by_series, settled_since
from .scoring import POST_WINDOWS, UNIT_WINDOWS, Evidence, Record, Score, Scorer, Verdict
from .telemetry.snapshot import Snapshot, component_of
from .windows import window_medians

_SHAM_S = 12.0
_KEPT_SNAPSHOTS = 4096


class NotSteady(BackburnError):
    """The cluster did not reach its steady state in time; nothing was touched."""


class Interrupted(BackburnError):
    """Something forbids to go on: lever, lease, watchdog, leak, or a request to end."""


class Observer(Protocol):
    """Whoever wants to be told what is going on."""

    def entered(self, phase: str, fault: Fault | None, ends_at_s: float | None) -> None:
        """A phase has begun; it ends at `ends_at_s` on the cluster's clock if that is known."""
        ...

    def polled(self, now_s: float) -> None:
        """A measurement has come in."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the parts of an experiment may take, seconds.

    Attributes:
        gate_s: for the steady state before an experiment.
        settle_s: for which promises must be kept before they count as kept for good.
        took_s: for a fault's symptom to show.
        repair_s: for a declared repair to help.
    """

    gate_s: float = 120.0
    settle_s: float = 3.0
    took_s: float = 6.0
    repair_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One experiment: what was done, what it showed, and what a reader needs to believe it.

    Attributes:
        fault: what was done; None for a sham.
        score: evidence, broken promises, reason.
        refusal: why nothing was done, if nothing was.
        injection_id: the receipt's id in the journal.
        stop: how the fault ended.
        phases: when its parts began; None if nothing was done.
        trace: promised series around the injection: (seconds from the injection, value) pairs.
        repaired: components that got their declared repair and came back.
        quarantined: components that are out of the game since.
    """

    fault: Fault | None
    score: Score
    refusal: Refusal | None = None
    injection_id: str | None = None
    stop: Stop | None = None
    phases: Phases | None = None
    trace: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    repaired: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()

    @property
    def evidence(self) -> Evidence:
        """The numbers that a policy learns from."""
        return self.score.evidence

    @property
    def verdict(self) -> Verdict:
        """What the experiment amounts to."""
        return self.score.evidence.verdict

    @property
    def mechanism(self) -> Mechanism | None:
        """How the first of the broken promises was broken."""
        return self.score.broken[0].mechanism if self.score.broken else None

    @property
    def aborted_by(self) -> str | None:
        """What ended the fault before its time, if anything did."""
        if self.stop is None or self.stop.cause in {"expired", "finished"}:
            return None
        return f"{self.stop.cause}: {self.stop.reason}"

    def with_verdict(self, verdict: Verdict, reason: str) -> Outcome:
        """Returns the same experiment, judged differently in the light of another one."""
        evidence = replace(self.evidence, verdict=verdict, anomaly_score=0.0, e_value=1.0)
        return replace(self, score=replace(self.score, evidence=evidence, reason=reason))


class Experimenter:
    """Runs experiments on one cluster, one at a time.

    Attributes:
        waited_s: time spent waiting for the cluster's next measurement, seconds of this process.

    Args:
        cluster: what is measured.
        supervisor: the one door to it.
        scorer: judges what was measured.
        hypothesis: what the cluster promises.
        observer: is told about phases.
        patience: how long parts may take.
    """

    def __init__(
        self,
        cluster: Cluster,
        supervisor: Supervisor,
        scorer: Scorer,
        hypothesis: Hypothesis,
        observer: Observer,
        patience: Patience | None = None,
    ) -> None:
        self.cluster = cluster
        self.supervisor = supervisor
        self.scorer = scorer
        self._hypothesis = hypothesis
        self._observer = observer
        self._patience = patience or Patience()
        self._shape = scorer.calibration.shape
        self._snapshots: deque[Snapshot] = deque(maxlen=_KEPT_SNAPSHOTS)
        self._quiet_since_s: float | None = None
        self._fault_in_force = False
        self.waited_s = 0.0

    # ---- the parts of an experiment, in order ---------------------------------------------------------------------

    def run(self, fault: Fault) -> Outcome:
        """Runs one experiment with a fault.

        Raises:
            NotSteady: the gate stayed shut.
            Interrupted: something forbids to go on; nothing was injected.
        """
        began_s = self._now_s()
        vitals = self.gate(fault)
        injected_s = self._now_s()
        self._observer.entered("inject", fault, None)
        try:
            injection = self.supervisor.inject(fault, vitals)
        except InjectionFailed as error:
            self._quiet_since_s = None
            return self._without_score(fault, Verdict.TOOL_ERROR, str(error), began_s)
        if isinstance(injection, Refusal):
            return self._without_score(fault, Verdict.INVALID, f"refused by {injection}", began_s, injection)
        self._fault_in_force = True
        try:
            stop, took = self._watch(injection, injected_s)
        finally:
            self._fault_in_force = False
            if self.supervisor.is_open(injection):
                self.supervisor.revert(injection, "error", "the experiment was left")
        cleared_s = self._now_s()
        phases = self._measure_recovery(fault, injected_s, cleared_s)
        snapshots = self._since(injected_s - self._shape.quiet_s)
        without = self._out_of_game()
        repaired, quarantined = self._repair(fault, phases)
        record = Record(fault, took, snapshots, phases, without, (self._now_s() - began_s) / 60.0)
        outcome = Outcome(
            fault=fault,
            score=self.scorer.score(record, self.cluster.topology()),
            injection_id=injection.id,
            stop=stop,
            phases=phases,
            trace=self._trace(snapshots, injected_s),
            repaired=repaired,
            quarantined=quarantined,
        )
        if not stop.clean:
            return outcome.with_verdict(Verdict.TOOL_ERROR, f"the fault leaked: {stop.reason}")
        if outcome.verdict is Verdict.RESILIENT and outcome.aborted_by is not None:
            return outcome.with_verdict(Verdict.INVALID, f"cut short by {outcome.aborted_by}")
        return outcome

    def sham(self) -> Outcome:
        """Runs an experiment without a fault: same gate, same windows, same scorer. What it alarms on is false.

        Raises:
            NotSteady: the gate stayed shut.
            Interrupted: something forbids to go on.
        """
        began_s = self._now_s()
        self.gate(None)
        injected_s = self._now_s()
        self._poll_until(injected_s + _SHAM_S, "sham", None)
        cleared_s = self._now_s()
        self._poll_until(cleared_s + POST_WINDOWS * self._shape.window_s, "post", None)
        phases = Phases(injected_s, cleared_s, injected_s, self._now_s())
        snapshots = self._since(injected_s - self._shape.quiet_s)
        record = Record(None, True, snapshots, phases, self._out_of_game(), (self._now_s() - began_s) / 60.0)
        outcome = Outcome(
            fault=None,
            score=self.scorer.score(record, self.cluster.topology()),
            phases=phases,
            trace=self._trace(snapshots, injected_s),
        )
        self._keep_quiet_time(self._quiet_since_s)
        return outcome

    def gate(self, fault: Fault | None) -> Vitals:
        """Waits until the steady state has held for as long as the reference windows need.

        Returns:
            The newest vitals.

        Raises:
            NotSteady: it did not within the patience.
            Interrupted: something forbids to go on.
        """
        deadline_s = self._now_s() + self._patience.gate_s
        self._observer.entered("gate", fault, None)
        while True:
            vitals = self.poll()
            self._require_free()
            now_s = self._now_s()
            if self._quiet_since_s is not None and now_s - self._quiet_since_s >= self._shape.quiet_s:
                return vitals
            if now_s > deadline_s:
                why = "; ".join(vitals.unsteady or ()) or "telemetry is missing"
                raise NotSteady(f"the steady state did not hold within {self._patience.gate_s:g} s: {why}")

    def calibrate(self, units: int) -> None:
        """Collects fault-free time until the scorer has that many units.

        Raises:
            NotSteady: there was no quiet time for longer than the gate's patience.
            Interrupted: something forbids to go on.
        """
        while self.scorer.units < units:
            missing = units - self.scorer.units + self._shape.reference + UNIT_WINDOWS - 1
            self.gate(None)
            self._observer.entered("calibrate", None, (self._quiet_since_s or 0.0) + missing * self._shape.window_s)
            since_s = self._quiet_since_s or self._now_s()
            while self._quiet_since_s == since_s and self._now_s() - since_s < (missing + 0.5) * self._shape.window_s:
                self.poll()
                self._require_free()
            self._keep_quiet_time(since_s)

    def poll(self) -> Vitals:
        """Takes the next measurement and returns what guards may know of it."""
        asked_s = time.monotonic()
        snapshot = self.cluster.next_snapshot(timeout_s=2.0 * self.cluster.period_s)
        self.waited_s += time.monotonic() - asked_s
        if snapshot is not None:
            self._snapshots.append(snapshot)
        vitals = self.vitals()
        if self._fault_in_force or vitals.unsteady != ():
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = self._now_s()
        self._observer.polled(self._now_s())
        return vitals

    def vitals(self) -> Vitals:
        """Returns what guards may know of the newest measurement."""
        newest = self._snapshots[-1] if self._snapshots else Snapshot(float("-inf"), {})
        components = {
            component.name: ComponentVitals(
                ready=_whole(newest.values.get(f"{component.name}/ready")),
                total=component.replicas,
                labels=component.labels,
            )
            for component in self.cluster.topology().components
        }
        return Vitals(
            identity=self.cluster.identity,
            components=components,
            service_levels={c.series: newest.values.get(c.series) for c in self._hypothesis.clauses},
            age_s=self._now_s() - newest.at_s,
            unsteady=self._hypothesis.unsteady(list(self._snapshots), self._out_of_game()),
        )

    def present(self) -> Sequence[Snapshot]:
        """Returns the newest snapshots, as many as reference and one more window need, oldest first."""
        return self._since(self._now_s() - self._shape.quiet_s - self._shape.window_s)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _watch(self, injection: Injection, injected_s: float) -> tuple[Stop, bool]:
        """Keeps the fault in force until something ends it; returns what did, and whether the fault took."""
        fault = injection.fault
        self._observer.entered("in force", fault, injection.expires_at.boottime_s)
        took = False
        while True:
            vitals = self.poll()
            took = took or self.supervisor.took(injection)
            stop = self.supervisor.watch(injection, vitals)
            if stop is not None:
                return stop, took
            lasted_s = self._now_s() - injected_s
            if not took and lasted_s > self._patience.took_s:
                return self.supervisor.revert(injection, "finished", "its symptom never showed"), took
            if kind_of(fault.kind).trigger and self._has_settled(injected_s) and self.supervisor.is_spent(injection):
                return self.supervisor.revert(injection, "finished", "the platform has replaced what was damaged"), took

    def _measure_recovery(self, fault: Fault, injected_s: float, cleared_s: float) -> Phases:
        """Waits until the promises are kept for good, or none of the broken ones can be in time any more."""
        last_s = max(clause.recovery_deadline_s(injected_s, cleared_s) for clause in self._hypothesis.clauses)
        self._observer.entered("recover", fault, last_s)
        margin_s = (self._hypothesis.samples + 1) * self.cluster.period_s
        while not self._has_settled(injected_s) and self.supervisor.obstacle() is None:
            self.poll()
            if self._now_s() > self._next_deadline_s(injected_s, cleared_s) + margin_s:
                break
        self._poll_until(self._now_s() + POST_WINDOWS * self._shape.window_s, "post", fault)
        recovered_s = self._settled_since(injected_s)
        if recovered_s is not None and self._quiet_since_s is not None:
            self._quiet_since_s = max(recovered_s, cleared_s) + self._patience.settle_s
        return Phases(injected_s, cleared_s, recovered_s, self._now_s())

    def _next_deadline_s(self, injected_s: float, cleared_s: float) -> float:
        """Returns when the last of the promises that are broken now would have to be kept again."""
        deadlines = [
            c.recovery_deadline_s(injected_s, cleared_s) for c in self._hypothesis.clauses if self._is_broken(c)
        ]
        return max(deadlines, default=float("inf"))

    def _is_broken(self, clause: Clause) -> bool:
        values = self._snapshots[-1].values
        if clause.must == "keep" or component_of(clause.series) in self._out_of_game():
            return False
        return clause.series not in values or clause.excess(values[clause.series]) > 0

    def _settled_since(self, from_s: float) -> float | None:
        return settled_since(self._hypothesis, self._since(from_s), from_s, self._out_of_game())

    def _has_settled(self, from_s: float) -> bool:
        since_s = self._settled_since(from_s)
        return since_s is not None and self._now_s() - since_s >= self._patience.settle_s

    def _repair(self, fault: Fault, phases: Phases) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Gives what did not come back its declared repair; quarantines the target if that did not help."""
        if phases.recovered_s is not None or self.supervisor.obstacle() is not None:
            return (), ()
        repaired = []
        suspects = [
            fault.target.name,
            *(component_of(c.series) for c in self._hypothesis.clauses if self._is_broken(c)),
        ]
        for component in dict.fromkeys(suspects):
            try:
                accepted = self.supervisor.repair(component)
            except RepairFailed:
                continue
            if accepted:
                repaired.append(component)
                asked_s = self._now_s()
                self._observer.entered("repair", fault, asked_s + self._patience.repair_s)
                while self._now_s() < asked_s + self._patience.repair_s and self.supervisor.obstacle() is None:
                    self.poll()
                    if self._has_settled(asked_s):
                        return tuple(repaired), ()
        reason = f"not back after {fault}" + (f", nor after repairing {', '.join(repaired)}" if repaired else "")
        self.supervisor.quarantine(fault.target.name, reason)
        return (), (fault.target.name,)

    def _out_of_game(self) -> frozenset[str]:
        """Returns the components and observers whose series say nothing while something is quarantined."""
        topology = self.cluster.topology()
        quarantined = self.supervisor.quarantined
        return quarantined.union(*(topology.dependents_of(name) for name in quarantined))

    def _poll_until(self, until_s: float, phase: str, fault: Fault | None) -> None:
        self._observer.entered(phase, fault, until_s)
        while self._now_s() < until_s and self.supervisor.obstacle() is None:
            self.poll()

    def _require_free(self) -> None:
        obstacle = self.supervisor.obstacle()
        if obstacle is not None:
            raise Interrupted(obstacle)

    def _keep_quiet_time(self, since_s: float | None) -> None:
        """Adds a quiet stretch to the calibration, and begins a new one.

        Where the stretch was ended by a broken promise, the samples that led to it are left out.
        """
        if since_s is None:
            return
        ended_quietly = self._quiet_since_s == since_s
        noticed_after_s = 0.0 if ended_quietly else (self._hypothesis.samples + 1) * self.cluster.period_s
        snapshots = [s for s in self._since(since_s) if s.at_s <= self._now_s() - noticed_after_s]
        self.scorer.calibration.add(window_medians(snapshots, self.cluster.series, since_s, self._shape))
        self._quiet_since_s = None

    def _since(self, at_s: float) -> list[Snapshot]:
        return [snapshot for snapshot in self._snapshots if snapshot.at_s > at_s]

    def _trace(self, snapshots: Sequence[Snapshot], injected_s: float) -> dict[str, list[tuple[float, float]]]:
        promised = list(dict.fromkeys(clause.series for clause in self._hypothesis.clauses))
        return {
            name: [(round(at_s - injected_s, 2), round(value, 6)) for at_s, value in points]
            for name, points in by_series(snapshots, promised).items()
        }

    def _without_score(
        self, fault: Fault, verdict: Verdict, reason: str, began_s: float, refusal: Refusal | None = None
    ) -> Outcome:
        evidence = Evidence(verdict, cost_min=(self._now_s() - began_s) / 60.0)
        return Outcome(fault, Score(evidence, (), reason, None, ()), refusal)

    def _now_s(self) -> float:
        return self.cluster.clock.now().boottime_s


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
