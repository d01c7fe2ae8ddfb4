"""The watchdog as its agent sees it: a real process that watches, hangs, or is gone."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import psutil
import pytest

from actuators.errors import Unsafe
from agent import watchdog_process
from agent.watchdog_process import BEAT, WatchdogProcess, teller
from safety.lease import LeaseLost

from .conftest import config_file
from .waiting import wait_until

FULL = 1 << 20


@pytest.fixture
def keepalive() -> Iterator[int]:
    ends = os.pipe()
    yield ends[1]
    for end in ends:
        os.close(end)


@pytest.fixture
def watchdog(tmp_path, keepalive) -> Iterator[WatchdogProcess]:
    watchdog = WatchdogProcess(config_file(tmp_path, "local.yaml"), keepalive)
    yield watchdog
    watchdog._process.send_signal(signal.SIGCONT)
    watchdog.close()


def test_a_watchdog_that_stands_still_does_not_watch(watchdog, monkeypatch):
    """Its process exists all the while; nobody would revert."""
    monkeypatch.setattr(watchdog_process, "_SILENT_S", 2.0)
    assert watchdog.alive()
    os.kill(watchdog._process.pid, signal.SIGSTOP)
    wait_until(lambda: not watchdog.alive(), within_s=30.0)
    assert watchdog._process.poll() is None
    os.kill(watchdog._process.pid, signal.SIGCONT)
    wait_until(watchdog.alive, within_s=30.0)


def test_a_watchdog_that_nobody_has_listened_to_for_long_is_heard_of_at_once(watchdog, monkeypatch):
    """What lies in the pipe may be old: the next beat counts."""
    monkeypatch.setattr(watchdog_process, "_SILENT_S", 0.0)
    monkeypatch.setattr(watchdog_process, "_AT_ONCE_S", 30.0)
    for _ in range(3):
        assert watchdog.alive()


def test_old_beats_in_the_pipe_prove_nothing(watchdog, monkeypatch):
    assert select.select([watchdog._says], [], [], 30.0)[0]
    os.kill(watchdog._process.pid, signal.SIGSTOP)
    process = psutil.Process(watchdog._process.pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
    watchdog._listened_s -= 60.0  # as if it had stood still for a minute, and nobody had listened meanwhile
    monkeypatch.setattr(watchdog_process, "_AT_ONCE_S", 0.1)
    assert not watchdog.alive()


def test_a_watchdog_whose_process_has_ended_is_not_waited_for(watchdog):
    watchdog._process.kill()
    watchdog._process.wait()
    assert not watchdog.alive()


def test_nobody_who_beats_waits_for_a_listener():
    reader, writer = os.pipe()
    tell = teller(writer)
    for _ in range(3):
        tell(BEAT * FULL)  # more than any pipe takes
    assert os.read(reader, FULL).startswith(BEAT)
    os.close(reader)
    tell(BEAT)
    os.close(writer)


def test_what_is_raised_while_it_comes_up_ends_it(tmp_path, keepalive):
    """Such as the loss of the lease: whoever starts must not wait for half a minute before it notices."""
    started = []

    def lost() -> None:
        raise LeaseLost("taken over")

    start = watchdog_process.subprocess.Popen

    def popen(*args, **kwargs):
        started.append(start(*args, **kwargs))
        return started[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watchdog_process.subprocess, "Popen", popen)
        with pytest.raises(LeaseLost):
            WatchdogProcess(config_file(tmp_path, "local.yaml"), keepalive, lost)
    assert started[0].poll() is not None


def test_a_watchdog_that_cannot_watch_is_unsafe_and_waited_for_no_longer(tmp_path, keepalive):
    with pytest.raises(Unsafe, match="did not come up"):
        WatchdogProcess(tmp_path / "no such settings", keepalive)
