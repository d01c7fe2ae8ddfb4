"""Who may know whom: what import-linter cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted(path for path in (ROOT / "safety").glob("*.py")) + sorted(
    path for path in (ROOT / "actuators").glob("*.py")
)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_safety_and_the_core_of_actuators_need_the_standard_library_alone(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            room = name.partition(".")[0]
            assert room in sys.stdlib_module_names or room == "actuators", f"{path.name} imports {name}"


def test_importing_a_room_starts_nothing_and_touches_nothing():
    """No side effects: importing every module of the core leaves no thread, and reads no environment of ours."""
    script = (
        "import threading, agent.build.local, agent.build.simulated, agent.cli, safety.watchdog, actuators.pod; "
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_the_watchdog_starts_without_torch_and_without_ray():
    """It is started before every fault, and reverts after a death: nothing heavy may stand in its way."""
    script = (
        "import sys, agent.build.local, agent.cli, envs.staging.launch; "
        "assert not {'torch', 'ray', 'gymnasium', 'stable_baselines3'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_the_prometheus_library_is_loaded_only_where_it_is_used():
    script = (
        "import sys; from actuators.clock import BootClock; from agent.settings import PACKAGED, load; "
        "import agent.cli, agent.run, envs.clusters.local; from agent.build.telemetry import source_of; "
        "source_of(load(PACKAGED / 'local.yaml'), BootClock()); "
        "assert not {'prometheus_api_client', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_neither_policy_nor_scorer_can_see_switches_or_truth():
    """The ground truth is read by the run, after the fact, and by nobody who decides or judges."""
    platform = ROOT / "envs" / "staging"
    deciding = [
        *(ROOT / "agent" / "learning").rglob("*.py"),
        *(path for path in (ROOT / "envs").rglob("*.py") if platform not in path.parents),
        *(ROOT / "agent" / name for name in ("campaign.py", "calibration.py", "build/parts.py")),
    ]
    assert ROOT / "envs" / "scoring" / "scorer.py" in deciding
    for path in deciding:
        text = path.read_text(encoding="utf-8")
        assert "ground_truth" not in text, path
        assert "switches" not in text, path
