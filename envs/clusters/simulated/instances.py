"""The instances of a simulated cluster: who dies, hangs, is started again, or is one more where much is to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from actuators.clock import Instant

from .data import FEATURE_PIPELINE, STREAM
from .document import Document, alive, cpu_left

RESTART_S: Final[Mapping[str, float]] = {
    "gateway": 3.5,
    "model-server": 4.0,
    "feature-store": 3.5,
    "trainer": 15.0,
    STREAM: 3.5,
    FEATURE_PIPELINE: 3.5,
}
"""How long it takes until a dead instance is replaced, seconds."""

USED_BYTES: Final = 100 * 2**20

_GROWS_BY_BYTES = {"model-server": 2**20, "trainer": 2**20}
"""What a component needs anew as it works; all others get by with what they have had once."""

_NODE_RESTART_S = 6.0
_REROUTE_S = 3.0
_HUNG_SHARE = 0.05
_TARGET_IN_FLIGHT = 3.0  # per model server; more of them are started beyond that
_SCALE_UP_S, _SCALE_DOWN_S = 5.0, 12.0


class Instances:
    """What becomes of instances.

    Args:
        replicas: how many are ordered of each component.
        weak: which mechanisms are absent.
    """

    def __init__(self, replicas: Mapping[str, int], weak: frozenset[str]) -> None:
        self._ordered = replicas
        self._weak = weak
        self._died_s: dict[str, float] = {}
        self._lost_s: dict[str, float] = {}
        self._paused_s: dict[str, float] = {}
        self._restarts = dict.fromkeys(replicas, 0)
        self._scaling_since_s: float | None = None
        self._born = 100

    def kill(self, world: Document, component: str, now_s: float) -> None:
        """Ends all instances of a component, to be started anew."""
        for instance in world["instances"][component]:
            self._died_s.setdefault(instance, now_s)
            world["killed"][instance] = True

    def bring_back_nodes(self, world: Document, now_s: float) -> None:
        """Starts lost nodes again after a while; until then nothing on them is."""
        for name, node in world["nodes"].items():
            if node["up"]:
                continue
            lost_s = self._lost_s.setdefault(name, now_s)
            for component in node["holds"]:
                # Nobody begins to replace them while there is no place for it.
                self._died_s |= dict.fromkeys(world["instances"][component], now_s)
            if now_s - lost_s >= _NODE_RESTART_S:
                node.update(up=True, born=node["born"] + 1)
                del self._lost_s[name]

    def refuse_memory(self, world: Document) -> None:
        """Ends whoever needs more memory than it may have."""
        for component, instances in world["instances"].items():
            for name in instances:
                limit = world["squeezed"].get(name)
                if limit is not None and limit["limit_bytes"] - world["used_bytes"] < _GROWS_BY_BYTES.get(component, 0):
                    world["killed"][name] = True

    def replace_the_dead(self, world: Document, now_s: float, *, training_failed: bool) -> None:
        """Starts anew whoever has been dead for long enough, where anybody does so."""
        for component, instances in world["instances"].items():
            for index, instance in enumerate(instances):
                if instance not in world["killed"]:
                    continue
                died_s = self._died_s.setdefault(instance, now_s)
                stays = training_failed if component == "trainer" else self._cannot_start(world, component)
                if now_s - died_s >= RESTART_S[component] and not stays:
                    self._born += 1
                    instances[index] = f"{component}-{self._born}"
                    self._restarts[component] += 1
                    self._forget(world, instance)

    def scale(self, world: Document, in_flight: float, now_s: float) -> None:
        """Starts one more model server than ordered when requests pile up, and ends it when they no longer do."""
        servers, ordered = world["instances"]["model-server"], self._ordered["model-server"]
        more = len(servers) > ordered
        # What starved ones have taken on stays under way, and whoever counts it wants to keep the one more.
        starved = any(cpu_left(world, name) < 1.0 for name in servers)
        piled_up = in_flight > _TARGET_IN_FLIGHT * ordered
        due = not piled_up and not starved if more else piled_up
        if "autoscale" in self._weak or not due:
            self._scaling_since_s = None
            return
        if self._scaling_since_s is None:
            self._scaling_since_s = now_s
        if now_s - self._scaling_since_s < (_SCALE_DOWN_S if more else _SCALE_UP_S):
            return
        self._scaling_since_s = None
        if more:
            self._forget(world, servers.pop())
        else:
            self._born += 1
            servers.append(f"model-server-{self._born}")

    def let_go_of_expired(self, world: Document, now: Instant, now_s: float) -> None:
        """Ends holds on instances that have reached their deadline, and sees who hangs."""
        for marks in (world["paused"], world["squeezed"]):
            for instance, hold in list(marks.items()):
                if Instant(**hold["until"]).reached(now):
                    del marks[instance]
        hung = [name for name in world["paused"] if not cpu_left(world, name)]
        self._paused_s = {name: self._paused_s.get(name, now_s) for name in hung}

    def answering(self, world: Document, component: str, now_s: float) -> float:
        """Returns the share of requests that reach an instance which answers."""
        living = alive(world, component)
        awake = [name for name in living if cpu_left(world, name) > 0.0]
        if not awake:
            return 0.0
        # A hung instance keeps getting some requests until the router has noticed; a dead one is out at once.
        unnoticed = [name for name in living if now_s - self._paused_s.get(name, -np.inf) < _REROUTE_S]
        return len(awake) / (len(awake) + _HUNG_SHARE * len(unnoticed))

    def values(self, world: Document) -> dict[str, float]:
        """Returns what the platform tells of its instances."""
        values = {}
        for name in world["instances"]:
            awake = [instance for instance in alive(world, name) if cpu_left(world, instance) > 0.0]
            values[f"{name}/ready"] = values[f"{name}/up"] = float(len(awake))
            values[f"{name}/restarts"] = float(self._restarts[name])
        return values

    def _cannot_start(self, world: Document, component: str) -> bool:
        # Who must answer once before it counts as started does not start without a model.
        return component == "model-server" and world["registry"]["current"] is None and "health" not in self._weak

    def _forget(self, world: Document, instance: str) -> None:
        for marks in (world["killed"], world["paused"], world["squeezed"], self._died_s):
            marks.pop(instance, None)
