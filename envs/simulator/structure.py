"""What kinds of clusters are drawn, and which of a real cluster's difficulties they have."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Final

from actuators.errors import BadInput

from ..protections import PROTECTIONS

FAMILIES: Final = ("layered", "tree", "star", "random", "mesh")
"""Forms of dependency graphs."""

_MOST_COMPONENTS = 96
_FEWEST_COMPONENTS = 6


VERSION: Final = 2
"""Of what clusters are like and what experiments on them show; figures and policies of different ones don't compare."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Difficulties that give a policy that looks ahead something to win; each can be switched off.

    With all of them off, weaknesses are independent given what can be seen, and all experiments cost the same: then the
    greedy choice by posterior is near the best (Golovin and Krause, "Adaptive submodularity", JAIR 42, 2011).

    Attributes:
        probes: a level too low to break a promise moves its target if it is near enough to that; with it off, all do.
        costs: experiments take unequal minutes, and a component that was hit has to cool down.
        shared_causes: components of one cluster, of one role and of one team lack the same protections.
        compound: some weaknesses show only for minutes after a dependency was hit.
        noise: false alarms, misses and experiments that come to nothing.
        drift: some weaknesses are mended or made in the middle of a campaign.
    """

    probes: bool = True
    costs: bool = True
    shared_causes: bool = True
    compound: bool = True
    noise: bool = True
    drift: bool = True

    @classmethod
    def none(cls) -> Structure:
        """Returns what has none of them."""
        return cls(**{each.name: False for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class Generator:
    """How clusters are drawn.

    Attributes:
        components: fewest and most of a cluster, within 6 to 96.
        families: forms of the dependency graph, each as likely.
        prevalence: added to the log-odds of every absence.
        noise: factor on the rates of false alarms, misses and invalid experiments.
        without: protections that are never absent, so that their weaknesses are new to whoever learnt here.
        only: protections that alone may be absent; all if empty.
        unlisted: odds that a cluster lacks something that is in no list of protections, and that answers any kinds of
            fault on any roles. Whoever learns where there is such learns to believe what is seen, and not the list.
        structure: which difficulties there are.

    Raises:
        BadInput: no cluster could be drawn so.
    """

    components: tuple[int, int] = (6, 24)
    families: tuple[str, ...] = FAMILIES
    prevalence: float = 0.0
    noise: float = 1.0
    without: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    unlisted: float = 0.0
    structure: Structure = field(default_factory=Structure)

    def __post_init__(self) -> None:
        fewest, most = self.components
        if not _FEWEST_COMPONENTS <= fewest <= most <= _MOST_COMPONENTS:
            raise BadInput(
                f"components: {fewest} to {most}; allowed is a range within {_FEWEST_COMPONENTS} to {_MOST_COMPONENTS}"
            )
        unknown = set(self.families) - set(FAMILIES)
        if unknown or not self.families:
            raise BadInput(f"families: {', '.join(sorted(unknown)) or 'none'}; known are {', '.join(FAMILIES)}")
        names = {protection.name for protection in PROTECTIONS}
        for key, given in (("without", self.without), ("only", self.only)):
            if given - names:
                raise BadInput(f"{key}: {', '.join(sorted(given - names))}; known are {', '.join(sorted(names))}")
        if not (self.only or names) - self.without:
            raise BadInput("without: names every protection that may be absent, so no cluster would have a weakness")
        if not math.isfinite(self.prevalence) or abs(self.prevalence) > 10.0:
            raise BadInput(f"prevalence: {self.prevalence:g}; allowed is -10 to 10")
        if not 0.0 <= self.noise <= 10.0:
            raise BadInput(f"noise: {self.noise:g}; allowed is 0 to 10")
        if not 0.0 <= self.unlisted <= 1.0:
            raise BadInput(f"unlisted: {self.unlisted:g}; allowed is 0 to 1")
