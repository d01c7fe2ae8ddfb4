"""What tests of the real embedded cluster share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from actuators.fault import Fault
from agent.build.local import LocalWorld
from agent.findings.ground_truth import SWITCHES, Sign
from agent.progress import Silent
from agent.settings import load
from envs.chaos import ChaosEnv
from envs.experiment import Observer
from envs.staging.processes import ProcessId, identify
from tests.conftest import config_file
from tests.waiting import wait_until

HARDENED = dict.fromkeys(SWITCHES, "hardened")
INTENSITY = {
    "pod.kill": 0.25,
    "pod.pause": 0.25,
    "network.delay": 1.0,
    "network.loss": 0.5,
    "network.partition": 0.25,
    "network.bandwidth": 0.5,  # narrow enough to hurt whoever lets everybody in, wide enough for those who are let in
    "model.checkpoint_corrupt": 0.5,
    "model.checkpoint_delete": 0.25,
    "model.registry_corrupt": 0.5,
    "model.registry_unavailable": 0.25,
    "model.bad_canary": 1.0,
    "pod.node_kill": 0.25,
    "pod.cpu_stress": 1.0,
    "data.corrupt_rows": 0.5,
    "data.schema_change": 0.5,
    "data.drift": 1.0,
    "data.stream_delay": 1.0,
    "pod.memory_stress": 1.0,
    "gpu.memory_pressure": 1.0,
    "gpu.compute_contention": 1.0,
}
START_WITHIN_S = 240.0


def embedded_config(folder: Path, *weak: str, window_s: float = 3.0, **sections: object) -> Path:
    """Writes settings of an embedded cluster on which only the named switches are weak."""
    switches = HARDENED | dict.fromkeys(weak, "weak")
    scoring = {"units": 24, "window_s": window_s}
    return config_file(folder, "local.yaml", cluster={"switches": switches}, scoring=scoring, **sections)


def started(config: Path, observer: Observer | None = None) -> tuple[LocalWorld, ChaosEnv]:
    """Starts the embedded cluster that a settings file describes, and learns how it wanders by itself."""
    world = LocalWorld(
        load(config),
        config=config,
        logs=config.parent / "logs",
        observer=observer or Silent(),
        told=lambda parts: None,
        interrupted=lambda: False,
    )
    try:
        world.start(None).calibrate(24)
        return world, ChaosEnv(world, budget_min=60.0)
    except BaseException:
        world.close()
        raise


def telling_fault(env: ChaosEnv, sign: Sign) -> Fault:
    """Returns the fault that should show a sign of a weakness."""
    return env.code.fault(sign.role, sign.kind, INTENSITY[sign.kind])


@dataclass
class Trace:
    """What identifies the processes of one platform, for as long as anything of it could live."""

    root: str
    session_id: int
    guard_pid: int

    @classmethod
    def of(cls, handle: Path) -> Trace:
        data = json.loads(handle.read_text())
        return cls(data["root"], data["session_id"], data["guard"]["pid"])

    def left(self) -> list[str]:
        """Returns whatever still runs of the platform."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                command = " ".join(process.cmdline())
                ours = (
                    self.root in command or os.getsid(process.pid) == self.session_id or process.pid == self.guard_pid
                )
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {command[:100]}")
        return found

    def raylets(self) -> list[ProcessId]:
        """Returns the nodes of the platform that are up."""
        found = [process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"]
        return [one for pid in found if (one := identify(pid)) is not None and os.getsid(pid) == self.session_id]


class EmbeddedAgent:
    """An agent on a real embedded cluster, with one fault in force."""

    def __init__(self, config: Path, folder: Path, kind: str, target: str) -> None:
        command = [sys.executable, "-m", "tests.embedded_agent", str(config), str(folder / "logs"), kind, target]
        self.handle = folder / "state" / "local" / "platform.json"
        self.process = subprocess.Popen([*command, str(INTENSITY[kind])], stdout=subprocess.PIPE, text=True)
        self._expect("ready")
        self.trace = Trace.of(self.handle)
        self.injection = self._expect("injected")

    def _expect(self, word: str) -> str:
        line = self.process.stdout.readline()
        assert line.startswith(word), f"expected {word!r}, the agent said {line!r}"
        return line.removeprefix(word).strip()

    def said(self) -> str:
        return self.process.stdout.readline().strip()

    def watchdog_pid(self) -> int:
        children = psutil.Process(self.process.pid).children()
        return next(child.pid for child in children if "--watch" in child.cmdline())

    def close(self) -> None:
        """Ends the agent as nobody should, and waits until its watchdog has ended everything else."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        if hasattr(self, "trace"):
            wait_until(lambda: not self.trace.left(), within_s=30.0)


@contextmanager
def embedded_agent(config: Path, folder: Path, kind: str, target: str) -> Iterator[EmbeddedAgent]:
    """Starts an agent on an embedded cluster, and makes sure that nothing of either is left."""
    agent = EmbeddedAgent.__new__(EmbeddedAgent)
    try:
        agent.__init__(config, folder, kind, target)
        yield agent
    finally:
        if hasattr(agent, "process"):
            agent.close()


def recovered(config: Path) -> dict[str, list[str]]:
    """Returns what `backburn recover --json` says."""
    command = [sys.executable, "-m", "agent", "recover", "--json", "--config", str(config)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
