"""Scarce memory on a real process: what it may still have, and that the limit of before comes back whoever dies."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from actuators.catalogue import CATALOGUE, LEVELS
from actuators.clock import BootClock
from actuators.drivers.local import hold
from actuators.drivers.local.holders import living
from actuators.drivers.local.memory import LocalMemory
from actuators.drivers.local.platform import Platform
from actuators.errors import TargetNotFound
from actuators.fault import Fault, Injection, Target
from actuators.memory import MemoryActuator
from envs.staging.processes import ProcessId, identify

from .waiting import wait_until

MIB = 2**20
EATER = """
import sys
for line in sys.stdin:
    try:
        kept = bytearray(int(line))
        print("got", flush=True)
    except MemoryError:
        print("refused", flush=True)
"""
"""Takes as many bytes as it is told to, gives back what it had, and says how that went."""


@dataclass
class Eater:
    """A process that wants memory."""

    process: subprocess.Popen[str]
    id: ProcessId

    def wants(self, mib: float) -> str:
        self.process.stdin.write(f"{round(mib * MIB)}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    @property
    def limit(self) -> int | None:
        return hold.data_limit(self.id.pid, self.id.start_ticks)


@pytest.fixture
def eater() -> Iterator[Eater]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", EATER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found = Eater(process, identify(process.pid))
    assert found.wants(0.1) == "got"
    yield found
    process.kill()
    process.communicate()


@pytest.fixture
def actuator(tmp_path, eater) -> MemoryActuator:
    handle = tmp_path / "platform.json"
    instance = {"id": "eater", "pid": eater.id.pid, "start_ticks": eater.id.start_ticks}
    handle.write_text(json.dumps({"components": {"eater": {"instances": [instance]}}}))
    return MemoryActuator(LocalMemory(Platform(handle)))


def planned(
    actuator: MemoryActuator, intensity: float = 1.0, duration_s: float = 30.0, name: str = "bb-m"
) -> Injection:
    fault = Fault("pod.memory_stress", Target("eater"), intensity, duration_s)
    now = BootClock().now()
    return Injection(name, fault, actuator.prepare(name, fault), now, now.after(duration_s), 1)


@pytest.mark.parametrize("level", LEVELS)
def test_a_squeezed_process_is_refused_what_exceeds_the_rest(actuator, eater, level):
    left_mib = CATALOGUE["pod.memory_stress"].amount(level)
    injection = planned(actuator, level)
    actuator.inject(injection)
    assert actuator.took(injection)
    assert eater.wants(left_mib + 2.0) == "refused"
    assert left_mib < 2.0 or eater.wants(left_mib - 2.0) == "got"
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    assert eater.limit == resource.RLIM_INFINITY
    assert eater.wants(left_mib + 2.0) == "got"


def test_the_limit_of_before_comes_back_at_the_deadline_by_itself(actuator, eater):
    resource.prlimit(eater.id.pid, resource.RLIMIT_DATA, (900 * MIB, 1000 * MIB))
    injection = planned(actuator, duration_s=3.0)
    actuator.inject(injection)
    assert eater.limit < 900 * MIB
    wait_until(lambda: actuator.probe_clean(injection), within_s=13.0)
    assert resource.prlimit(eater.id.pid, resource.RLIMIT_DATA) == (900 * MIB, 1000 * MIB)


def test_a_holder_that_is_killed_leaves_its_limit_and_that_is_noticed_and_made_good(actuator, eater):
    injection = planned(actuator)
    actuator.inject(injection)
    ((holder, _),) = living(injection.id, eater.id.pid)
    os.kill(holder, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(holder) or psutil.Process(holder).status() == psutil.STATUS_ZOMBIE)
    assert not actuator.probe_clean(injection)
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    assert eater.limit == resource.RLIM_INFINITY


def test_a_limit_that_the_platform_has_set_since_is_left_alone(actuator, eater):
    injection = planned(actuator)
    actuator.inject(injection)
    resource.prlimit(eater.id.pid, resource.RLIMIT_DATA, (800 * MIB, resource.RLIM_INFINITY))
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    assert eater.limit == 800 * MIB


def test_two_injections_never_take_each_others_limit_for_their_own(actuator, eater):
    """Whatever they leave to the victim: the last digits bear the injection's mark."""
    one, other = planned(actuator, name="bb-one"), planned(actuator, name="bb-other")
    actuator.inject(one)
    actuator.revert(other)
    assert actuator.took(one)
    assert eater.limit == one.undo["squeezes"][0]["limit_bytes"] != other.undo["squeezes"][0]["limit_bytes"]
    actuator.revert(one)


def test_who_has_no_room_to_take_is_no_target(actuator, eater):
    resource.prlimit(eater.id.pid, resource.RLIMIT_DATA, (MIB, resource.RLIM_INFINITY))
    with pytest.raises(TargetNotFound, match="no room to take"):
        planned(actuator)


def test_who_got_another_limit_since_it_was_planned_is_not_squeezed(actuator, eater):
    injection = planned(actuator)
    resource.prlimit(eater.id.pid, resource.RLIMIT_DATA, (800 * MIB, resource.RLIM_INFINITY))
    actuator.inject(injection)
    assert not actuator.took(injection)
    assert eater.limit == 800 * MIB
    assert actuator.probe_clean(injection)


def test_a_victim_that_died_of_it_is_clean_and_what_died_before_is_not_hit(actuator, eater):
    injection, late = planned(actuator), planned(actuator, name="bb-late")
    actuator.inject(injection)
    eater.process.kill()
    eater.process.wait()
    assert actuator.took(injection), "a holder of this injection lives"
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    assert not actuator.took(injection)
    actuator.inject(late)
    assert not actuator.took(late)
