"""One experiment from gate to score; and the same without a fault, which keeps the scorer honest.

gate      steady state for as long as the reference windows need, nothing else going on
inject    through the supervisor's door
watch     until the fault expires, or anything stops it earlier
recover   until every promise is kept again, or its deadline has passed
post      two more windows
repair    a component that is not back gets its declared repair, or is quarantined
hush      until the cluster's own alerts have ended, as patiently as at a gate; nothing is begun while one fires
score     windows to evidence to verdict
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol

from actuators.catalogue import kind_of
from actuators.errors import BackburnError, BadInput, InjectionFailed, RepairFailed
from actuators.fault import Fault, Injection
from safety.guards import Refusal
from safety.supervisor import Stop, Supervisor
from safety.vitals import Vitals

from .clusters.base import Cluster
from .hypothesis import Hypothesis, Mechanism, Phases
from .lookout import KEPT_SNAPSHOTS, Lookout
from .outcome import Outcome
from .scoring import (
    DURING_WINDOWS,
    LATE_WINDOWS,
    POST_WINDOWS,
    UNIT_WINDOWS,
    Evidence,
    Record,
    Score,
    Scorer,
    Verdict,
)
from .telemetry.snapshot import component_of
from .telemetry.traces import Pair, Seen, ShowsRequests, pair
from .windows import rows, window_medians

_SHAM_WINDOWS = DURING_WINDOWS + LATE_WINDOWS
"""A sham is tested on as many windows as the longest fault."""

_MOST_FRUITLESS = 10
"""Stretches of fault-free time in a row that may be too short to learn anything from; each takes a gate first."""


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

    Raises:
        BadInput: one of them is negative or not finite.
    """

    gate_s: float = 120.0
    settle_s: float = 3.0
    took_s: float = 6.0
    repair_s: float = 90.0

    def __post_init__(self) -> None:
        for each in fields(self):
            time_s = getattr(self, each.name)
            if not 0.0 <= time_s < math.inf:
                raise BadInput(f"patience.{each.name} is {time_s:g}; allowed are finite values from 0")


