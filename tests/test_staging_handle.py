from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from envs.staging import handle as handles
from envs.staging.announcements import announce, living
from envs.staging.errors import BadInput, StagingError
from envs.staging.handle import Component, Handle, Instance, Observer
from envs.staging.processes import boot_id, identify, identify_self
from envs.staging.settings import Switches

HANDLE = Handle(
    cluster_id="local",
    environment="staging",
    state="ready",
    boot_id=boot_id(),
    guard=identify_self(),
    session_id=123,
    root="/tmp/backburn-ab12cd34",
    control_socket="/tmp/backburn-ab12cd34/control.sock",
    proxy_socket="/tmp/backburn-ab12cd34/proxy.sock",
    paths={"checkpoints": "/tmp/backburn-ab12cd34/checkpoints", "registry": "/tmp/backburn-ab12cd34/registry"},
    startup_s={"ray": 4.8, "ready": 51.0},
    components={
        "model-server": Component(
            role="model-server",
            labels={"backburn.dev/enabled": "true"},
            depends_on=("feature-store",),
            desired=2,
            routes_in=("gateway->model-server",),
            node="serving",
            instances=(Instance("model-server/12345", 12345, 987, "http://127.0.0.1:40001/metrics"),),
        )
    },
    observers={"client": Observer("http://127.0.0.1:40002/metrics")},
)


def test_a_handle_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "platform.json"
    handles.write(path, HANDLE)
    assert handles.read(path) == HANDLE
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["version"] == 1


def test_a_handle_holds_no_switches() -> None:
    assert not any(name in HANDLE.to_json() for name in ("switch", "weak", "hardened", *Switches().to_mapping()))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "state": "ready"}'])
def test_what_is_no_handle_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "platform.json"
    path.write_text(text)
    with pytest.raises(StagingError, match="not a platform handle"):
        handles.read(path)


def test_no_handle_is_told_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        handles.read(tmp_path / "platform.json")
    with pytest.raises(BadInput, match="cannot be read: Not a directory"):
        handles.read(Path("/dev/null/platform.json"))


def test_of_two_platforms_with_one_handle_only_the_first_starts(tmp_path: Path) -> None:
    path = tmp_path / "state" / "platform.json"
    handles.create(path, HANDLE)
    with pytest.raises(BadInput, match="another platform is starting"):
        handles.create(path, replace(HANDLE, root="/tmp/other"))
    assert handles.read(path) == HANDLE
    assert [one.name for one in path.parent.iterdir()] == ["platform.json"]


def test_processes_are_known_by_their_start_and_zombies_are_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        found = identify(process.pid)
        assert found is not None
        assert found.is_alive()
        assert not replace(found, start_ticks=found.start_ticks - 1).is_alive()
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identify(process.pid) is None
    found.kill()


def test_an_announcement_lives_as_long_as_its_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from envs.staging.announcements import announce;"
        "announce(Path(sys.argv[1]), 'trainer', 'http://127.0.0.1:2/metrics', place=1); print(flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    announce(tmp_path, "trainer", "http://127.0.0.1:1/metrics", place=0)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert [one.instance.pid for one in living(tmp_path)] == [os.getpid(), process.pid]
        process.kill()
        process.wait()
        assert [one.instance.pid for one in living(tmp_path)] == [os.getpid()]
    assert len(list(tmp_path.iterdir())) == 1
