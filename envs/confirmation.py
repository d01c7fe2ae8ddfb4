"""When has a weakness been shown? Replicates of one cell multiply their e-values until they reach the threshold.

A *cell* is one fault kind at one intensity on one component. A *fingerprint* names a weakness: the same kind of fault
on the same role, broken in the same way, is one weakness however many cells show it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from actuators.fault import Fault

from .hypothesis import Mechanism
from .scoring import Evidence, Verdict

CONFIRMED_E = 20.0
"""An e-product of 20 is evidence at about the 5 % level whenever one stops (Ville's inequality)."""


class Cell(NamedTuple):
    """One fault kind at one intensity on one component."""

    component: str
    kind: str
    intensity: float

    @classmethod
    def of(cls, fault: Fault) -> Cell:
        """Returns the cell that a fault belongs to."""
        return cls(fault.target.name, fault.kind, fault.intensity)


class Fingerprint(NamedTuple):
    """What makes two findings the same weakness."""

    kind: str
    role: str
    mechanism: Mechanism

    def __str__(self) -> str:
        return f"{self.kind}|{self.role}|{self.mechanism}"


@dataclass(slots=True)
class Replicates:
    """All valid experiments on one cell.

    Attributes:
        evidence: what each showed, in order.
        mechanisms: how each that was a weakness broke its promise.
    """

    evidence: list[Evidence] = field(default_factory=list)
    mechanisms: list[Mechanism] = field(default_factory=list)

    @property
    def e_product(self) -> float:
        """Evidence of all replicates together, those that showed nothing included."""
        return math.prod(evidence.e_value for evidence in self.evidence)

    @property
    def reproduced(self) -> int:
        """How many of them were weaknesses by the most frequent mechanism."""
        return self.mechanisms.count(self.mechanism) if self.mechanism is not None else 0

    @property
    def mechanism(self) -> Mechanism | None:
        """The most frequent mechanism; of equals, the more telling one."""
        counts = Counter(self.mechanisms)
        order = list(Mechanism)
        return min(counts, key=lambda mechanism: (-counts[mechanism], order.index(mechanism)), default=None)

    @property
    def confirmed(self) -> bool:
        """Whether this is shown, and not only seen once: promises broken in two ways are each seen once."""
        return self.e_product >= CONFIRMED_E and self.reproduced >= 2


class Confirmations:
    """What a campaign has shown so far."""

    def __init__(self) -> None:
        self.cells: dict[Cell, Replicates] = {}
        self.confirmed: dict[Fingerprint, Cell] = {}

    def add(self, fault: Fault, role: str, evidence: Evidence, mechanism: Mechanism | None) -> Fingerprint | None:
        """Adds one experiment.

        Returns:
            The weakness that this very experiment confirmed for the first time, if any.
        """
        if evidence.verdict in {Verdict.INVALID, Verdict.TOOL_ERROR}:
            return None
        cell = Cell.of(fault)
        replicates = self.cells.setdefault(cell, Replicates())
        replicates.evidence.append(evidence)
        if evidence.verdict is not Verdict.WEAKNESS or mechanism is None:
            return None  # one that is inconclusive may add to the evidence, and shows nobody what is wrong
        replicates.mechanisms.append(mechanism)
        if not replicates.confirmed or replicates.mechanism is None:
            return None
        fingerprint = Fingerprint(fault.kind, role, replicates.mechanism)
        if fingerprint in self.confirmed:
            return None
        self.confirmed[fingerprint] = cell
        return fingerprint
