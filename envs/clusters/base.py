"""What every cluster can tell of itself, whichever backend it runs on. No verb here hurts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from actuators.clock import Clock
from safety.vitals import Identity

from ..telemetry.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a cluster.

    Attributes:
        name: its name.
        role: what it does; weaknesses of components with one role count as the same.
        replicas: how many instances it should have.
        depends_on: components that it calls or reads.
        labels: what its owners wrote on it.
        capabilities: which capabilities of a driver have something to act on here (`Pods`, `Network`, `Checkpoints`,
            `Registry`, `Nodes`, `Memory`, `Gpus`).
    """

    name: str
    role: str
    replicas: int
    depends_on: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Topology:
    """The components of a cluster and who needs whom.

    Attributes:
        components: in a stable order.
        observers: what measures from outside, such as a client, and the components it depends on.
    """

    components: Sequence[Component]
    observers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Topology:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError: something is missing, or nothing known.
        """
        components = [
            Component(
                **component
                | {
                    "depends_on": tuple(component["depends_on"]),
                    "capabilities": frozenset(component["capabilities"]),
                }
            )
            for component in data["components"]
        ]
        return cls(components, {name: tuple(needs) for name, needs in data["observers"].items()})

    def to_json(self) -> dict[str, Any]:
        """Returns the topology as JSON."""
        components = [
            asdict(c)
            | {"labels": dict(c.labels), "depends_on": list(c.depends_on), "capabilities": sorted(c.capabilities)}
            for c in self.components
        ]
        return {"components": components, "observers": {name: list(needs) for name, needs in self.observers.items()}}

    def component(self, name: str) -> Component:
        """Returns a component by name.

        Raises:
            KeyError: there is none of that name.
        """
        return {component.name: component for component in self.components}[name]

    def dependents_of(self, name: str) -> frozenset[str]:
        """Returns everything that needs a component, directly or through others, observers included."""
        needs = {component.name: component.depends_on for component in self.components} | dict(self.observers)
        found: set[str] = set()
        frontier = {name}
        while frontier:
            frontier = {who for who, whom in needs.items() if frontier & set(whom)} - found
            found |= frontier
        return frozenset(found)


class Cluster(Protocol):
    """The sensing half of a backend."""

    @property
    def identity(self) -> Identity:
        """Which cluster this is, asked of the cluster itself."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock that this cluster's snapshots and deadlines are read on."""
        ...

    @property
    def series(self) -> Sequence[str]:
        """Every series that snapshots may hold; constant over the life of the cluster."""
        ...

    @property
    def period_s(self) -> float:
        """Time between two snapshots, seconds."""
        ...

    def topology(self) -> Topology:
        """Returns the components as they are now."""
        ...

    def next_snapshot(self, timeout_s: float) -> Snapshot | None:
        """Waits for a snapshot newer than the last one returned; None when none came within `timeout_s`."""
        ...
