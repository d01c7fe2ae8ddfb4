"""What one experiment has come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from actuators.fault import Fault
from safety.guards import Refusal
from safety.supervisor import Stop

from .hypothesis import Mechanism, Phases
from .scoring import Evidence, Score, Verdict
from .telemetry.alerts import Spell
from .telemetry.traces import Pair


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
        alerts: which of the cluster's own alerts fired, and when, seconds from the injection.
        repaired: components that got their declared repair and came back.
        quarantined: components that are out of the game since.
        alone: the score by itself, where another experiment has changed the verdict since.
        requests: one request before the fault and one during it; None where nobody can tell how single requests went.
    """

    fault: Fault | None
    score: Score
    refusal: Refusal | None = None
    injection_id: str | None = None
    stop: Stop | None = None
    phases: Phases | None = None
    trace: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    alerts: Sequence[Spell] = ()
    repaired: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    alone: Score | None = None
    requests: Pair | None = None

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
