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
from actuators.drivers.local.hold import stat_of
from actuators.drivers.local.holders import living
from actuators.drivers.local.platform import Platform
from actuators.drivers.local.pods import LocalPods
from actuators.errors import RevertFailed
from actuators.fault import Fault, Injection, Target
from actuators.pod import Instance, PodActuator, chosen
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


def cpu_s(instance: Instance) -> float:
    """Returns how much CPU time a process has had."""
    times = psutil.Process(instance.identity["pid"]).cpu_times()
    return times.user + times.system


def watched(instance: Instance) -> tuple[float, float]:
    """Returns for which share of the looks a process is stopped, and how much CPU time it gets, per second."""
    looks, before_s, began_s = [], cpu_s(instance), time.monotonic()
    while (passed_s := time.monotonic() - began_s) < WATCHED_S:
        looks.append(stat_of(instance.identity["pid"])[0] == "T")
        time.sleep(0.001)
    return sum(looks) / len(looks), (cpu_s(instance) - before_s) / passed_s


@pytest.mark.parametrize("level", LEVELS)
def test_a_starved_process_gets_no_more_than_what_is_left(pods: LocalPods, spinner: Instance, level: float) -> None:
    """What it gets of the rest is up to whoever else uses this machine's cores: perhaps all that it got before."""
    taken, seen = CATALOGUE["pod.cpu_stress"].amount(level), []

    def is_as_said() -> bool:
        seen.append(watched(spinner))
        stopped, rate = seen[-1]
        return stopped == pytest.approx(taken, abs=0.1) and rate <= 1.0 - taken + 0.15 * taken

    pods.starve(spinner, taken, "bb-starve", BootClock().now().after(300.0))
    wait_until(lambda: pods.is_starved(spinner, "bb-starve"))
    assert any(is_as_said() for _ in range(5)), f"{taken} of the time were to be taken: {seen}"
    pods.resume(spinner, "bb-starve")
    had_s = cpu_s(spinner)
    assert watched(spinner)[0] == 0.0
    wait_until(lambda: cpu_s(spinner) > had_s)


def test_a_starved_process_runs_again_at_the_deadline_by_itself(pods: LocalPods, spinner: Instance) -> None:
    pods.starve(spinner, 0.97, "bb-starve", BootClock().now().after(4.0))
    wait_until(lambda: pods.is_starved(spinner, "bb-starve"), within_s=4.0)
    wait_until(lambda: not pods.is_paused(spinner, "bb-starve"), within_s=14.0)
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
    wait_until(lambda: pods.is_starved(spinner, "bb-starve"))
    pods.resume(spinner, "bb-starve")


def test_a_late_look_at_an_earlier_pause_does_not_end_the_present_one(pods: LocalPods, spinner: Instance) -> None:
    """As of a watchdog that acts for an agent that has gone on meanwhile."""
    victim = psutil.Process(spinner.identity["pid"])
    pods.pause(spinner, "bb-now", BootClock().now().after(30.0))
    wait_until(lambda: victim.status() == psutil.STATUS_STOPPED)
    assert not pods.is_paused(spinner, "bb-earlier"), "it is not the earlier one that stops it"
    pods.resume(spinner, "bb-earlier")
    assert pods.is_paused(spinner, "bb-now")
    assert victim.status() == psutil.STATUS_STOPPED
    pods.resume(spinner, "bb-now")
    wait_until(lambda: victim.status() != psutil.STATUS_STOPPED)
    assert not pods.is_paused(spinner, "bb-now")


def test_who_is_gone_is_not_held(pods: LocalPods) -> None:
    """A death between the plan and the act is no effect of the act."""
    process = subprocess.Popen(SPINNER)
    gone = Instance("gone", {"pid": process.pid, "start_ticks": identify(process.pid).start_ticks})
    process.kill()
    process.wait()
    pods.pause(gone, "bb-late", BootClock().now().after(30.0))
    assert not pods.is_paused(gone, "bb-late")
    assert list(living("bb-late", process.pid)) == []


def test_a_name_that_was_cut_within_a_letter_hides_nobody() -> None:
    """The kernel cuts names of processes at fifteen bytes, wherever that is."""
    renamed = "open('/proc/self/comm', 'w').write('a' * 14 + 'ü'); print('so', flush=True); input()"
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", renamed]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"so\n"
        assert b"a\xc3)" in Path(f"/proc/{process.pid}/stat").read_bytes()
        assert stat_of(process.pid)[0] in "RS"
        assert identify(process.pid).pid == process.pid
        process.kill()


def test_one_that_cannot_be_let_go_keeps_no_other() -> None:
    class Stubborn(LocalPods):
        def __init__(self) -> None:
            self.resumed: list[str] = []

        def resume(self, instance: Instance, injection_id: str) -> None:
            self.resumed.append(instance.id)
            if instance.id == "first":
                raise RevertFailed("the holder of first does not end")

    stubborn, now = Stubborn(), BootClock().now()
    undo = chosen([Instance("first", {}), Instance("second", {})], 2)
    fault = Fault("pod.pause", Target("web"), 1.0, 10.0)
    with pytest.raises(RevertFailed, match="first"):
        PodActuator(stubborn).revert(Injection("bb-two", fault, undo, now, now.after(10.0), 1))
    assert stubborn.resumed == ["first", "second"]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
