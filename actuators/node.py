"""The fault of a lost node: whatever runs on it dies at once, and comes back only with it.

A node is found through a component that lives on it, and nobody else may: what is lost with it is exactly what the
guards were asked about. It stands in the undo by identity, so that the node that comes back is never mistaken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from .fault import Fault, Injection, Target, Undo


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a platform.

    Attributes:
        id: its name on the platform.
        identity: what tells it from a later namesake, JSON.
    """

    id: str
    identity: Mapping[str, Any]


class Nodes(Protocol):
    """What a platform must offer for faults of nodes. Every verb is idempotent; a vanished node is no error."""

    def node_of(self, target: Target) -> Node:
        """Returns the node that the target lives on.

        Raises:
            TargetNotFound: no such target, no node that is up, or one that others live on as well.
        """
        ...

    def take_down(self, node: Node) -> None:
        """Ends the node with every process on it, without grace."""
        ...

    def let_go(self, node: Node) -> None:
        """Lets run again what a take-down that never came to its end has left frozen."""
        ...

    def is_up(self, node: Node) -> bool:
        """Tells whether this very node is still there, frozen or not."""
        ...

    def is_held(self, node: Node) -> bool:
        """Tells whether the node is there and frozen."""
        ...


class NodeActuator:
    """Plans the loss of a node, and asks a driver's `Nodes` to carry it out."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Names the node."""
        return {"node": asdict(self._nodes.node_of(fault.target))}

    def inject(self, injection: Injection) -> None:
        """Ends the node with everything on it."""
        self._nodes.take_down(_node(injection))

    def revert(self, injection: Injection) -> None:
        """Lets go of a node that was never ended; one that was stays lost, and the platform brings up another."""
        self._nodes.let_go(_node(injection))

    def took(self, injection: Injection) -> bool:
        """Tells whether the node is gone."""
        return not self._nodes.is_up(_node(injection))

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether the node is not held; its loss leaves nothing that could stay."""
        return not self._nodes.is_held(_node(injection))


def _node(injection: Injection) -> Node:
    return Node(**injection.undo["node"])
