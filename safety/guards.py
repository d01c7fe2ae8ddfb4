"""Reasons not to. Each guard is a pure function of a fault and the vitals; the first refusal counts.

A guard that cannot check refuses. A refusal is a value, not an error: it is journaled and shown, and the policy sees
it as a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from actuators.catalogue import CATALOGUE, instances_hit
from actuators.fault import Fault, Undo
from actuators.pod import reach

from .limits import OPT_IN_LABEL, Limits
from .vitals import Vitals


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a fault may not happen now.

    Attributes:
        guard: which guard said no.
        reason: the value it saw and the rule that the value broke.
    """

    guard: str
    reason: str

    def __str__(self) -> str:
        return f"{self.guard}: {self.reason}"


Guard: TypeAlias = Callable[[Fault, Vitals, Limits], Refusal | None]


def fresh_data(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses to act on measurements that are too old to be knowledge."""
    if math.isfinite(vitals.age_s) and vitals.age_s <= limits.stale_after_s:
        return None
    return Refusal("fresh_data", f"newest measurement is {vitals.age_s:.1f} s old; allowed {limits.stale_after_s:g} s")


def right_cluster(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses every cluster but the pinned one, and whatever a deny pattern matches."""
    identity = vitals.identity
    if not limits.cluster_id or identity.cluster_id != limits.cluster_id:
        return Refusal("right_cluster", f"cluster is {identity.cluster_id!r}; pinned is {limits.cluster_id!r}")
    if not limits.environment or identity.environment != limits.environment:
        return Refusal("right_cluster", f"environment is {identity.environment!r}; allowed {limits.environment!r}")
    for name in (identity.cluster_id, identity.environment, str(fault.target)):
        for pattern in limits.deny_patterns:
            if pattern in name:
                return Refusal("right_cluster", f"{name!r} matches the deny pattern {pattern!r}")
    return None


def opted_in(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses every target whose owners did not write the opt-in label on it."""
    component = vitals.components.get(fault.target.name)
    if component is None:
        return Refusal("opted_in", f"{fault.target} is not a component of this cluster")
    if component.labels.get(OPT_IN_LABEL) != "true":
        return Refusal("opted_in", f"{fault.target} does not carry the label {OPT_IN_LABEL}=true")
    return None


def not_quarantined(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses components that did not come back from an earlier experiment."""
    if fault.target.name not in vitals.quarantined:
        return None
    return Refusal("not_quarantined", f"{fault.target} did not recover earlier and waits for a person")


def steady_state(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses to break what is broken already, or what nobody can judge."""
    if vitals.unsteady is None:
        return Refusal("steady_state", "nobody can tell whether the steady state holds")
    if vitals.unsteady:
        return Refusal("steady_state", f"steady state does not hold: {'; '.join(vitals.unsteady)}")
    return None


def quiet(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses to add to an incident that the cluster itself has noticed, or to act where nobody would notice one."""
    if vitals.firing_alerts is None:
        return Refusal("quiet", "nobody can tell whether alerts are firing")
    if not vitals.firing_alerts:
        return None
    return Refusal("quiet", f"alerts are firing: {', '.join(vitals.firing_alerts)}")


def few_open(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses a second experiment on one component, and more than the global cap."""
    if len(vitals.open_faults) >= limits.max_open:
        return Refusal("few_open", f"{len(vitals.open_faults)} experiments are open; allowed {limits.max_open}")
    if any(fault.target == open_fault.target for open_fault in vitals.open_faults):
        return Refusal("few_open", f"{fault.target} is being broken already")
    return None


def known_and_short(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses kinds that the catalogue does not know, and faults that would stay too long."""
    if fault.kind not in CATALOGUE:
        return Refusal("known_and_short", f"unknown fault kind {fault.kind!r}")
    if fault.duration_s > limits.max_duration_s:
        return Refusal(
            "known_and_short", f"{fault.kind} would last {fault.duration_s:g} s; allowed {limits.max_duration_s:g} s"
        )
    return None


def reversible(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses what cannot be undone, unless the limits name it."""
    if CATALOGUE[fault.kind].reversible or fault.kind in limits.irreversible:
        return None
    return Refusal("reversible", f"{fault.kind} cannot be undone and limits.irreversible does not name it")


def blast_radius(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Refuses faults that reach too many instances of a component."""
    component = vitals.components[fault.target.name]
    may_hit_all = fault.target.name in limits.whole_component
    if component.ready is None and not may_hit_all:
        return Refusal("blast_radius", f"nobody can tell how many instances of {fault.target} live")
    # Victims are picked from those that live, which may be fewer than were ordered, or more.
    living = component.total if component.ready is None else component.ready
    if min(component.total, living) < 1:
        return Refusal(
            "blast_radius",
            f"{fault.target} says it has {living} of {component.total} instances; nobody can tell what is hit",
        )
    return _too_wide(fault, instances_hit(CATALOGUE[fault.kind], fault.intensity, living), living, limits)


def _too_wide(fault: Fault, hit: int, living: int, limits: Limits) -> Refusal | None:
    if hit >= living and fault.target.name not in limits.whole_component:
        return Refusal("blast_radius", f"would hit all of {fault.target}; limits.whole_component does not name it")
    if CATALOGUE[fault.kind].scope == "component" or hit <= max(limits.max_instances, limits.max_share * living):
        return None
    return Refusal(
        "blast_radius",
        f"would hit {hit} of {living} instances of {fault.target}; "
        f"allowed {limits.max_instances} or {limits.max_share:.0%}",
    )


GUARDS: Sequence[Guard] = (
    fresh_data,
    right_cluster,
    opted_in,
    not_quarantined,
    known_and_short,
    reversible,
    few_open,
    blast_radius,
    quiet,
    steady_state,
)
"""In reading order: who and where, then what, then how much, then whether now is the time."""


def judge(fault: Fault, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Returns the first refusal, or None when every guard permits the fault."""
    for guard in GUARDS:
        refusal = guard(fault, vitals, limits)
        if refusal is not None:
            return refusal
    return None


def judge_reach(fault: Fault, undo: Undo, vitals: Vitals, limits: Limits) -> Refusal | None:
    """Judges how much would be hit once more, when the victims have been named.

    Who names them counts those that live by then; the guards were told how many serve, some time ago. The lower number
    counts: whoever lives and does not serve yet is nobody that the others could be spared for.

    Args:
        fault: that the guards have permitted.
        undo: what its actuator has prepared.
        vitals: by which the guards have judged it.
        limits: by which they have.
    """
    if CATALOGUE[fault.kind].scope == "component":
        return None  # hits all there are, and was permitted to
    named = reach(undo)
    if named is None:
        return Refusal("blast_radius", f"nobody can tell how many instances of {fault.target} would be hit")
    hit, living = named
    ready = vitals.components[fault.target.name].ready
    return _too_wide(fault, hit, living if ready is None else min(ready, living), limits)
