"""Neighbours on the cards of a simulated cluster; what comes of them is up to the cluster's laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..clock import Instant
from ..errors import TargetNotFound
from ..fault import Target
from .world import World


class SimulatedGpus:
    """The cards of a simulated cluster; see `actuators.gpu.Gpus`.

    Args:
        world: the cluster's document; here: `cards`, each with those who work on it and its `neighbours`.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def cards_of(self, target: Target) -> Sequence[str]:
        """Returns the cards that the target works on."""
        with self._world.change() as world:
            cards = [name for name, card in world["cards"].items() if target.name in card["used_by"]]
        if not cards:
            raise TargetNotFound(f"there is no {target} on this cluster that works on a GPU")
        return cards

    def fill(self, card: str, share: float, injection_id: str, until: Instant) -> None:
        """Writes into the world who fills the card's memory, how far, and how long."""
        self._add(card, injection_id, {"takes": "memory", "share": share, "until": asdict(until)})

    def occupy(self, card: str, share: float, injection_id: str, until: Instant) -> None:
        """Writes into the world who takes the card's time, how much of it, and how long."""
        self._add(card, injection_id, {"takes": "time", "share": share, "until": asdict(until)})

    def vacate(self, injection_id: str) -> None:
        """Takes the injection's neighbours out of the world."""
        with self._world.change() as world:
            for card in world["cards"].values():
                card["neighbours"].pop(injection_id, None)

    def is_filled(self, card: str, share: float, injection_id: str) -> bool:
        """Tells whether this injection fills the card so far."""
        return self._is_there(card, injection_id, "memory", share)

    def is_occupied(self, card: str, share: float, injection_id: str) -> bool:
        """Tells whether this injection takes so much of the card's time."""
        return self._is_there(card, injection_id, "time", share)

    def has_neighbours(self, injection_id: str) -> bool:
        """Tells whether the injection has a neighbour on any card."""
        with self._world.change() as world:
            return any(injection_id in card["neighbours"] for card in world["cards"].values())

    def _add(self, card: str, injection_id: str, neighbour: dict[str, Any]) -> None:
        with self._world.change() as world:
            world["cards"][card]["neighbours"][injection_id] = neighbour

    def _is_there(self, card: str, injection_id: str, takes: str, share: float) -> bool:
        with self._world.change() as world:
            neighbour = world["cards"][card]["neighbours"].get(injection_id, {})
        return bool(neighbour.get("takes") == takes and neighbour["share"] == share)
