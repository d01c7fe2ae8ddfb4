"""The loss of a node, on a real process tree: all of it, nobody else, whatever happens to whoever does it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from actuators.clock import BootClock
from actuators.drivers.local.nodes import LocalNodes
from actuators.drivers.local.platform import Platform
from actuators.drivers.local.pods import LocalPods
from actuators.errors import TargetNotFound
from actuators.fault import Fault, Injection, Target
from actuators.node import NodeActuator
from envs.staging.processes import identify
from tests.bare_platform import BarePlatform, bare_platform
from tests.waiting import wait_until

CHILD = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", "child of the restless"]
RESTLESS = f"""
import subprocess
while True:
    subprocess.Popen({CHILD})
    print("one more", flush=True)
"""


@pytest.fixture
def platform(tmp_path) -> Iterator[BarePlatform]:
    with bare_platform(tmp_path) as platform:
        yield platform


def actuator(platform: BarePlatform) -> NodeActuator:
    return NodeActuator(LocalNodes(Platform(platform.handle)))


def receipt(platform: BarePlatform, target: str = "trainer") -> Injection:
    fault = Fault("pod.node_kill", Target(target), 0.25, 12.0)
    now = BootClock().now()
    return Injection("bb-node", fault, actuator(platform).prepare("bb-node", fault), now, now.after(12.0), 1)


def test_a_node_goes_with_everything_on_it_and_the_neighbours_stay(platform):
    injection = receipt(platform)
    actuator(platform).inject(injection)
    wait_until(lambda: actuator(platform).took(injection))
    wait_until(lambda: platform.state_of("trainer") == ["gone", "gone"])
    now = platform.observable()
    assert now["nodes"] == {"serving": "running", "training": "gone"}
    assert (now["states"]["model-server"], now["states"]["feature-store"]) == (["running", "running"], ["running"])
    assert actuator(platform).probe_clean(injection)


def test_a_node_that_starts_processes_all_the_time_leaves_none(platform):
    """Between a look at its children and their end it must not get another one."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", RESTLESS], stdout=subprocess.PIPE) as restless:
        try:
            for _ in range(5):
                restless.stdout.readline()
            as_node(platform, "training", restless.pid)
            actuator(platform).inject(receipt(platform))
            wait_until(lambda: not children_of_the_restless())
        finally:
            restless.kill()
            for process in children_of_the_restless():
                process.kill()


def children_of_the_restless() -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline", "status"])
    return [p for p in found if p.info["cmdline"] == CHILD and p.info["status"] != psutil.STATUS_ZOMBIE]


def test_a_kill_that_stopped_half_way_leaves_nothing_frozen(platform):
    """Whoever takes a node down may die after it froze it: a fresh process lets it go."""
    injection = receipt(platform)
    frozen = [platform.nodes["training"], *platform.sleepers["trainer"]]
    for process in frozen:
        os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: platform.observable()["states"]["trainer"] == ["stopped", "stopped"])
    assert not actuator(platform).took(injection)
    assert not actuator(platform).probe_clean(injection)
    actuator(platform).revert(Injection.from_json(injection.to_json()))
    assert actuator(platform).probe_clean(injection)
    assert platform.observable()["states"]["trainer"] == ["running", "running"]


def test_whoever_lets_a_node_go_lets_nobody_go_whom_a_later_fault_holds(platform):
    injection, pods = receipt(platform), LocalPods(Platform(platform.handle))
    first, _ = pods.instances(Target("trainer"))
    pods.pause(first, "bb-later", BootClock().now().after(30.0))
    wait_until(lambda: platform.state_of("trainer") == ["stopped", "running"])
    assert actuator(platform).probe_clean(injection)
    actuator(platform).revert(injection)
    assert platform.state_of("trainer") == ["stopped", "running"]
    pods.resume(first, "bb-later")


def test_a_stop_that_is_still_on_its_way_is_taken_back_as_well(platform, monkeypatch):
    """Whoever is not scheduled for a while stops only once it is: by then nobody would look any more."""
    injection, sent = receipt(platform), []
    monkeypatch.setattr("actuators.drivers.local.nodes.send", lambda *what: sent.append(what))
    actuator(platform).revert(injection)
    assert {(pid, number) for pid, _, number in sent} == {
        (process.pid, signal.SIGCONT) for process in (platform.nodes["training"], *platform.sleepers["trainer"])
    }


def test_the_node_that_came_back_is_not_the_one_that_was_lost(platform):
    injection = receipt(platform)
    actuator(platform).inject(injection)
    wait_until(lambda: actuator(platform).took(injection))
    as_node(platform, "training", platform.sleepers["feature-store"][0].pid)
    actuator(platform).inject(injection)
    actuator(platform).revert(injection)
    assert platform.state_of("feature-store") == ["running"]
    assert actuator(platform).took(injection)


def test_what_runs_on_the_host_itself_has_no_node_to_lose(platform):
    with pytest.raises(TargetNotFound, match="feature-store lives on host, and no such node is up"):
        receipt(platform, "feature-store")


def test_a_node_that_is_down_cannot_be_taken_down(platform):
    os.kill(platform.nodes["training"].pid, signal.SIGKILL)
    wait_until(lambda: identify(platform.nodes["training"].pid) is None)
    with pytest.raises(TargetNotFound, match="trainer lives on training, and no such node is up"):
        receipt(platform)


def test_a_node_that_others_live_on_is_no_target(platform):
    """The guards were asked about one component only."""
    handle = json.loads(platform.handle.read_text())
    handle["components"]["model-server"]["node"] = "training"
    platform.handle.write_text(json.dumps(handle))
    with pytest.raises(TargetNotFound, match="trainer lives on training together with model-server"):
        receipt(platform)


def as_node(platform: BarePlatform, name: str, pid: int) -> None:
    """Writes another process into the handle as the one that is a node."""
    handle = json.loads(platform.handle.read_text())
    handle["nodes"][name] = {"pid": pid, "start_ticks": identify(pid).start_ticks}
    platform.handle.write_text(json.dumps(handle))
