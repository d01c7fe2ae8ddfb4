"""The monitor: what the platform's main process can tell of the platform, in a thread of its own.

A sample that cannot be measured is left out. Absent means unknown; a made-up 0 would mean "all is well" or "all is
lost", and nobody could tell which.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .checkpoints import newest_checkpoint
from .control import ControlSocket
from .exporter import new_metrics, routes
from .handle import Instance
from .ports import LOOPBACK
from .prober import Prober
from .registry import Registry


@dataclass(frozen=True, slots=True)
class ComponentView:
    """What the control loop knows of one component.

    Attributes:
        desired: how many instances it should have.
        instances: those that are alive, whether or not they have answered yet.
        restarts: instances started beyond the first desired ones; a training job starts all its ranks anew.
    """

    desired: int
    instances: tuple[Instance, ...]
    restarts: int


@dataclass(frozen=True, slots=True)
class View:
    """What the control loop knows of the platform; replaced as a whole, so that any thread may read it.

    Attributes:
        components: by name.
        training_running: whether a job is submitted and has not failed; None before the first one.
    """

    components: Mapping[str, ComponentView] = field(default_factory=dict)
    training_running: bool | None = None

    def instances(self) -> list[Instance]:
        """Returns all instances of all components."""
        return [instance for component in self.components.values() for instance in component.instances]


class Monitor:
    """Probes instances, exports metrics and serves the control socket.

    Args:
        port: of the exporter.
        control: the operations interface, served in the same thread.
        checkpoints: folder of checkpoints.
        registry: the model registry.
    """

    def __init__(self, port: int, control: ControlSocket, checkpoints: Path, registry: Registry) -> None:
        self.view = View()
        self.prober = Prober(lambda: self.view.instances())
        self._port = port
        self._control = control
        self._collector = PlatformCollector(lambda: self.view, self.prober, checkpoints, registry)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.run()), name="monitor", daemon=True)

    def start(self) -> None:
        """Begins to watch, in a thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Tells whether the monitor still watches."""
        return self._thread.is_alive()

    def forget_step(self) -> None:
        """Forgets where the training job was, for it starts from nothing."""
        self.prober.job_step = None

    def ready_instances(self, component: str) -> int:
        """Returns how many instances of a component do their work."""
        return sum(self.prober.is_ready(instance) for instance in self.view.components[component].instances)

    def has_answered(self, instance: Instance) -> bool:
        """Tells whether an instance was ever heard of."""
        return self.prober.health(instance).has_answered

    async def run(self) -> None:
        """Watches until cancelled."""
        metrics = new_metrics()
        metrics.register(self._collector)
        app = web.Application()
        app.add_routes(routes(metrics))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, LOOPBACK, self._port).start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.prober.run())
                tasks.create_task(self._control.serve())
        finally:
            await runner.cleanup()


class PlatformCollector(Collector):
    """Turns what is known into samples, at the moment somebody asks.

    Args:
        view: returns what the control loop knows.
        prober: knows how instances are.
        checkpoints: folder of checkpoints.
        registry: the model registry.
    """

    def __init__(self, view: Callable[[], View], prober: Prober, checkpoints: Path, registry: Registry) -> None:
        self._view = view
        self._prober = prober
        self._checkpoints = checkpoints
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yields every metric that can be measured now."""
        view = self._view()
        yield from self._component_metrics(view.components)
        yield from self._training_metrics(view)
        checkpoint_age_s = _age_s(lambda: newest_checkpoint(self._checkpoints))
        yield from _gauge("checkpoint_age_seconds", "Time since a checkpoint was written.", checkpoint_age_s)
        registry_age_s = _age_s(lambda: self._registry.pointer)
        yield from _gauge("registry_age_seconds", "Time since a model was published.", registry_age_s)
        yield from _gauge("registry_version", "Version to serve.", self._registry.current_version())

    def _component_metrics(self, components: Mapping[str, ComponentView]) -> Iterator[Metric]:
        ready = GaugeMetricFamily("component_ready", "Instances that do their work.", labels=["component"])
        desired = GaugeMetricFamily("component_desired", "Instances there should be.", labels=["component"])
        restarts = CounterMetricFamily("component_restarts", "Instances started again.", labels=["component"])
        for name, component in components.items():
            ready.add_metric([name], sum(self._prober.is_ready(instance) for instance in component.instances))
            desired.add_metric([name], component.desired)
            restarts.add_metric([name], component.restarts)
        yield from (ready, desired, restarts)

    def _training_metrics(self, view: View) -> Iterator[Metric]:
        if view.training_running is None:
            return
        yield from _gauge("train_running", "Whether a job runs that has not failed.", float(view.training_running))
        yield from _gauge("train_step", "Step of the job, as a rank last told it.", self._prober.job_step)


def _gauge(name: str, documentation: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(name, documentation, value=value)


def _age_s(file: Callable[[], Path | None]) -> float | None:
    try:
        path = file()
        return max(0.0, time.time() - path.stat().st_mtime) if path is not None else None
    except OSError:
        return None
