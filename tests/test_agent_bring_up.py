"""Two agents on one state folder: whoever has lost the lease notices before it harms the other's platform."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from actuators.clock import BootClock
from agent.build import local
from agent.settings import load
from envs.staging import handle as handles
from envs.staging import launch
from envs.staging.errors import StartFailed
from envs.staging.handle import Handle
from envs.staging.processes import boot_id, identify
from safety.lease import Lease, LeaseLost

from .conftest import config_file

TTL_S = 60.0
"""Longer than any of these tests takes: what has expired was made to."""


class Starting:
    """A platform that asks whether to give up, and does not start."""

    stopped = 0

    def __init__(self, *_: object) -> None:
        """Starts nothing."""

    @staticmethod
    def before_it_asks() -> None:
        """A test's moment."""

    def wait_until_ready(self, told: object, interrupted: Callable[[], bool]) -> None:
        type(self).before_it_asks()
        assert not interrupted()
        raise StartFailed("a component did not start")

    def stop(self) -> None:
        type(self).stopped += 1


class Guardian:
    """A watchdog that does nothing."""

    started = 0

    def __init__(self, config: object, keepalive_fd: int, meanwhile: Callable[[], None]) -> None:
        type(self).started += 1
        meanwhile()

    def close(self) -> None:
        """Has nothing to let go of."""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "Platform", Starting)
    monkeypatch.setattr(local, "WatchdogProcess", Guardian)
    monkeypatch.setattr(Starting, "stopped", 0)
    monkeypatch.setattr(Guardian, "started", 0)
    return config_file(tmp_path, "local.yaml", safety={"lease_ttl_s": TTL_S})


def bring_up(config) -> None:
    local.LocalWorld(
        load(config),
        config=config,
        logs=config.parent / "logs",
        observer=None,
        told=lambda _: None,
        interrupted=lambda: False,
    )


def lease_of(config) -> Lease:
    return Lease(load(config).cluster_state_dir / "lease", TTL_S, BootClock())


def grown_old(config) -> None:
    db = sqlite3.connect(load(config).cluster_state_dir / "lease", isolation_level=None)
    db.execute("UPDATE lease SET boottime_s = boottime_s - ?", (2.0 * TTL_S,))
    db.close()


def test_a_start_keeps_its_lease_however_long_it_takes(config, monkeypatch):
    other = lease_of(config)
    expired = []

    def a_long_time() -> None:
        grown_old(config)
        expired.append(other.expired())

    def stop(platform: Starting) -> None:
        expired.append(other.expired())

    monkeypatch.setattr(Starting, "before_it_asks", a_long_time)
    monkeypatch.setattr(Starting, "stop", stop)
    with pytest.raises(local.BackburnError, match="a component did not start"):
        bring_up(config)
    assert expired == [True, False]
    other.close()


def test_a_start_whose_lease_was_taken_over_ends(config, monkeypatch):
    other = lease_of(config)
    monkeypatch.setattr(Starting, "before_it_asks", lambda: (grown_old(config), other.acquire("another agent")))
    with pytest.raises(LeaseLost, match="taken over"):
        bring_up(config)
    assert Starting.stopped == 1
    other.renew()  # nobody has given it back in the other's name
    other.close()


def test_a_lease_that_is_lost_before_the_watchdog_starts_starts_none(config, monkeypatch):
    other = lease_of(config)
    monkeypatch.setattr(local, "require_clean", lambda *_: (grown_old(config), other.acquire("another agent")))
    with pytest.raises(LeaseLost, match="taken over"):
        bring_up(config)
    assert (Guardian.started, Starting.stopped) == (0, 0)
    other.close()


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    ends = [os.pipe(), os.pipe()]
    yield ends
    for pair in ends:
        for end in pair:
            os.close(end)


@pytest.fixture
def guard(tmp_path, pipes) -> Iterator[subprocess.Popen[bytes]]:
    """What hangs on the first pipe and stands in a handle as its guard."""
    command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(command, pass_fds=[pipes[0][0]])
    identity = identify(process.pid)
    assert identity is not None
    root = tmp_path / "root"
    root.mkdir()
    handles.write(tmp_path / "platform.json", replace(NOBODYS, guard=identity, root=str(root)))
    yield process
    process.kill()
    process.wait()


NOBODYS = Handle(
    cluster_id="local",
    environment="staging",
    state="ready",
    boot_id=boot_id(),
    guard=None,  # type: ignore[arg-type]
    session_id=0,
    root="",
    control_socket="",
    proxy_socket="",
    paths={},
)


def test_a_watchdog_ends_its_own_agents_platform_and_no_other(tmp_path, guard, pipes):
    (_, own), (_, other) = pipes
    launch.end(tmp_path / "platform.json", other)
    assert guard.poll() is None
    assert (tmp_path / "platform.json").exists()
    launch.end(tmp_path / "platform.json", own)
    assert guard.wait(30.0) != 0
    assert not (tmp_path / "platform.json").exists()


def test_what_a_dead_guard_has_left_is_anybodys_to_clear(tmp_path, guard, pipes):
    guard.kill()
    guard.wait()
    launch.end(tmp_path / "platform.json", pipes[1][1])
    assert not (tmp_path / "platform.json").exists()


def test_a_watchdog_leaves_another_agents_platform_alone_when_its_own_agent_dies(tmp_path, guard, pipes):
    settings = load(config_file(tmp_path, "local.yaml"))
    settings.cluster_state_dir.mkdir(parents=True)
    (tmp_path / "platform.json").rename(local.handle_path(settings))
    for keepalive_fd, ends in ((pipes[1][1], False), (pipes[0][1], True)):
        reader, writer = os.pipe()
        os.close(writer)  # the agent is dead
        local.watch(settings, reader, lambda: None, keepalive_fd=keepalive_fd)
        os.close(reader)
        assert (guard.poll() is not None) == ends
