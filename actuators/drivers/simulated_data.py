"""How faults of data are carried out on a simulated cluster; see `actuators.drivers.simulated`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..clock import Instant
from ..data import Disturbance
from ..errors import InjectionFailed, TargetNotFound
from ..fault import Target
from .world import World


class SimulatedDatasets:
    """The feeds of a simulated cluster.

    Args:
        world: the cluster's document: `instances`, `feeds`, `disturbances`.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def feeds_into(self, target: Target) -> Sequence[str]:
        """Returns the feeds into the target."""
        with self._world.change() as world:
            if target.name not in world["instances"]:
                known = ", ".join(world["instances"])
                raise TargetNotFound(f"there is no {target} on this cluster; known are {known}")
            return [feed for feed in world["feeds"] if feed.endswith(f"->{target.name}")]

    def disturb(self, feed: str, disturbance: Disturbance, injection_id: str, until: Instant) -> None:
        """Writes the disturbance into the world."""
        with self._world.change() as world:
            if feed not in world["feeds"]:
                raise InjectionFailed(f"unknown feed {feed!r}; known are {', '.join(world['feeds'])}")
            disturbed = world["disturbances"].setdefault(injection_id, {})
            disturbed.setdefault(feed, {"affected": 0}).update(**asdict(disturbance), until=asdict(until))

    def settle(self, injection_id: str) -> None:
        """Takes the injection's disturbances out of the world."""
        with self._world.change() as world:
            world["disturbances"].pop(injection_id, None)

    def disturbed(self, injection_id: str) -> dict[str, int]:
        """Returns how many rows of each of the injection's feeds were changed or held."""
        with self._world.change() as world:
            return {feed: found["affected"] for feed, found in world["disturbances"].get(injection_id, {}).items()}
