"""Faults of pods: kill, pause and CPU stress.

Victims are chosen when the fault is prepared and stand in the undo by identity, so that a recycled pid or a replaced
pod is never mistaken for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from .catalogue import instances_hit, kind_of
from .clock import Instant
from .errors import ActuatorError, TargetNotFound
from .fault import Fault, Injection, Target, Undo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Instance:
    """One running replica.

    Attributes:
        id: its name on the platform.
        identity: what tells it from a later namesake (pid and start time, pod uid …), JSON.
    """

    id: str
    identity: Mapping[str, Any]


class Pods(Protocol):
    """What a platform must offer for pod faults. Every verb is idempotent; a vanished instance is no error."""

    def instances(self, target: Target) -> Sequence[Instance]:
        """Returns the target's running instances in a stable order.

        Raises:
            TargetNotFound: no such target.
        """
        ...

    def kill(self, instance: Instance) -> None:
        """Ends the instance at once, without grace."""
        ...

    def pause(self, instance: Instance, injection_id: str, until: Instant) -> None:
        """Freezes the instance; whatever freezes it lets go by itself at `until`."""
        ...

    def starve(self, instance: Instance, share: float, injection_id: str, until: Instant) -> None:
        """Takes a share of its CPU time from the instance; whatever takes it lets go by itself at `until`."""
        ...

    def resume(self, instance: Instance, injection_id: str) -> None:
        """Ends what holds the instance under this injection, and lets it run unless another injection stops it."""
        ...

    def exists(self, instance: Instance) -> bool:
        """Tells whether this very instance is still there, paused or not."""
        ...

    def is_paused(self, instance: Instance, injection_id: str) -> bool:
        """Tells whether the instance, or anything that could freeze it under this injection, is still held."""
        ...

    def is_starved(self, instance: Instance, injection_id: str) -> bool:
        """Tells whether the instance is seen to be kept from its CPU, and to get some of it, under this injection."""
        ...


class PodActuator:
    """Plans kills, pauses and starvation, and asks a driver's `Pods` to carry them out."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Chooses the victims: the first instances in the platform's order."""
        instances = self._pods.instances(fault.target)
        if not instances:
            raise TargetNotFound(f"{fault.target} has no running instance to break with {fault.kind}")
        count = instances_hit(kind_of(fault.kind), fault.intensity, len(instances))
        return chosen(instances, count)

    def inject(self, injection: Injection) -> None:
        """Kills, freezes or starves the victims."""
        kind, until = kind_of(injection.fault.kind), injection.expires_at
        for instance in victims(injection):
            if kind.name == "pod.kill":
                self._pods.kill(instance)
            elif kind.name == "pod.pause":
                self._pods.pause(instance, injection.id, until)
            else:
                self._pods.starve(instance, kind.amount(injection.fault.intensity), injection.id, until)

    def revert(self, injection: Injection) -> None:
        """Lets held victims run again; the dead stay dead, and the platform replaces them."""
        if injection.fault.kind != "pod.kill":
            for_each(victims(injection), lambda instance: self._pods.resume(instance, injection.id))

    def took(self, injection: Injection) -> bool:
        """Tells whether every victim is gone, held, or starved."""
        if injection.fault.kind == "pod.kill":
            return not any(self._pods.exists(instance) for instance in victims(injection))
        if injection.fault.kind == "pod.cpu_stress":
            return all(self._pods.is_starved(instance, injection.id) for instance in victims(injection))
        return all(self._pods.is_paused(instance, injection.id) for instance in victims(injection))

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether no victim is held any more; a kill leaves nothing that could stay."""
        if injection.fault.kind == "pod.kill":
            return True
        return not any(self._pods.is_paused(instance, injection.id) for instance in victims(injection))


def for_each(victims: Iterable[T], undo: Callable[[T], None]) -> None:
    """Takes a fault out of every victim, also where that of another stays.

    Raises:
        ActuatorError, OSError: of the first that stays, once all were tried.
    """
    errors: list[ActuatorError | OSError] = []
    for victim in victims:
        try:
            undo(victim)
        except (ActuatorError, OSError) as error:
            errors.append(error)
    if errors:
        raise errors[0]


def chosen(instances: Sequence[Instance], count: int) -> Undo:
    """Names the first `count` instances as victims, and says out of how many; part of an undo."""
    return {"instances": [asdict(instance) for instance in instances[:count]], "living": len(instances)}


def reach(undo: Undo) -> tuple[int, int] | None:
    """Returns how many instances a planned fault hits, and how many its target had; None where its undo names none."""
    named, living = undo.get("instances"), undo.get("living")
    return (len(named), living) if named and isinstance(living, int) else None


def victims(injection: Injection) -> list[Instance]:
    """Returns the instances that an injection's undo names."""
    return [Instance(**instance) for instance in injection.undo["instances"]]
