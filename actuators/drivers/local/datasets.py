"""Disturbance of real rows, in the fault proxy on every feed."""

from __future__ import annotations

from collections.abc import Sequence

from ...clock import Instant
from ...data import Disturbance
from ...fault import Target
from .fault_proxy import FaultProxy
from .platform import Platform


class LocalDatasets:
    """The feeds of the embedded cluster; see `actuators.data.Datasets`.

    Args:
        platform: where the fault proxy is found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._proxy = FaultProxy(platform)

    def feeds_into(self, target: Target) -> Sequence[str]:
        """Returns the fault proxy's routes on which the target's rows come in."""
        feeds: list[str] = self._platform.component(target).get("feeds", [])
        return feeds

    def disturb(self, feed: str, disturbance: Disturbance, injection_id: str, until: Instant) -> None:
        """Tells the fault proxy what to do to the rows on a route."""
        self._proxy.impair(feed, disturbance.effect, disturbance.amount, injection_id, until)

    def settle(self, injection_id: str) -> None:
        """Tells the fault proxy to forget the injection."""
        self._proxy.clear(injection_id)

    def disturbed(self, injection_id: str) -> dict[str, int]:
        """Asks the fault proxy how many rows it has changed or held, per route."""
        return self._proxy.affected(injection_id)
