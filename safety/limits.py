"""The numbers that nothing learned may move: what is allowed before an experiment, and what stops one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from actuators.errors import BadInput

OPT_IN_LABEL = "backburn.dev/enabled"


@dataclass(frozen=True, slots=True)
class ServiceLimit:
    """A service level that stops an experiment when it is left for too long.

    Attributes:
        at_most: highest allowed value; None for no upper bound.
        at_least: lowest allowed value; None for no lower bound.
        for_s: how long it may be broken before the fault is reverted, seconds.

    Raises:
        BadInput: both bounds or none are given, or a number is not finite: such a bound would never be broken.
    """

    at_most: float | None = None
    at_least: float | None = None
    for_s: float = 5.0

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise BadInput("a service limit needs exactly one of at_most and at_least")
        for name in ("at_most", "at_least"):
            bound = getattr(self, name)
            if bound is not None and not math.isfinite(bound):
                raise BadInput(f"{name} of a service limit is {bound}; allowed are finite values")
        if not 0.0 <= self.for_s < math.inf:
            raise BadInput(f"for_s of a service limit is {self.for_s}; allowed are finite values from 0")

    def broken_by(self, value: float) -> bool:
        """Tells whether a measured value lies outside of the limit."""
        return (self.at_most is not None and value > self.at_most) or (
            self.at_least is not None and value < self.at_least
        )

    def __str__(self) -> str:
        return f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Everything that guards and the supervisor compare against. The defaults allow nothing.

    Attributes:
        environment: the environment that the cluster must name.
        cluster_id: the only cluster that may be touched.
        deny_patterns: parts of a cluster id, environment or target name that forbid it.
        max_open: experiments that may be live at once.
        max_duration_s: longest fault, seconds.
        max_instances: most instances of a component that one fault may reach.
        max_share: largest share of a component that one fault may reach, where that is more than `max_instances`.
        whole_component: components that may be hit as a whole, by name.
        irreversible: fault kinds that cannot be undone and are allowed all the same, by name.
        stale_after_s: oldest measurement that still counts as knowledge, seconds.
        service_levels: what stops a running experiment.

    Raises:
        BadInput: a number is out of range, or not finite: nothing is ever beyond such a limit.
    """

    environment: str = ""
    cluster_id: str = ""
    deny_patterns: tuple[str, ...] = ("prod",)
    max_open: int = 1
    max_duration_s: float = 60.0
    max_instances: int = 0
    max_share: float = 0.0
    whole_component: tuple[str, ...] = ()
    irreversible: tuple[str, ...] = ()
    stale_after_s: float = 3.0
    service_levels: Mapping[str, ServiceLimit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_duration_s", "stale_after_s"):
            # Not `<= 0`: nothing is smaller than NaN, and nothing is larger.
            if not 0.0 < getattr(self, name) < math.inf:
                raise BadInput(f"limits.{name} is {getattr(self, name)}; allowed are finite values above 0")
        if not 0.0 <= self.max_share <= 1.0:
            raise BadInput(f"limits.max_share is {self.max_share}; allowed are values in [0, 1]")
        for name, least in (("max_open", 1), ("max_instances", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise BadInput(f"limits.{name} is {getattr(self, name)}; allowed are whole numbers from {least}")
