"""What is true of every fault of one kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What is true of every fault of one kind.

    Attributes:
        name: `family.verb`.
        amount: turns an intensity in (0, 1] into `unit`.
        unit: physical unit of the amount.
        duration_s: how long such a fault stays, seconds.
        reversible: whether reverting restores what was there. A fault that cannot be undone is refused unless the
            limits name it.
        scope: `instance` when the fault hurts single replicas, `component` when all of them at once.
        capability: the driver protocol it needs.
        symptom: what is looked at to be sure that the fault took.
        blinds: metrics of the target that may fall silent while the fault lasts; that is its effect, not a blackout.
        trigger: for a latent fault, the kind that makes the target meet it. The same trigger alone is its control.
        lapses: whether the platform's routine, and not its resilience, may end the fault; then it has shown nothing.
    """

    name: str
    amount: Callable[[float], float]
    unit: str
    duration_s: float
    reversible: bool
    scope: str
    capability: str
    symptom: str
    blinds: frozenset[str] = frozenset()
    trigger: str | None = None
    lapses: bool = False

    def described(self, intensity: float) -> str:
        """Returns the amount that an intensity stands for, in words.

        >>> from actuators.catalogue import CATALOGUE
        >>> CATALOGUE["network.delay"].described(0.5)
        '500 ms towards the target'
        >>> CATALOGUE["pod.kill"].described(0.25)
        '25% of instances'
        """
        amount = self.amount(intensity)
        share = self.unit.removeprefix("share ")
        return f"{amount:g} {self.unit}" if share == self.unit else f"{amount:.0%} {share}"

    @property
    def family(self) -> str:
        """The family, which names the actuator."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """What is done, within the family."""
        return self.name.partition(".")[2]
