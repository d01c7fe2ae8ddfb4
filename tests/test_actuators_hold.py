"""The holder on a real process: how much CPU time it really takes, and what is left when it is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actuators.catalogue import CATALOGUE, LEVELS
from actuators.clock import BootClock
from actuators.drivers.local.platform import Platform
from actuators.drivers.local.pods import LocalPods
from actuators.pod import Instance
from envs.staging.processes import identify

from .bare_platform import HOLD
from .waiting import wait_until

SPINNER = [sys.executable, "-I", "-S", "-c", "while True: pass"]
WATCHED_S = 2.0


@pytest.fixture
def spinner() -> Iterator[Instance]:
    """A process that takes all the CPU time that it can get."""
    process = subprocess.Popen(SPINNER)
    yield Instance("spinner", {"pid": process.pid, "start_ticks": identify(process.pid).start_ticks})
    process.kill()
    process.wait()


@pytest.fixture
def pods(tmp_path: Path) -> LocalPods:
    return LocalPods(Platform(tmp_path / "platform.json"))


def cpu_rate(instance: Instance) -> float:
    """Returns how much CPU time a process gets now, per second."""
    process = psutil.Process(instance.identity["pid"])
    before, began_s = process.cpu_times().user + process.cpu_times().system, time.monotonic()
    time.sleep(WATCHED_S)  # CPU time is what a process gets while time passes; there is no event to wait for
    after = process.cpu_times().user + process.cpu_times().system
    return (after - before) / (time.monotonic() - began_s)


@pytest.mark.parametrize("level", LEVELS)
def test_a_starved_process_gets_no_more_than_what_is_left(pods: LocalPods, spinner: Instance, level: float) -> None:
    """Measured against what it gets without a holder, for others use this machine's cores too."""
    taken = CATALOGUE["pod.cpu_stress"].amount(level)
    free = cpu_rate(spinner)
    pods.starve(spinner, taken, "bb-starve", BootClock().now().after(30.0))
    assert pods.is_starved(spinner, "bb-starve")
    left = cpu_rate(spinner) / free
    pods.resume(spinner, "bb-starve")
    assert left == pytest.approx(1.0 - taken, abs=0.15 * taken)
    assert cpu_rate(spinner) > 0.5 * free


def test_a_starved_process_runs_again_at_the_deadline_by_itself(pods: LocalPods, spinner: Instance) -> None:
    pods.starve(spinner, 0.97, "bb-starve", BootClock().now().after(1.0))
    assert pods.is_starved(spinner, "bb-starve")
    wait_until(lambda: not pods.is_paused(spinner, "bb-starve"), within_s=3.0)
    assert not pods.is_starved(spinner, "bb-starve")


def test_a_holder_that_is_killed_while_its_victim_stands_still_is_noticed_and_made_good(
    pods: LocalPods, spinner: Instance
) -> None:
    pods.starve(spinner, 0.97, "bb-starve", BootClock().now().after(30.0))
    victim = psutil.Process(spinner.identity["pid"])
    (holder,) = [process for process in psutil.process_iter() if str(HOLD) in _command(process)]
    # Stopped first: what it leaves behind is then decided before it dies.
    while True:
        os.kill(holder.pid, signal.SIGSTOP)
        wait_until(lambda: holder.status() == psutil.STATUS_STOPPED)
        if victim.status() == psutil.STATUS_STOPPED:
            break
        os.kill(holder.pid, signal.SIGCONT)
    os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: not _runs(holder))
    assert victim.status() == psutil.STATUS_STOPPED
    assert pods.is_paused(spinner, "bb-starve"), "a victim that was left stopped is not clean"
    assert not pods.is_starved(spinner, "bb-starve"), "nor is it starved any more: nobody lets it run"
    pods.resume(spinner, "bb-starve")
    assert not pods.is_paused(spinner, "bb-starve")
    wait_until(lambda: victim.status() == psutil.STATUS_RUNNING)


def test_whoever_ends_a_pause_and_a_starvation_ends_nothing_of_another_injection(
    pods: LocalPods, spinner: Instance
) -> None:
    pods.starve(spinner, 0.83, "bb-starve", BootClock().now().after(30.0))
    pods.resume(spinner, "bb-other")
    assert pods.is_starved(spinner, "bb-starve")
    pods.resume(spinner, "bb-starve")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
