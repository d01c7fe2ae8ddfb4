"""Agents and watchdogs that die or hang in the middle of a fault, on real processes, sockets and files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from actuators.catalogue import kind_of
from actuators.errors import Unsafe
from agent.build.local import recover_all
from agent.settings import load
from tests.bare_platform import bare_platform
from tests.conftest import config_file
from tests.contracts.test_actuators import TARGET
from tests.crash_points import taken_out
from tests.waiting import wait_until

CARRIED = [name for name in TARGET if kind_of(name).reversible and kind_of(name).family in {"pod", "network", "gpu"}]
"""Kinds with a carrier, which lets go by itself; damage to files has none."""

UNDO_S = 1.0
"""What an undo may take here, beside the second that the guarantee allows for noticing."""

DEADLY = {"pod.kill", "pod.node_kill"}
"""Kinds of which nothing can be seen to go away."""


class CrashingAgent:
    """An agent in a process of its own, with one fault in force."""

    def __init__(self, config, kind: str, duration_s: float) -> None:
        command = [sys.executable, "-m", "tests.crash_agent", str(config), kind, TARGET[kind], str(duration_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.watchdog_pid = int(self._line("watchdog"))
        self.injection = self._line("injected")

    def _line(self, word: str) -> str:
        line = self.process.stdout.readline()
        assert line.startswith(word), f"expected {word!r}, the agent said {line!r}"
        return line.removeprefix(word).strip()

    def kill_with_its_watchdog(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)  # or it would notice that it is alone, and revert
        for pid in (self.watchdog_pid, self.process.pid):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for pid in (self.process.pid, self.watchdog_pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def scene(tmp_path) -> Iterator[tuple]:
    """A bare platform behind the handle of a cluster called `local`, and the settings of agents on it."""
    state = tmp_path / "state" / "local"
    state.mkdir(parents=True)
    with bare_platform(state) as platform:
        yield platform, crash_settings(tmp_path)


def crash_settings(folder, lease_ttl_s: float = 30.0):
    """Writes settings under which an agent is not taken for hung that only starts something on a busy machine."""
    return config_file(folder, "local.yaml", safety={"lease_ttl_s": lease_ttl_s, "grace_s": 1.0})


@contextmanager
def agent_at_work(config, kind: str, duration_s: float = 30.0) -> Iterator[CrashingAgent]:
    agent = CrashingAgent(config, kind, duration_s)
    try:
        yield agent
    finally:
        agent.close()


def recovered(config) -> dict[str, list[str]]:
    still_open, leaked = recover_all(load(config))
    return {"open": still_open, "leaked": leaked}


def is_undone(platform, kind: str, before: dict[str, object]):
    """What a fault did is gone: a frozen process runs, an edge is free, a checkpoint is whole. The dead stay dead."""
    now = platform.observable()
    if kind in {"pod.pause", "pod.cpu_stress"}:
        return now["states"] == before["states"]
    if kind in DEADLY:
        return all(now["states"][name] == state for name, state in before["states"].items() if name != TARGET[kind])
    if kind == "pod.memory_stress":
        return now["data_limits"] == before["data_limits"]
    return all(now[what] == before[what] for what in ("proxy", "checkpoint", "registry", "neighbours"))


@pytest.mark.parametrize("kind", TARGET)
def test_a_killed_agents_fault_is_gone_within_a_second(scene, kind):
    platform, config = scene
    before = platform.observable()
    with agent_at_work(config, kind) as agent:
        assert platform.observable() != before
        os.kill(agent.process.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        wait_until(lambda: is_undone(platform, kind, before), within_s=1.0 + UNDO_S)
        if kind in DEADLY:
            wait_until(lambda: taken_out(load(config).cluster_state_dir / "journal.db"), within_s=1.0 + UNDO_S)
        print(f"{kind}: clean {time.monotonic() - killed_s:.2f} s after SIGKILL")
        wait_until(lambda: platform.guard.poll() is not None)
    assert recovered(config) == {"open": [], "leaked": []}


@pytest.mark.parametrize("kind", ["pod.pause", "network.delay"])
def test_a_hung_agent_is_overruled_within_its_lease(scene, tmp_path, kind):
    platform, _ = scene
    config = crash_settings(tmp_path, lease_ttl_s=2.0)
    before = platform.observable()
    with agent_at_work(config, kind) as agent:
        os.kill(agent.process.pid, signal.SIGSTOP)
        wait_until(lambda: is_undone(platform, kind, before), within_s=2.0 + 0.5 + UNDO_S)
        os.kill(agent.process.pid, signal.SIGCONT)
        assert agent.process.stdout.readline() == "stopped lease True\n"
        assert agent.process.wait(10) == 0
    assert is_undone(platform, kind, before)
    assert recovered(config) == {"open": [], "leaked": []}


@pytest.mark.parametrize("kind", ["pod.pause", "network.delay"])
def test_without_its_watchdog_an_agent_stops_and_reverts(scene, kind):
    platform, config = scene
    before = platform.observable()
    with agent_at_work(config, kind) as agent:
        os.kill(agent.watchdog_pid, signal.SIGKILL)
        assert agent.process.stdout.readline() == "stopped watchdog True\n"
    assert is_undone(platform, kind, before)


@pytest.mark.parametrize("kind", CARRIED)
def test_with_agent_and_watchdog_dead_the_carrier_lets_go_at_the_deadline(scene, kind):
    """Nobody is left to revert: the holder and the proxy know the deadline themselves."""
    platform, config = scene
    before = platform.observable()
    duration_s = 12.0 if kind_of(kind).family == "gpu" else 4.0  # a neighbour imports torch before it shows
    with agent_at_work(config, kind, duration_s=duration_s) as agent:
        agent.kill_with_its_watchdog()
        assert not is_undone(platform, kind, before)
        wait_until(lambda: is_undone(platform, kind, before), within_s=duration_s + 10.0)
    assert recovered(config) == {"open": [], "leaked": []}


@pytest.mark.parametrize("kind", [name for name in TARGET if kind_of(name).family == "model"])
def test_the_next_agent_recovers_what_nobody_else_could(scene, kind):
    """Damage to files has no carrier: with agent and watchdog dead it waits for the next process."""
    platform, config = scene
    before = platform.observable()
    with agent_at_work(config, kind) as agent:
        agent.kill_with_its_watchdog()
        assert not is_undone(platform, kind, before)
    assert recovered(config) == {"open": [], "leaked": []}
    assert is_undone(platform, kind, before)


def test_a_second_agent_is_turned_away(scene):
    _, config = scene
    with agent_at_work(config, "pod.pause") as agent:
        command = [sys.executable, "-m", "tests.crash_agent", str(config), "pod.kill", "trainer"]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode != 0
        assert f"agent {agent.process.pid} (pid {agent.process.pid}) is at work on this cluster" in second.stderr


def test_nothing_is_recovered_under_an_agent_that_is_at_work(scene):
    """It would go on, and judge by a fault that is not there any more."""
    platform, config = scene
    with agent_at_work(config, "pod.pause"):
        broken = platform.observable()
        with pytest.raises(Unsafe, match=r"agent \d+ \(pid \d+\) is at work on this cluster"):
            recover_all(load(config))
        assert platform.observable() == broken


def test_a_target_that_the_platform_replaced_meanwhile_is_left_alone(scene):
    """The undo names processes by pid and start time, and files by hash: what is new is not touched."""
    platform, config = scene
    with agent_at_work(config, "model.checkpoint_corrupt") as agent:
        platform.checkpoint.write_bytes(b"a newer checkpoint")
        os.kill(agent.process.pid, signal.SIGKILL)
        wait_until(lambda: platform.guard.poll() is not None)
    assert recovered(config) == {"open": [], "leaked": []}
    assert platform.checkpoint.read_bytes() == b"a newer checkpoint"
