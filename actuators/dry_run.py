"""A dry run is another actuator, not an `if` at the point of harm: it plans, and stops there."""

from __future__ import annotations

from collections.abc import Mapping

from .actuator import Actuator
from .fault import Fault, Injection, Undo


class LeashedActuator:
    """Reads and plans like the actuator it wraps, and neither injects nor reverts.

    Args:
        actuator: the real one.
    """

    def __init__(self, actuator: Actuator) -> None:
        self._actuator = actuator

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Plans the fault for real."""
        return self._actuator.prepare(injection_id, fault)

    def inject(self, injection: Injection) -> None:
        """Does nothing."""

    def revert(self, injection: Injection) -> None:
        """Does nothing: there is nothing to take out."""

    def took(self, injection: Injection) -> bool:
        """Never."""
        return False

    def probe_clean(self, injection: Injection) -> bool:
        """Always."""
        return True


def leashed(actuators: Mapping[str, Actuator]) -> Mapping[str, Actuator]:
    """Returns the same actuators, on a leash."""
    return {family: LeashedActuator(actuator) for family, actuator in actuators.items()}
