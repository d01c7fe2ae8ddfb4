"""The monitor: what the platform's main process can tell of the platform, and the alerts it raises, in its own thread.

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

import aiohttp
from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from .alerts import EVALUATED_EVERY_S, AlertRules, Answers, Census, Facts
from .cards import card_metrics
from .checkpoints import newest_checkpoint
from .control import ControlSocket
from .exporter import new_metrics, routes
from .handle import Instance
from .ports import LOOPBACK
from .prober import Prober
from .registry import Registry

_ANSWERS_METRIC = "gateway_requests_total"
_ASKED_WITHIN_S = 0.3
_WATCHDOG = "Watchdog"


@dataclass(frozen=True, slots=True)
class ComponentView:
    """What the control loop knows of one component.

    Attributes:
        desired: how many instances it should have.
        instances: those that are alive, whether or not they have answered yet.
        restarts: instances started beyond those that there were to be; a training job starts all its ranks anew.
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
    """Probes instances, evaluates alert rules, exports metrics and serves the control socket.

    Args:
        port: of the exporter.
        control: the operations interface, served in the same thread.
        checkpoints: folder of checkpoints.
        registry: the model registry.
        rules: of the alerts.
        front: the component that answers the clients' requests.
    """

    def __init__(
        self, port: int, control: ControlSocket, checkpoints: Path, registry: Registry, rules: AlertRules, front: str
    ) -> None:
        self.view = View()
        self.prober = Prober(lambda: self.view.instances())
        self._port = port
        self._control = control
        self._rules = rules
        self._front = front
        self._collector = PlatformCollector(lambda: self.view, self.prober, checkpoints, registry, rules)
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
                tasks.create_task(self._evaluate_rules())
        finally:
            await runner.cleanup()

    async def _evaluate_rules(self) -> None:
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASKED_WITHIN_S)) as session:
            due = loop.time()
            while True:
                view = self.view
                answers = await self._answers(session, view)
                self._rules.evaluate(self._facts(view, answers), time.monotonic())
                due = max(due + EVALUATED_EVERY_S, loop.time())
                await asyncio.sleep(due - loop.time())

    def _facts(self, view: View, answers: Mapping[str, Answers]) -> Facts:
        components = {
            name: Census(
                desired=component.desired,
                up=sum(self.prober.health(instance).answering for instance in component.instances),
                ready=sum(self.prober.is_ready(instance) for instance in component.instances),
                restarts=component.restarts,
            )
            for name, component in view.components.items()
        }
        return Facts(components, self.prober.job_step, answers)

    async def _answers(self, session: aiohttp.ClientSession, view: View) -> dict[str, Answers]:
        instances = view.components[self._front].instances if self._front in view.components else ()
        asked = await asyncio.gather(*(_ask(session, instance) for instance in instances))
        told = [answers for answers in asked if answers is not None]
        if not told:
            return {}
        return {self._front: Answers(sum(one.total for one in told), sum(one.failed for one in told))}


class PlatformCollector(Collector):
    """Turns what is known into samples, at the moment somebody asks.

    Args:
        view: returns what the control loop knows.
        prober: knows how instances are.
        checkpoints: folder of checkpoints.
        registry: the model registry.
        rules: of the alerts.
    """

    def __init__(
        self,
        view: Callable[[], View],
        prober: Prober,
        checkpoints: Path,
        registry: Registry,
        rules: AlertRules,
    ) -> None:
        self._view = view
        self._prober = prober
        self._checkpoints = checkpoints
        self._registry = registry
        self._rules = rules

    def collect(self) -> Iterator[Metric]:
        """Yields every metric that can be measured now."""
        view = self._view()
        yield from self._component_metrics(view.components)
        yield from self._training_metrics(view)
        yield from self._alert_metrics()
        yield from card_metrics({name: [one.card for one in c.instances] for name, c in view.components.items()})
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

    def _alert_metrics(self) -> Iterator[Metric]:
        expected = GaugeMetricFamily("component_expected", "Whose absence is an alarm.", labels=["component"])
        for name in self._rules.expected:
            expected.add_metric([name], 1.0)
        yield expected
        states = self._rules.states(time.monotonic())
        if states is None:
            return
        firing = GaugeMetricFamily("alert_firing", "Whether an alert fires.", labels=["alert", "component"])
        # Proves to whoever reads this that rules are evaluated at all.
        firing.add_metric([_WATCHDOG, "monitor"], 1.0)
        for (alert, component), fires in states.items():
            firing.add_metric([alert, component], float(fires))
        yield firing


async def _ask(session: aiohttp.ClientSession, instance: Instance) -> Answers | None:
    """Asks one instance how many answers it has given; None when it does not say."""
    try:
        async with session.get(instance.metrics_url, raise_for_status=True) as response:
            text = await response.text()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    codes = [(one.labels.get("code", ""), one.value) for one in samples if one.name == _ANSWERS_METRIC]
    return Answers(sum(value for _, value in codes), sum(value for code, value in codes if code.startswith("5")))


def _gauge(name: str, documentation: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(name, documentation, value=value)


def _age_s(file: Callable[[], Path | None]) -> float | None:
    try:
        path = file()
        return max(0.0, time.time() - path.stat().st_mtime) if path is not None else None
    except OSError:
        return None
