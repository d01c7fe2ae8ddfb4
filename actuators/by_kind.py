"""A family whose faults have little in common: every kind has an actuator of its own."""

from __future__ import annotations

from collections.abc import Mapping

from .actuator import Actuator
from .fault import Fault, Injection, Undo


class ByKind:
    """Hands every fault of a family to the one who knows its kind; see `actuators.actuator.Actuator`.

    Args:
        actuators: by fault kind.
    """

    def __init__(self, actuators: Mapping[str, Actuator]) -> None:
        self._actuators = actuators

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Plans the fault and its undo."""
        return self._actuators[fault.kind].prepare(injection_id, fault)

    def inject(self, injection: Injection) -> None:
        """Applies the fault."""
        self._of(injection).inject(injection)

    def revert(self, injection: Injection) -> None:
        """Takes the fault out."""
        self._of(injection).revert(injection)

    def took(self, injection: Injection) -> bool:
        """Tells whether the fault's symptom is observed."""
        return self._of(injection).took(injection)

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether nothing of the fault remains."""
        return self._of(injection).probe_clean(injection)

    def _of(self, injection: Injection) -> Actuator:
        return self._actuators[injection.fault.kind]
