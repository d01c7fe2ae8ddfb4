"""Our processes, started from a folder in which somebody else's packages bear our names."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.watchdog_process import WatchdogProcess
from envs.own_module import own_environment
from envs.staging.errors import BadInput
from envs.staging.launch import Platform
from envs.staging.settings import StagingSettings

from .conftest import config_file

SOURCES = Path(__file__).parents[1]
THEIRS = "open({told!r}, 'a').write(__file__)\nprint('watching', flush=True)\n"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Starts from a stranger's folder; returns the file in which its modules say that they ran."""
    told, theirs = tmp_path / "told", tmp_path / "theirs"
    for module in ("agent/__main__.py", "envs/staging/guard.py", "envs/staging/platform.py"):
        path = theirs / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(THEIRS.format(told=str(told)))
        for folder in path.relative_to(theirs).parents[:-1]:
            (theirs / folder / "__init__.py").touch()
    monkeypatch.chdir(theirs)
    return told


@pytest.fixture
def _from_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nothing is installed: only the path leads to us."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(SOURCES)]))


@pytest.mark.usefixtures("_from_a_checkout")
def test_the_watchdog_is_ours_wherever_a_run_is_started(tmp_path, told, pipe):
    config = config_file(tmp_path, "local.yaml")
    watchdog = WatchdogProcess(config, pipe[1])
    watchdog.close()
    assert not told.exists()
    assert watchdog._process.returncode == 0


@pytest.mark.usefixtures("_from_a_checkout")
def test_guard_and_platform_are_ours_wherever_a_run_is_started(tmp_path, told, pipe):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        platform = Platform(tmp_path / "platform.json", tmp_path / "logs", StagingSettings(gateway_port=port), pipe[0])
        with pytest.raises(BadInput, match=str(port)):
            platform.wait_until_ready(lambda _: None, lambda: False)
        platform.stop()
    assert not told.exists()


@pytest.mark.usefixtures("_from_a_checkout")
def test_the_present_folder_is_on_nobodys_path(monkeypatch):
    assert own_environment()["PYTHONPATH"] == str(SOURCES)
    monkeypatch.setenv("PYTHONPATH", f"/a{os.pathsep}{os.pathsep}/b")
    assert own_environment()["PYTHONPATH"] == os.pathsep.join([str(SOURCES), "/a", "/b"])
