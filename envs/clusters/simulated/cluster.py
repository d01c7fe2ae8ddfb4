"""The sensing half of a simulated cluster: a period passes, and what the laws made of it is measured.

Six components (gateway, model server, feature store, trainer, and a data plane of two) with hidden weaknesses. The
supervisor's driver writes into the world what was done; the laws decide what comes of it; the experimenter sees noisy
metrics only, and the same scorer judges them. Time moves by one sampling period per snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from actuators.clock import Instant, ManualClock
from safety.vitals import Identity

from ...telemetry.alerts import Alert
from ...telemetry.snapshot import Snapshot
from ..base import Topology
from . import cards, data
from .data import FEATURE_PIPELINE, STREAM, DataPlane
from .document import Document, World, alive, cpu_left
from .hidden import Hidden, topology_of
from .instances import RESTART_S, Instances
from .serving import Serving
from .training import Training

_DOWN_FOR_S = 2.0


class SimulatedCluster:
    """The sensing half of a simulated cluster, and its laws.

    Args:
        world: the handle, made by `empty_world`.
        hidden: what is weak.
        random: draws the noise.
        clock: moved on by every snapshot.
        identity: what the cluster says it is.
    """

    period_s = 0.5
    series: Sequence[str] = (
        "client/error_share",
        "client/shed_share",
        "client/answered_share",
        "client/p50_ms",
        "client/p90_ms",
        "client/accuracy",
        "trainer/steps_per_s",
        "trainer/step",
        "trainer/checkpoint_age_s",
        *(f"{name}/{metric}" for name in RESTART_S for metric in ("ready", "up", "restarts")),
        "gateway/request_ms",
        "gateway/in_flight",
        "feature-store/request_ms",
        "model-server/fallback_share",
        "model-server/feature_attempts",
        *data.SERIES,
    )

    def __init__(
        self, world: World, hidden: Hidden, random: np.random.Generator, clock: ManualClock, identity: Identity
    ) -> None:
        self.identity = identity
        self.clock = clock
        self.series = (*type(self).series, *cards.SERIES) if hidden.has_gpu else type(self).series
        self._world = world
        self._weak = hidden.weak
        self._components = tuple(hidden.replicas)
        self._topology = topology_of(hidden)
        self._instances = Instances(hidden.replicas, hidden.weak)
        self._training = Training(hidden.weak, self._instances, random, self.period_s)
        self._serving = Serving(hidden.weak, random, self.period_s)
        self._data = DataPlane(hidden.weak, random.spawn(1)[0], self.period_s)
        self._down_s: dict[str, float] = {}

    def topology(self) -> Topology:
        """Returns the components; they never change."""
        return self._topology

    def next_snapshot(self, timeout_s: float) -> Snapshot | None:
        """Moves time on by one period and returns what is measured then."""
        self.clock.advance(self.period_s)
        now = self.clock.now()
        now_s = self.clock.boottime_s
        with self._world.change() as world:
            self._repair(world, now_s)
            self._instances.bring_back_nodes(world, now_s)
            self._instances.refuse_memory(world)
            self._instances.replace_the_dead(world, now_s, training_failed=self._training.failed)
            self._instances.let_go_of_expired(world, now, now_s)
            _let_go_of_expired(world, now)
            self._data.move(world, _working(world), data.edges_of(world))
            self._instances.scale(world, self._serving.in_flight, now_s)
            values = self._serving.move(
                world, lambda component: self._instances.answering(world, component, now_s), self._data
            )
            self._training.move(world, now_s)
            values |= self._instances.values(world) | self._training.values(now_s)
            values |= cards.measured(world["cards"], self._training.steps_per_s)
        return Snapshot(now_s, values, self._alerts(values, now_s))

    def _repair(self, world: Document, now_s: float) -> None:
        for component, _ in world["repairs"]:
            if component == "trainer":
                self._training.failed = False
                self._training.restart(world, now_s)
            else:
                self._instances.kill(world, component, now_s)
        world["repairs"] = []

    def _alerts(self, values: Mapping[str, float], now_s: float) -> frozenset[Alert]:
        """Returns the alerts that fire: a component whose exporters are all away is noticed, if anybody expects it."""
        told = [Alert(name, about) for name, about, teller in self._data.alerts() if values[f"{teller}/up"] > 0.0]
        down = [name for name in self._components if values[f"{name}/up"] == 0.0]
        self._down_s = {name: self._down_s.get(name, now_s) for name in down}
        if "absent_alert" in self._weak:
            return frozenset(told)
        overdue = [name for name, since_s in self._down_s.items() if now_s - since_s >= _DOWN_FOR_S]
        return frozenset([*told, *(Alert("ComponentDown", name) for name in overdue)])


def _working(world: Document) -> dict[str, float]:
    """Returns which share of its work each component of the data plane gets done."""
    shares = {}
    for name in (STREAM, FEATURE_PIPELINE, "feature-store"):
        instances = world["instances"][name]
        shares[name] = sum(cpu_left(world, instance) for instance in alive(world, name)) / len(instances)
    return shares


def _let_go_of_expired(world: Document, now: Instant) -> None:
    """Takes out of a world what has reached its deadline, wherever it is not about instances."""
    for injection, routes in list(world["impairments"].items()):
        live = {route: found for route, found in routes.items() if not Instant(**found["until"]).reached(now)}
        world["impairments"][injection] = live
    data.let_go_of_expired(world, now)
    cards.end_expired(world["cards"], now)