class Experimenter:
    """Runs experiments on one cluster, one at a time.

    Attributes:
        lookout: watches the cluster.
        hypothesis: what the cluster promises.

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
        self.lookout = Lookout(cluster, hypothesis, lambda: supervisor.quarantined, observer.polled)
        self.hypothesis = hypothesis
        self._observer = observer
        self._patience = patience or Patience()
        self._shape = scorer.calibration.shape
        # What the lookout has let go of would count as windows of which nothing is known.
        self._most_windows = int(KEPT_SNAPSHOTS * cluster.period_s / self._shape.window_s) - 1

    # ---- what a campaign asks for ---------------------------------------------------------------------------------

    def run(self, fault: Fault) -> Outcome:
        """Runs one experiment with a fault.

        Raises:
            NotSteady: the gate stayed shut.
            Interrupted: something forbids to go on; nothing was injected.
        """
        began_s = self._now_s()
        self.gate(fault)
        injected_s = self._now_s()
        self._observer.entered("inject", fault, None)
        try:
            injection = self.supervisor.inject(fault, self.lookout.vitals())  # as old as they are by now
        except InjectionFailed as error:
            self.lookout.quiet_since_s = None
            return self._without_score(fault, Verdict.TOOL_ERROR, str(error), began_s)
        if isinstance(injection, Refusal):
            return self._without_score(fault, Verdict.INVALID, f"refused by {injection}", began_s, injection)
        stop, took = self._in_force(injection, injected_s)
        phases = self._recovery(fault, injected_s, self._now_s())
        nobody_waited = self.supervisor.obstacle()  # then recovery ended at once, and says nothing
        snapshots = self.lookout.since(injected_s - self._shape.quiet_s)
        seen = self._requests(phases)
        without = self.lookout.out_of_game()
        repaired, quarantined = self._repair(fault, phases)
        self._hush(fault)
        record = Record(fault, took, snapshots, phases, without, (self._now_s() - began_s) / 60.0)
        score = self.scorer.score(record, self.cluster.topology())
        outcome = Outcome(
            fault=fault,
            score=score,
            injection_id=injection.id,
            stop=stop,
            phases=phases,
            trace=self.lookout.trace(snapshots, injected_s),
            alerts=self.lookout.alerts(snapshots, injected_s),
            repaired=repaired,
            quarantined=quarantined,
            requests=None if seen is None else _telling(seen, phases, score),
        )
        if not stop.clean:
            return outcome.with_verdict(Verdict.TOOL_ERROR, f"the fault leaked: {stop.reason}")
        cut_short = outcome.aborted_by or nobody_waited
        if outcome.verdict is Verdict.RESILIENT and cut_short is not None:
            return outcome.with_verdict(Verdict.INVALID, f"cut short by {cut_short}")
        return outcome

    def refused(self, fault: Fault, refusal: Refusal) -> Outcome:
        """Returns the outcome of an experiment that somebody refuses before anything is done."""
        return self._without_score(fault, Verdict.INVALID, f"refused by {refusal}", self._now_s(), refusal)

    def sham(self) -> Outcome:
        """Runs an experiment without a fault: same gate, same windows, same scorer. What it alarms on is false.

        Raises:
            NotSteady: the gate stayed shut.
            Interrupted: something forbids to go on.
        """
        began_s = self._now_s()
        self.gate(None)
        injected_s = self._now_s()
        self._poll_until(injected_s + _SHAM_WINDOWS * self._shape.window_s, "sham", None)
        cleared_s = self._now_s()
        self._poll_until(cleared_s + POST_WINDOWS * self._shape.window_s, "post", None)
        obstacle = self.supervisor.obstacle()
        if obstacle is not None:
            raise Interrupted(obstacle)  # half a sham is none
        phases = Phases(injected_s, cleared_s, injected_s, self._now_s())
        snapshots = self.lookout.since(injected_s - self._shape.quiet_s)
        record = Record(None, True, snapshots, phases, self.lookout.out_of_game(), (self._now_s() - began_s) / 60.0)
        score = self.scorer.score(record, self.cluster.topology())
        self._learn_quiet_time(self.lookout.quiet_since_s)
        return Outcome(None, score, phases=phases, trace=self.lookout.trace(snapshots, injected_s))

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
            now_s, quiet_since_s = self._now_s(), self.lookout.quiet_since_s
            if quiet_since_s is not None and now_s - quiet_since_s >= self._shape.quiet_s:
                return vitals
            if now_s > deadline_s:
                missing = "telemetry is missing" if quiet_since_s is None else "each time for too short"
                why = "; ".join([*(vitals.unsteady or ()), *_told_of(vitals)]) or missing
                raise NotSteady(f"the steady state did not hold within {self._patience.gate_s:g} s: {why}")

    def calibrate(self, units: int) -> None:
        """Collects fault-free time until the scorer has that many units.

        Raises:
            NotSteady: there was no quiet time for longer than the gate's patience, or again and again too little.
            Interrupted: something forbids to go on.
        """
        fruitless = 0
        while (before := self.scorer.units) < units:
            windows = min(units - before + self._shape.reference + UNIT_WINDOWS - 1, self._most_windows)
            self.gate(None)
            since_s = self.lookout.quiet_since_s or self._now_s()
            until_s = since_s + (windows + 0.5) * self._shape.window_s
            self._observer.entered("calibrate", None, until_s)
            while self.lookout.quiet_since_s == since_s and self._now_s() < until_s:
                self.poll()
            self._learn_quiet_time(since_s)
            fruitless = 0 if self.scorer.units > before else fruitless + 1
            if fruitless == _MOST_FRUITLESS:
                least_s = (self._shape.reference + UNIT_WINDOWS) * self._shape.window_s
                raise NotSteady(
                    f"the steady state was broken {fruitless} times within {least_s:g} s, which is too short"
                )

    def poll(self) -> Vitals:
        """Takes the next measurement.

        Raises:
            Interrupted: something forbids to go on.
        """
        vitals = self.lookout.poll()
        obstacle = self.supervisor.obstacle()
        if obstacle is not None:
            raise Interrupted(obstacle)
        return vitals

    def present_z(self) -> dict[str, float]:
        """Returns how unusual each component looks right now; see `Scorer.present_z`."""
        return self.scorer.present_z(self.lookout.since(self._now_s() - self._shape.quiet_s - self._shape.window_s))

    # ---- the parts of an experiment, in order ---------------------------------------------------------------------

    def _in_force(self, injection: Injection, injected_s: float) -> tuple[Stop, bool]:
        """Keeps a fault in force until something ends it; returns what did, and whether the fault took."""
        self._observer.entered("in force", injection.fault, injection.expires_at.boottime_s)
        self.lookout.fault_in_force = True
        took = False
        try:
            while True:
                vitals = self.lookout.poll()
                took = took or self.supervisor.took(injection)
                stop = self.supervisor.watch(injection, vitals) or self._finished(injection, injected_s, took=took)
                if stop is not None:
                    return stop, took
        finally:
            self.lookout.fault_in_force = False
            if self.supervisor.is_open(injection):
                self.supervisor.revert(injection, "error", "the experiment was left")

    def _finished(self, injection: Injection, injected_s: float, *, took: bool) -> Stop | None:
        """Ends a fault before its time where waiting would show nothing more."""
        if not took and self._now_s() - injected_s > self._patience.took_s:
            return self.supervisor.revert(injection, "finished", "its symptom never showed")
        kind = kind_of(injection.fault.kind)
        if kind.lapses and took and self.supervisor.is_spent(injection):
            return self.supervisor.revert(injection, "lapsed", "the platform has published over it")
        if (
            kind.trigger is not None
            and not kind.lapses
            and self._has_settled(injected_s)
            and self.supervisor.is_spent(injection)
        ):
            return self.supervisor.revert(injection, "finished", "the platform has replaced what was damaged")
        return None

    def _recovery(self, fault: Fault, injected_s: float, cleared_s: float) -> Phases:
        """Waits until the promises are kept for good, or none of the broken ones can be in time any more."""
        last_s = max(clause.recovery_deadline_s(injected_s, cleared_s) for clause in self.hypothesis.clauses)
        self._observer.entered("recover", fault, last_s)
        margin_s = (self.hypothesis.samples + 1) * self.cluster.period_s

        def is_due() -> bool:
            return self._now_s() > self._next_deadline_s(injected_s, cleared_s) + margin_s

        while True:
            while not self._has_settled(injected_s) and self.supervisor.obstacle() is None:
                self.lookout.poll()
                if is_due():
                    break
            self._poll_until(self._now_s() + POST_WINDOWS * self._shape.window_s, "post", fault)
            recovered_s = self.lookout.settled_since(injected_s)
            # Some damage shows only afterwards, such as a crowd that comes back at once; it has as long as all other.
            if recovered_s is not None or is_due() or self.supervisor.obstacle() is not None:
                break
        if recovered_s is not None and self.lookout.quiet_since_s is not None:
            settled_s = max(recovered_s, cleared_s) + self._patience.settle_s
            self.lookout.quiet_since_s = max(settled_s, self.lookout.quiet_since_s)
        return Phases(injected_s, cleared_s, recovered_s, self._now_s())

    def _next_deadline_s(self, injected_s: float, cleared_s: float) -> float:
        """Returns when the last of the promises that are broken now would have to be kept again.

        Where none is, it takes a while more to see that they stay so; and where nobody can tell, no longer than that.
        """
        due_s = {clause: clause.recovery_deadline_s(injected_s, cleared_s) for clause in self.hypothesis.clauses}
        broken = [due_s[clause] for clause in due_s if self.lookout.is_broken(clause)]
        return max(broken, default=max(due_s.values()) + self._patience.settle_s)

    def _repair(self, fault: Fault, phases: Phases) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Gives what did not come back its declared repair; quarantines it, and the target, if that did not help."""
        if phases.recovered_s is not None or self.supervisor.obstacle() is not None:
            return (), ()
        self.lookout.poll()  # what has been read meanwhile may have taken longer than measurements stay new
        if self.lookout.is_blind():
            return (), ()  # nobody knows that anything needs a repair; the next gate stays shut until somebody does
        repaired = []
        broken = [component_of(c.series) for c in self.hypothesis.clauses if self.lookout.is_broken(c)]
        for component in dict.fromkeys([fault.target.name, *broken]):
            if not self._accepts_repair(component):
                continue
            repaired.append(component)
            asked_s = self._now_s()
            self._observer.entered("repair", fault, asked_s + self._patience.repair_s)
            while self._now_s() < asked_s + self._patience.repair_s and self.supervisor.obstacle() is None:
                self.lookout.poll()
                if self._has_settled(asked_s):
                    return tuple(repaired), ()
        if self.supervisor.obstacle() is not None:
            return (), ()  # nobody has waited for it
        reason = f"not back after {fault}" + (f", nor after repairing {', '.join(repaired)}" if repaired else "")
        self.supervisor.quarantine(fault.target.name, reason)
        quarantined = [fault.target.name]
        components = {component.name for component in self.cluster.topology().components}
        for clause in self.hypothesis.clauses:
            # What needs the target is out of the game with it.
            if (component := component_of(clause.series)) in components and self.lookout.is_broken_for_good(clause):
                self.supervisor.quarantine(component, reason)
                quarantined.append(component)
        return (), tuple(quarantined)

    def _accepts_repair(self, component: str) -> bool:
        try:
            return self.supervisor.repair(component)
        except RepairFailed:
            return False

    def _hush(self, fault: Fault) -> None:
        """Waits until no alert fires, as patiently as at a gate; the minutes are those of the fault that raised it."""
        deadline_s = self._now_s() + self._patience.gate_s
        if self.lookout.vitals().firing_alerts:
            self._observer.entered("hush", fault, deadline_s)
        while self.lookout.vitals().firing_alerts and self.supervisor.obstacle() is None and self._now_s() < deadline_s:
            self.lookout.poll()

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _has_settled(self, from_s: float) -> bool:
        return self.lookout.has_settled(from_s, self._patience.settle_s)

    def _requests(self, phases: Phases) -> Seen | None:
        """Returns the requests before a fault and during it; None where nobody can tell how single requests went."""
        if not isinstance(self.cluster, ShowsRequests):
            return None
        return self.cluster.requests(phases.injected_s - self._shape.quiet_s, phases.cleared_s)

    def _poll_until(self, until_s: float, phase: str, fault: Fault | None) -> None:
        self._observer.entered(phase, fault, until_s)
        while self._now_s() < until_s and self.supervisor.obstacle() is None:
            self.lookout.poll()

    def _learn_quiet_time(self, since_s: float | None) -> None:
        """Adds a quiet stretch to the calibration, and begins a new one."""
        if since_s is not None:
            snapshots = self.lookout.quiet_stretch(since_s)
            stretch = window_medians(snapshots, self.cluster.series, since_s, self._shape)
            if len(stretch) >= rows(self._shape.reference + UNIT_WINDOWS):  # no unit could be cut from less
                self.scorer.calibration.add(stretch)
            self.lookout.quiet_since_s = None

    def _without_score(
        self, fault: Fault, verdict: Verdict, reason: str, began_s: float, refusal: Refusal | None = None
    ) -> Outcome:
        evidence = Evidence(verdict, cost_min=(self._now_s() - began_s) / 60.0)
        return Outcome(fault, Score(evidence, (), reason, None, ()), refusal)

    def _now_s(self) -> float:
        return self.lookout.now_s


def _telling(seen: Seen, phases: Phases, score: Score) -> Pair:
    wrong_first = any(broken.mechanism is Mechanism.WRONG_ANSWERS for broken in score.broken[:1])
    return pair(seen, phases.injected_s, phases.cleared_s, wrong_first=wrong_first)


def _told_of(vitals: Vitals) -> list[str]:
    """Returns what the cluster's alerts say against going on."""
    if vitals.firing_alerts is None:
        return ["nobody can tell whether alerts are firing"]
    return [f"{alert} is firing" for alert in vitals.firing_alerts]
