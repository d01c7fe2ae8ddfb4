"""A confirmed weakness: the product of this project, as data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from actuators.catalogue import kind_of
from actuators.fault import Fault
from envs.confirmation import Cell, Fingerprint, Replicates
from envs.hypothesis import Mechanism
from envs.outcome import Outcome
from envs.scoring import Evidence, Verdict
from envs.telemetry.snapshot import component_of

from .remedies import Remedy

HIGH, MEDIUM = 0.75, 0.4

_DEED = {
    "pod.kill": "Killing one instance of {target}",
    "pod.pause": "Freezing one instance of {target}",
    "network.delay": "Delaying traffic into {target} by {amount:g} ms",
    "network.loss": "Resetting {amount:.0%} of the messages into {target}",
    "network.partition": "Cutting {target} off from its callers",
    "network.bandwidth": "Narrowing traffic into {target} to {amount:g} bytes/s",
    "model.registry_unavailable": "Taking the model registry away from {target} (one reader dies)",
    "model.registry_corrupt": "Publishing a model for {target} that lost {amount:.0%} of its bytes (one reader dies)",
    "model.bad_canary": "Publishing a model for {target} of whose weights {amount:.0%} were never learnt",
    "model.checkpoint_delete": "Deleting the newest checkpoint of {target} (its writer dies)",
    "data.corrupt_rows": "Corrupting {amount:.0%} of the rows that come to {target}",
    "data.schema_change": "Renaming {amount:.0%} of the fields of the rows that come to {target}",
    "data.drift": "Shifting the values that come to {target} by {amount:g} standard deviations",
    "data.stream_delay": "Holding back the rows of one partition of {target} by {amount:g} s",
    "pod.cpu_stress": "Taking {amount:.0%} of their CPU time from all instances of {target}",
    "model.checkpoint_corrupt": "Damaging the newest checkpoint of {target} (its writer dies)",
    "pod.memory_stress": "Leaving the instances of {target} {amount:g} MiB of memory to grow",
    "pod.node_kill": "Killing the node that {target} lives on",
}
_CONSEQUENCE = {
    Mechanism.UNAVAILABLE: "makes requests fail",
    Mechanism.STUCK: "stops training",
    Mechanism.LOST_PROGRESS: "loses training progress",
    Mechanism.WRONG_ANSWERS: "makes answers wrong",
    Mechanism.SLOW: "makes answers slow",
    Mechanism.AMPLIFIED: "multiplies the requests to it",
    Mechanism.STALE: "lets old features pass for fresh",
    Mechanism.QUEUE_GROWTH: "lets requests pile up",
    Mechanism.SILENT: "raises no alert",
    Mechanism.NOT_RECOVERED: "leaves damage behind after it has ended",
}


@dataclass(frozen=True, slots=True)
class Confidence:
    """Why a weakness is believed.

    Attributes:
        reproduced: experiments on the cell that showed it.
        attempts: valid experiments on the cell.
        p: the largest p-value among those that showed it.
        e_value: the product of all attempts' e-values.
    """

    reproduced: int
    attempts: int
    p: float
    e_value: float


@dataclass(frozen=True, slots=True)
class Weakness:
    """One confirmed weakness, as it stands in `weaknesses.json`.

    `tested` are the components of which some series was tested: of the others nobody knows whether they moved.
    `shown_by` is the injection whose experiment shows it most clearly, which is the one that the record tells of.
    `not_recovered` says whether a promise was seen broken after its deadline to be kept again; without a `recovery_s`
    and without that, nobody saw how it went on. All three are None in records that were written before they were kept.
    """

    id: str
    fingerprint: str
    title: str
    fault: dict[str, Any]
    mechanism: str
    hypothesis: str
    verdict: str
    evidence: dict[str, Any]
    severity: str
    confidence: dict[str, Any]
    affected: list[dict[str, Any]]
    recovery_s: float | None
    reproducer: dict[str, Any]
    remedy: dict[str, str]
    state: str
    first_seen: str
    last_seen: str
    seed: int
    requests: dict[str, Any] | None = None
    tested: list[str] | None = None
    not_recovered: bool | None = None
    shown_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the weakness as a JSON object."""
        return asdict(self)


def identifier(fingerprint: Fingerprint) -> str:
    """Returns the name under which a weakness is known to people; the same in every run."""
    return "W-" + hashlib.sha256(str(fingerprint).encode()).hexdigest()[:8]


