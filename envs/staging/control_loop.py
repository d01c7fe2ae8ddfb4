"""The control loop: starts everything, and keeps it as it should be.

It runs in the platform's main thread, a few times a second: dead plain processes and lost nodes are restarted,
announced processes are listed, repairs are carried out, and the handle says at any time who is there. What probes and
exports runs in the monitor's thread and reads one immutable view.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import handle
from .components import (
    CLIENT,
    FEATURE_STORE,
    GATEWAY,
    MONITOR,
    alert_rules,
    described,
    model_server_settings,
    plain_processes,
    training_settings,
)
from .control import ControlSocket, Repair
from .errors import StagingError, StartFailed
from .exporter import METRICS_PATH
from .files import tail
from .handle import Handle, Observer
from .layout import Layout
from .model import fit_quickly
from .model_server import MODEL_SERVER, PREDICT_PATH
from .monitor import Monitor
from .ports import LOOPBACK, Ports
from .ray_nodes import SERVING, TRAINING, RayCluster
from .registry import Registry
from .roster import Roster
from .settings import StagingSettings
from .training_job import TRAINER, TrainingJob

if TYPE_CHECKING:
    from .scaling import Scaling
    from .serving import Serving

_TICK_S = 0.2
_PREDICTION_TIMEOUT_S = 1.0

_log = logging.getLogger(__name__)


class ControlLoop:
    """One platform.

    Args:
        settings: what it is made of.
        layout: where its files are.
        ports: where it listens.
        handle_path: the file through which others find it.
        first: the handle as the guard wrote it, already with the session of this process.
    """

    def __init__(
        self, settings: StagingSettings, layout: Layout, ports: Ports, handle_path: Path, first: Handle
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._ports = ports
        self._handle_path = handle_path
        self._began_s = time.monotonic()
        components = described(settings)
        observers = {CLIENT: Observer(_metrics_url(ports.client)), MONITOR: Observer(_metrics_url(ports.monitor))}
        self._handle = replace(first, components=components, observers=observers)
        self._registry = Registry(layout.registry)
        self._plain = plain_processes(settings, layout, ports)
        self._cluster = RayCluster(layout, settings.restart_delay_s)
        self._scaling: Scaling | None = None
        self._training = TrainingJob(training_settings(settings, layout))
        self._roster = Roster(
            components,
            {
                GATEWAY: (self._plain[GATEWAY], _metrics_url(ports.gateway)),
                FEATURE_STORE: (self._plain[FEATURE_STORE], _metrics_url(ports.feature_store)),
            },
            layout.announcements,
        )
        self._repairs: queue.SimpleQueue[Repair] = queue.SimpleQueue()
        self._wake = threading.Event()
        control = ControlSocket(layout.control_socket, self._status, self._accept)
        rules = alert_rules(settings)
        self._monitor = Monitor(ports.monitor, control, layout.checkpoints, self._registry, rules, front=GATEWAY)
        self._monitor.view = self._roster.look(None)

    def start(self) -> None:
        """Brings everything up and returns when all of it works.

        Raises:
            StartFailed: a component did not start.
        """
        self._registry.publish(fit_quickly(self._settings.seed).tensors)
        self._monitor.start()
        for name, process in self._plain.items():
            if name != CLIENT:
                process.start()
        serving = self._start_ray()
        pending: dict[str, Callable[[], bool]] = {
            "features": lambda: self._is_complete(FEATURE_STORE),
            "serve": lambda: self._is_complete(MODEL_SERVER) and self._predicts(),
            "training": lambda: self._is_complete(TRAINER),
        }
        while pending:
            self._wake.wait(_TICK_S)
            self._check_starting(serving)
            self._look()
            for part in [part for part, is_up in pending.items() if is_up()]:
                del pending[part]
                self._mark(part)
                if part == "serve":
                    self._plain[CLIENT].start()
        self._mark("ready")
        self._change(state="ready")

    def run(self) -> None:
        """Keeps everything as it should be, for ever.

        Raises:
            StagingError: the platform cannot go on.
        """
        while True:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            now_s = time.monotonic()
            for process in self._plain.values():
                process.tend(now_s)
            self._cluster.tend(now_s)
            self._training.tend()
            while not self._repairs.empty():
                self._repair(self._repairs.get())
            self._look()

    def what_is_missing(self) -> str:
        """Returns which components are not up, with the end of the log of one of them."""
        missing = [name for name in self._handle.components if not self._is_complete(name)]
        logs = [self._layout.log(name) for name in (*missing, "platform")]
        # A component that never came so far as to write a log was stopped by something that the platform may know of.
        log = next((log for log in logs if tail(log)), logs[-1])
        return f"{', '.join(missing) or 'nothing'} not up; end of {log}: {tail(log)}"

    def _start_ray(self) -> Serving:
        """Starts the nodes, and on them training and serving; training first, for it takes longest."""
        self._cluster.start_head(self._ports.ray_agent)
        self._mark("ray")
        self._cluster.add(TRAINING)
        self._cluster.connect()
        self._training.submit()
        self._cluster.add(SERVING)
        self._mark("nodes")
        # Imported here and not above: it takes seconds, in which the training job is already on its way.
        from .serving import Serving

        serving = Serving(
            model_server_settings(self._settings, self._layout, self._ports),
            replicas=self._handle.components[MODEL_SERVER].desired,
            port=self._ports.model_server,
            bounded=self._settings.switches.serving_queue == "hardened",
            autoscaled=self._settings.switches.serving_autoscale == "hardened",
        )
        serving.start()
        self._scaling = serving.scaling()
        return serving

    def _check_starting(self, serving: Serving) -> None:
        for process in self._plain.values():
            if process.exit_status is not None:
                ended = f"{process.name} ended with status {process.exit_status} before the platform was up"
                raise StartFailed(f"{ended}; end of {process.log}: {tail(process.log) or 'empty'}")
        if self._training.failure is not None and not self._training.running:
            raise StartFailed(f"the training job failed: {self._training.failure}")
        failure = serving.failure()
        if failure is not None:
            raise StartFailed(f"the model server could not be deployed: {failure}")

    def _predicts(self) -> bool:
        """Tells whether one prediction gets through from the gateway to the features and back."""
        url = f"http://{LOOPBACK}:{self._ports.gateway}{PREDICT_PATH}"
        try:
            with urllib.request.urlopen(url, data=b'{"entity": 0}', timeout=_PREDICTION_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _is_complete(self, component: str) -> bool:
        return self._monitor.ready_instances(component) >= self._handle.components[component].desired

    def _look(self) -> None:
        """Looks who is there, and tells the monitor and the readers of the handle."""
        if not self._monitor.is_alive():
            raise StagingError(f"the monitor ended: {tail(self._layout.log('platform'))}")
        desired = {MODEL_SERVER: self._scaling.target()} if self._scaling is not None else {}
        view = self._roster.look(self._training.running, desired)
        self._monitor.view = view
        self._change(components=self._roster.listed(view, self._monitor.has_answered), nodes=self._cluster.raylets)

    def _mark(self, part: str) -> None:
        self._look()
        seconds = round(time.monotonic() - self._began_s, 1)
        self._change(startup_s={**self._handle.startup_s, part: seconds})
        _log.info("%s: up after %.1f s", part, seconds)

    def _change(self, **changes: Any) -> None:  # noqa: ANN401 (fields of different types)
        changed = replace(self._handle, **changes)
        if changed != self._handle:
            self._handle = changed
            handle.write(self._handle_path, changed)

    def _status(self) -> dict[str, Any]:
        ready = {name: self._monitor.ready_instances(name) for name in self._handle.components}
        return {"state": self._handle.state, "error": self._handle.error, "ready": ready}

    def _accept(self, repair: Repair) -> str | None:
        if self._handle.state != "ready":
            return f"the platform is {self._handle.state}; repairs are possible when it is ready"
        self._repairs.put(repair)
        self._wake.set()
        return None

    def _repair(self, repair: Repair) -> None:
        _log.info("repair: %s %s", repair.component, repair.action)
        if repair.component == TRAINER and repair.action == "reset":
            self._training.submit_from_nothing()
            self._monitor.forget_step()
        elif repair.component == TRAINER:
            self._training.submit()
        elif repair.component == MODEL_SERVER:
            # Serve replaces what is gone; what hangs would not hear a polite request.
            for instance in self._monitor.view.components[MODEL_SERVER].instances:
                instance.process.kill()
        else:
            self._plain[repair.component].restart()


def _metrics_url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}{METRICS_PATH}"
