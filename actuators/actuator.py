"""The seam between a permitted fault and the platform it hurts.

One actuator per fault family. It plans a fault and its undo, and asks a driver to carry both out; the driver is the
only part that knows a platform. The laws that every actuator keeps are tests in `tests/contracts/`:
`prepare` harms nothing; revert before inject is fine; inject or revert twice equals once; inject, then revert,
restores what can be observed; the receipt survives JSON and a new process.
"""

from __future__ import annotations

from typing import Protocol

from .fault import Fault, Injection, Undo


class Actuator(Protocol):
    """One family of faults on one cluster."""

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Plans the fault without harming anything.

        Returns:
            Everything that a fresh process needs to inject and to revert, as a JSON object. A fault of single instances
            names them as `actuators.pod.chosen` does, so that how many are hit can be judged before they are.

        Raises:
            TargetNotFound: the target, or the part of it that would be hurt, does not exist.
        """
        ...

    def inject(self, injection: Injection) -> None:
        """Applies the fault that `prepare` planned; absolute and idempotent.

        Raises:
            InjectionFailed: it did not take; the caller reverts.
        """
        ...

    def revert(self, injection: Injection) -> None:
        """Takes the fault out; idempotent, and "already gone" is success.

        Raises:
            RevertFailed: it is still there, or nobody can tell.
        """
        ...

    def took(self, injection: Injection) -> bool:
        """Tells whether the fault's symptom is observed; False also where nobody can tell."""
        ...

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether it is observed that nothing of this fault remains.

        Raises:
            RevertFailed: nobody can tell.
        """
        ...


class Repairs(Protocol):
    """What a platform offers to heal a component that did not come back by itself."""

    def repair(self, component: str, action: str) -> None:
        """Carries out one declared repair and returns when the platform has accepted it.

        Raises:
            RepairFailed: the platform does not know it, or could not do it.
        """
        ...
