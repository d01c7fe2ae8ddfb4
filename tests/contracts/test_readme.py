"""The README says what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actuators.catalogue import CATALOGUE
from agent.findings.ground_truth import SWITCHES
from agent.learning.own import own_policy
from envs.telemetry.snapshot import METRICS
from tests.crash_points import POINTS
from tests.test_crash_points import DISTURBANCES
from tests.test_safety_hostile import GUARDED, THROUGH_THE_DOOR

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAP = {
    room: set(re.findall(r"`([a-z_]+(?:\.py|\.yaml|/))`", row))
    for room, row in re.findall(r"^\| `(agent|envs|safety|actuators|configs|tests)/` \| (.*) \|$", README, re.MULTILINE)
}


def test_the_map_has_every_room():
    assert set(MAP) == {"agent", "envs", "safety", "actuators", "configs", "tests"}


@pytest.mark.parametrize("room", MAP)
def test_whatever_the_map_names_is_there(room):
    for name in MAP[room]:
        assert (ROOT / room / name).exists(), f"{room}/{name}"


@pytest.mark.parametrize("room", ["agent", "envs", "safety", "actuators"])
def test_every_folder_of_a_room_is_on_the_map(room):
    folders = {f"{path.name}/" for path in (ROOT / room).iterdir() if (path / "__init__.py").exists()}
    assert folders <= MAP[room]


@pytest.mark.parametrize("room", ["envs", "safety"])
def test_every_module_of_the_rooms_to_read_is_on_the_map(room):
    modules = {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py"}
    assert modules <= MAP[room]


def test_every_fault_kind_is_named():
    assert [kind for kind in CATALOGUE if f"`{kind}`" not in README] == []


def test_the_table_of_switches_says_which_fault_reveals_each():
    rows = re.findall(r"^\| `([a-z_.]+)` \| .* \| `([a-z_.]+)` \|$", README, re.MULTILINE)
    assert dict(rows) == {switch: signs[0].kind for switch, signs in SWITCHES.items()}


def test_the_table_of_metrics_is_the_catalogue():
    (table,) = re.findall(r"\| what \| metrics \|\n\|---\|---\|\n((?:\|.*\|\n)+)", README)
    assert sorted(re.findall(r"`([a-z0-9_]+)`", table)) == sorted(METRICS)


@pytest.mark.parametrize("page", ["README.md", "safety/GUARANTEES.md"])
def test_every_guarantee_names_a_test_that_exists(page):
    named = set(re.findall(r"`(test_[a-z_]+)`", (ROOT / page).read_text(encoding="utf-8")))
    assert len(named) > 12
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= defined, named - defined


def test_the_page_of_guarantees_counts_what_there_is():
    page = (ROOT / "safety" / "GUARANTEES.md").read_text(encoding="utf-8")
    undone = sum(kind.reversible for kind in CATALOGUE.values())
    assert f"{undone} of {len(CATALOGUE)} kinds" in page
    points = len(CATALOGUE) * (len(POINTS) * (len(DISTURBANCES) + 1) + 1)
    assert f"= {points:,} |" in page
    assert (f"{GUARDED:,} / {THROUGH_THE_DOOR:,}") in page
    assert "safety/GUARANTEES.md" in README


def test_the_lines_of_python_run():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert "make_vec" in code
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.startswith("{")


def test_the_policy_of_ones_own_can_be_imported_and_made(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(# mine.py\n.*?)```", README, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (name,) = set(re.findall(r"mine:\w+", README))
    policy = own_policy(name, tmp_path)(np.random.default_rng(0))
    assert policy.choose({}, np.array([True, True, False, True])) == 1


def test_the_commands_are_those_of_the_program():
    help_text = subprocess.run(
        [sys.executable, "-m", "agent", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = re.findall(r"^backburn (\w+)", README, re.MULTILINE)
    assert commands
    for command in commands:
        assert command in help_text


def test_what_is_tracked_at_the_top_is_what_was_agreed():
    tracked = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"],  # noqa: S607 (wherever git is)
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    agreed = ["README.md", "pyproject.toml", "agent", "envs", "actuators", "safety", "tests", "configs", "Dockerfile"]
    tools = ["LICENSE", "SECURITY.md", "Makefile", "constraints.txt", ".ci", ".gitignore", ".dockerignore"]
    assert set(tracked) == set(agreed + tools)
