"""Impairment of real bytes, in the fault proxy on every dependency edge."""

from __future__ import annotations

from collections.abc import Sequence

from ...clock import Instant
from ...fault import Target
from ...network import Impairment
from .fault_proxy import FaultProxy
from .platform import Platform


class LocalNetwork:
    """The dependency edges of the embedded cluster; see `actuators.network.Network`.

    Args:
        platform: where the fault proxy is found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._proxy = FaultProxy(platform)

    def routes_into(self, target: Target) -> Sequence[str]:
        """Returns the fault proxy's routes that lead to the target."""
        routes: list[str] = self._platform.component(target)["routes_in"]
        return routes

    def impair(self, route: str, impairment: Impairment, injection_id: str, until: Instant) -> None:
        """Tells the fault proxy what to do to a route."""
        self._proxy.impair(route, impairment.effect, impairment.amount, injection_id, until)

    def clear(self, injection_id: str) -> None:
        """Tells the fault proxy to forget the injection."""
        self._proxy.clear(injection_id)

    def affected(self, injection_id: str) -> dict[str, int]:
        """Asks the fault proxy how often the injection was felt, per route."""
        return self._proxy.affected(injection_id)
