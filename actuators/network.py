"""Faults of the network: delay, towards a target, on every dependency edge that leads into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .catalogue import kind_of
from .clock import Instant
from .errors import InjectionFailed, TargetNotFound
from .fault import Fault, Injection, Target, Undo


class Network(Protocol):
    """What a platform must offer for network faults. Verbs are absolute and idempotent."""

    def routes_into(self, target: Target) -> Sequence[str]:
        """Returns the names of the dependency edges that lead into the target.

        Raises:
            TargetNotFound: no such target.
        """
        ...

    def delay(self, route: str, delay_ms: float, injection_id: str, until: Instant) -> None:
        """Holds bytes on a route back by `delay_ms`; the carrier lets go by itself at `until`.

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

    def held_back(self, injection_id: str) -> dict[str, int]:
        """Returns, per route that carries this injection, how many chunks of bytes it has held back so far.

        Raises:
            RevertFailed: the carrier could not be asked.
        """
        ...


class NetworkActuator:
    """Plans delays and asks a driver's `Network` to carry them out."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Names the edges; everything on them will carry the injection's id."""
        routes = list(self._network.routes_into(fault.target))
        if not routes:
            raise TargetNotFound(f"no dependency edge leads into {fault.target}; {fault.kind} has nothing to act on")
        return {"routes": routes}

    def inject(self, injection: Injection) -> None:
        """Delays every edge by the amount that the intensity stands for."""
        delay_ms = kind_of(injection.fault.kind).amount(injection.fault.intensity)
        routes = injection.undo["routes"]
        for route in routes:
            self._network.delay(route, delay_ms, injection.id, injection.expires_at)
        missing = set(routes) - set(self._network.held_back(injection.id))
        if missing:
            raise InjectionFailed(f"{', '.join(sorted(missing))} did not take up {injection.fault}")

    def revert(self, injection: Injection) -> None:
        """Clears everything that carries the injection's id."""
        self._network.clear(injection.id)

    def took(self, injection: Injection) -> bool:
        """Tells whether bytes were in fact held back, on any edge: an idle edge delays nobody."""
        return any(self._network.held_back(injection.id).values())

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether no edge carries the injection's id."""
        return not self._network.held_back(injection.id)
