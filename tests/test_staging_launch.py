"""A platform that does not end, seen by those who started it."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import replace

import psutil
import pytest

from actuators.errors import BackburnError
from agent.build import local
from agent.settings import load
from envs.staging import guard, launch
from envs.staging import handle as handles
from envs.staging.errors import StagingError, StartFailed
from envs.staging.layout import Layout
from envs.staging.processes import ProcessId
from envs.staging.settings import StagingSettings

from .conftest import config_file
from .waiting import wait_until

DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(600)
"""


def stuck(*_: object) -> None:
    raise StagingError("these processes could not be ended: [4711]")


def test_who_ends_a_guard_waits_for_longer_than_it_tries():
    assert launch._END_WITHIN_S > guard.KILL_DEADLINE_S


@pytest.mark.parametrize("dies", [True, False])
def test_a_guard_that_does_not_end_is_killed_and_told_of_and_waited_for_no_longer(tmp_path, monkeypatch, pipe, dies):
    monkeypatch.setattr(
        launch, "own_module", lambda *_: [sys.executable, "-I", "-S", "-c", DEAF, str(tmp_path / "deaf")]
    )
    monkeypatch.setattr(launch, "_END_WITHIN_S", 1.0)
    monkeypatch.setattr(launch.leftovers, "clear", stuck)
    platform = launch.Platform(tmp_path / "handle", tmp_path / "logs", StagingSettings(), pipe[0])
    wait_until((tmp_path / "deaf").exists)
    pid, kill = platform._guard.pid, platform._guard.kill
    if not dies:
        monkeypatch.setattr(platform._guard, "kill", lambda: None)
    try:
        with pytest.raises(StagingError, match="could not be ended" if dies else f"process {pid}, does not end"):
            platform.stop()
        assert psutil.pid_exists(pid) != dies
    finally:
        kill()
        platform._guard.wait()


@pytest.mark.parametrize("is_ours", [True, False])
def test_who_stops_a_platform_sees_to_what_its_guard_has_left(tmp_path, monkeypatch, pipe, is_ours):
    monkeypatch.setattr(launch, "own_module", lambda *_: [sys.executable, "-I", "-S", "-c", "import sys; sys.exit(4)"])
    platform = launch.Platform(tmp_path / "handle", tmp_path / "logs", StagingSettings(), pipe[0])
    platform._guard.wait()
    left = guard.Charge(tmp_path / "handle", Layout(tmp_path / "root", tmp_path / "logs"), StagingSettings())
    pid = platform._guard.pid if is_ours else os.getpid()
    handles.create(left.handle, replace(guard._first_handle(left), guard=ProcessId(pid, 1)))
    monkeypatch.setattr(launch.leftovers, "clear", stuck)
    with pytest.raises(StagingError, match="4711") if is_ours else nullcontext():
        platform.stop()


def test_a_platform_that_does_not_end_is_an_error_of_the_tool(tmp_path, monkeypatch):
    """Which ends no service: it goes on with a pause."""

    class Stuck:
        def __init__(self, *_: object) -> None:
            self.stop = stuck

        def wait_until_ready(self, *_: object) -> None:
            raise StartFailed("a component did not start")

    monkeypatch.setattr(launch, "Platform", Stuck)
    config = config_file(tmp_path, "local.yaml")
    with pytest.raises(BackburnError, match=r"the platform does not end: .*4711"):
        local.LocalWorld(
            load(config),
            config=config,
            logs=tmp_path / "logs",
            observer=None,
            told=lambda _: None,
            interrupted=lambda: False,
        )


def test_a_watchdog_whose_platform_does_not_end_ends_with_an_error_of_the_tool(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "end", stuck)
    reader, writer = os.pipe()
    os.close(writer)  # the agent is dead
    settings = load(config_file(tmp_path, "local.yaml"))
    with pytest.raises(BackburnError, match=r"the platform does not end: .*4711"):
        local.watch(settings, reader, lambda: None)
    os.close(reader)
