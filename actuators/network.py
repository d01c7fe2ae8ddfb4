"""Faults of the network, on every dependency edge that leads into a target: delay, loss, partition, bandwidth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from .catalogue import kind_of
from .clock import Instant
from .errors import BadInput, InjectionFailed, TargetNotFound
from .fault import Fault, Injection, Target, Undo


class Effect(StrEnum):
    """What can be done to an edge; the verbs of the family's fault kinds."""

    DELAY = "delay"
    LOSS = "loss"
    PARTITION = "partition"
    BANDWIDTH = "bandwidth"


@dataclass(frozen=True, slots=True)
class Impairment:
    """One effect on one edge. Absolute: it says how the edge is, never how much worse it gets.

    Attributes:
        effect: what is done.
        amount: how much of it, in the unit of the fault kind: ms of delay, share of messages lost, bytes/s that pass.
            A partition is always whole.

    Raises:
        BadInput: the amount is out of range.
    """

    effect: Effect
    amount: float

    def __post_init__(self) -> None:
        if not (self.amount > 0.0 and math.isfinite(self.amount)):
            raise BadInput(f"amount of {self.effect} is {self.amount}; allowed are finite values above 0")

    @classmethod
    def of(cls, fault: Fault) -> Impairment:
        """Returns what a fault of this family does to every edge into its target."""
        kind = kind_of(fault.kind)
        return cls(Effect(kind.verb), kind.amount(fault.intensity))


class Network(Protocol):
    """What a platform must offer for network faults. Verbs are absolute and idempotent."""

    def routes_into(self, target: Target) -> Sequence[str]:
        """Returns the names of the dependency edges that lead into the target.

        Raises:
            TargetNotFound: no such target.
        """
        ...

    def impair(self, route: str, impairment: Impairment, injection_id: str, until: Instant) -> None:
        """Impairs a route; the carrier lets go by itself at `until`.

        Raises:
            InjectionFailed: the carrier did not accept it.
        """
        ...

    def clear(self, injection_id: str) -> None:
        """Takes out everything that carries this injection's id.

        Raises:
            RevertFailed: the carrier could not be asked.
        """
        ...

    def affected(self, injection_id: str) -> dict[str, int]:
        """Returns, per route that carries this injection, how often it was felt so far.

        That is: chunks of bytes delayed, kept from passing or made to wait for their turn, and connections reset.

        Raises:
            RevertFailed: the carrier could not be asked.
        """
        ...


class NetworkActuator:
    """Plans impairments of edges and asks a driver's `Network` to carry them out."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Names the edges; everything on them will carry the injection's id."""
        routes = list(self._network.routes_into(fault.target))
        if not routes:
            raise TargetNotFound(f"no dependency edge leads into {fault.target}; {fault.kind} has nothing to act on")
        return {"routes": routes}

    def inject(self, injection: Injection) -> None:
        """Impairs every edge by the amount that the intensity stands for."""
        impairment = Impairment.of(injection.fault)
        routes = injection.undo["routes"]
        for route in routes:
            self._network.impair(route, impairment, injection.id, injection.expires_at)
        missing = set(routes) - set(self._network.affected(injection.id))
        if missing:
            raise InjectionFailed(f"{', '.join(sorted(missing))} did not take up {injection.fault}")

    def revert(self, injection: Injection) -> None:
        """Clears everything that carries the injection's id."""
        self._network.clear(injection.id)

    def took(self, injection: Injection) -> bool:
        """Tells whether traffic in fact felt it, on any edge: on an idle edge nobody does."""
        return any(self._network.affected(injection.id).values())

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether no edge carries the injection's id."""
        return not self._network.affected(injection.id)