def weakness_of(
    fingerprint: Fingerprint,
    cell: Cell,
    replicates: Replicates,
    outcomes: Sequence[Outcome],
    *,
    severity_of: Callable[[Outcome], float],
    remedy: Remedy,
    seed: int,
    seen_at: str,
) -> Weakness:
    """Returns the record of a weakness.

    Args:
        fingerprint: what it is.
        cell: the cell that confirmed it.
        replicates: the cell's experiments.
        outcomes: all experiments of the run; those on the cell are its evidence.
        severity_of: how much an experiment's result matters, in [0, 1].
        remedy: what to do about it.
        seed: of the campaign.
        seen_at: UTC, ISO 8601.
    """
    shown = [o for o in outcomes if o.fault is not None and Cell.of(o.fault) == cell and o.verdict is Verdict.WEAKNESS]
    # A cell may break promises in several ways: the record tells of the one that was confirmed.
    shown = [outcome for outcome in shown if outcome.mechanism is fingerprint.mechanism] or shown
    clearest = max(shown, key=lambda outcome: outcome.evidence.anomaly_score)
    fault = clearest.fault
    if fault is None:
        raise ValueError(f"{fingerprint} has no experiment that shows it")
    broken = next((b for b in clearest.score.broken if b.mechanism is fingerprint.mechanism), clearest.score.broken[0])
    return Weakness(
        id=identifier(fingerprint),
        fingerprint=str(fingerprint),
        title=title_of(fault, fingerprint.mechanism),
        fault={
            "kind": fault.kind,
            "target": fault.target.name,
            "intensity": fault.intensity,
            "duration_s": fault.duration_s,
        },
        mechanism=str(fingerprint.mechanism),
        hypothesis=broken.clause,
        verdict=str(Verdict.WEAKNESS),
        evidence=evidence_json(clearest.evidence) | {"observed": broken.worst, "series": broken.series},
        severity=severity_word(max(map(severity_of, shown))),
        confidence=asdict(
            Confidence(
                replicates.reproduced,
                len(replicates.evidence),
                max(outcome.evidence.p for outcome in shown),
                replicates.e_product,
            )
        ),
        affected=[
            {"series": series, "component": component_of(series), "tolerances": round(size, 2)}
            for series, size in clearest.score.moved
        ],
        recovery_s=clearest.score.recovery_s,
        reproducer=_reproducer(identifier(fingerprint), cell),
        remedy={"text": remedy.text, "source": remedy.source},
        state="confirmed",
        first_seen=seen_at,
        last_seen=seen_at,
        seed=seed,
        requests=requests_json(max(shown, key=_shows_requests)),
        tested=list(clearest.score.tested),
        not_recovered=any(one.mechanism is Mechanism.NOT_RECOVERED for one in clearest.score.broken),
        shown_by=clearest.injection_id,
    )


def reproduced_by(weakness: Weakness, mildest: Cell) -> Weakness:
    """Returns a weakness that a milder cell of the same arm was seen to show, too."""
    return replace(weakness, reproducer=_reproducer(weakness.id, mildest))


def _reproducer(weakness_id: str, cell: Cell) -> dict[str, Any]:
    return {
        "command": f"backburn replay {weakness_id}",
        "intensity": cell.intensity,
        "amount": kind_of(cell.kind).described(cell.intensity),
    }


def title_of(fault: Fault, mechanism: Mechanism) -> str:
    """Returns a weakness in one sentence without numbers of its effect."""
    amount = kind_of(fault.kind).amount(fault.intensity)
    deed = _DEED.get(fault.kind, "{kind} on {target}").format(kind=fault.kind, target=fault.target, amount=amount)
    return f"{deed} {_CONSEQUENCE.get(mechanism, 'breaks a promise')}"


def severity_word(severity: float) -> str:
    """Returns `high`, `medium` or `low`."""
    return "high" if severity >= HIGH else "medium" if severity >= MEDIUM else "low"


def requests_json(outcome: Outcome) -> dict[str, Any] | None:
    """Returns one request before a fault and one during it as JSON; None where nobody could tell."""
    if outcome.requests is None or outcome.phases is None:
        return None
    return outcome.requests.to_json(outcome.phases.injected_s, outcome.injection_id)


def _shows_requests(outcome: Outcome) -> tuple[int, float]:
    requests = outcome.requests
    known = 0 if requests is None else (requests.during is not None) + (requests.before is not None)
    return known, outcome.evidence.anomaly_score


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    """Returns an experiment's evidence as JSON: what is not a number becomes null, never a made-up one."""
    data = asdict(evidence) | {"verdict": str(evidence.verdict)}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in data.items()
    }


_UNKNOWN = {field.name: field.default for field in fields(Evidence)} | {"recovery_ratio": math.nan}


def evidence_of(data: Mapping[str, Any]) -> Evidence:
    """Reads what `evidence_json` wrote; what was not a number is again what it is where nothing is known.

    Raises:
        KeyError, TypeError, ValueError: nobody wrote that.
    """
    known: dict[str, Any] = {name: _UNKNOWN[name] if value is None else value for name, value in data.items()}
    strange = [name for name, value in known.items() if name != "verdict" and not isinstance(value, int | float | None)]
    if strange:
        raise TypeError(f"{strange[0]} is {known[strange[0]]!r}; allowed are numbers")
    known["verdict"] = Verdict(data["verdict"])
    return Evidence(**known)
