"""Faults of GPUs: a neighbour on the card that fills its memory, or that takes its time.

The neighbour is a process of its own and hurts as real neighbours do: through the card alone. It ends by itself at the
deadline, and whatever it held is free again with its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .catalogue import kind_of
from .clock import Instant
from .fault import Fault, Injection, Target, Undo


class Gpus(Protocol):
    """What a platform must offer for faults of GPUs. Verbs are absolute and idempotent."""

    def cards_of(self, target: Target) -> Sequence[str]:
        """Returns the cards that the target's instances work on, in a stable order.

        Raises:
            TargetNotFound: no such target, or nobody sees a card that it works on.
        """
        ...

    def fill(self, card: str, share: float, injection_id: str, until: Instant) -> None:
        """Starts a neighbour that keeps this share of the card's memory in use, and ends by itself at `until`.

        Raises:
            InjectionFailed: it did not start.
        """
        ...

    def occupy(self, card: str, share: float, injection_id: str, until: Instant) -> None:
        """Starts neighbours that take this share of the card's time, and end by themselves at `until`.

        Raises:
            InjectionFailed: they did not start.
        """
        ...

    def vacate(self, injection_id: str) -> None:
        """Ends all neighbours of this injection; they have let go of their cards when it returns.

        Raises:
            RevertFailed: one of them does not end.
        """
        ...

    def is_filled(self, card: str, share: float, injection_id: str) -> bool:
        """Tells whether a neighbour of this injection runs, and this share of the card's memory is in use."""
        ...

    def is_occupied(self, card: str, share: float, injection_id: str) -> bool:
        """Tells whether neighbours of this injection run on the card, and it is as busy as they should keep it."""
        ...

    def has_neighbours(self, injection_id: str) -> bool:
        """Tells whether any neighbour of this injection is left, on any card."""
        ...


class GpuActuator:
    """Plans neighbours on cards, and asks a driver's `Gpus` to bring them there."""

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Names the cards; every neighbour on them will carry the injection's id."""
        return {"cards": list(self._gpus.cards_of(fault.target))}

    def inject(self, injection: Injection) -> None:
        """Brings the neighbours to every card."""
        act = self._gpus.fill if _fills(injection) else self._gpus.occupy
        for card in injection.undo["cards"]:
            act(card, _share(injection), injection.id, injection.expires_at)

    def revert(self, injection: Injection) -> None:
        """Ends the neighbours."""
        self._gpus.vacate(injection.id)

    def took(self, injection: Injection) -> bool:
        """Tells whether every card is seen to be as full, or as busy, as it should be."""
        seen = self._gpus.is_filled if _fills(injection) else self._gpus.is_occupied
        return all(seen(card, _share(injection), injection.id) for card in injection.undo["cards"])

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether no neighbour is left."""
        return not self._gpus.has_neighbours(injection.id)


def _fills(injection: Injection) -> bool:
    return injection.fault.kind == "gpu.memory_pressure"


def _share(injection: Injection) -> float:
    return kind_of(injection.fault.kind).amount(injection.fault.intensity)
