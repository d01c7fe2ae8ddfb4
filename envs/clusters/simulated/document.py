"""What a simulated cluster consists of, as a document: the acting half writes into it, the laws read it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

Document: TypeAlias = dict[str, Any]

REQUEST_ROUTES: Final = ("gateway->model-server", "model-server->feature-store")


class World(Protocol):
    """The handle that this half shares with the acting half: a JSON document with transactions."""

    def change(self) -> AbstractContextManager[Document]:
        """Yields the document for reading and changing."""
        ...


def cpu_left(world: Document, instance: str) -> float:
    """Returns which share of its CPU time an instance still has; none while it is held altogether."""
    return 1.0 - float(world["paused"].get(instance, {}).get("share", 0.0))


def alive(world: Document, component: str) -> list[str]:
    """Returns the instances of a component that were not killed."""
    return [name for name in world["instances"][component] if name not in world["killed"]]
