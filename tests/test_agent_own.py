"""A policy of one's own: run and compared like any other, and what it gets wrong is said in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from actuators.errors import BackburnError, BadInput
from agent.benchmark.splits import compare
from agent.build.parts import policy_named
from agent.learning.own import is_own, own_policy
from tests.conftest import config_file
from tests.test_agent_cli import backburn, refused

LINES = """
import numpy as np


class Strongest:
    def choose(self, observation, mask):
        allowed = np.flatnonzero(mask[:-1])
        return allowed[-1] if len(allowed) else len(mask) - 1


class Says:
    def __init__(self, answer):
        self.answer = answer

    def choose(self, observation, mask):
        return self.answer() if callable(self.answer) else self.answer


def strongest(random):
    assert isinstance(random, np.random.Generator)
    return Strongest()


def needs_more(random, more):
    return Strongest()


def nothing(random):
    return None


def too_far(random):
    return Says(10**9)


def in_words(random):
    return Says("the first")


def breaks(random):
    return Says(lambda: {}["nothing"])


number = 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own_policies.py").write_text(LINES)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_policies", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_named_by_what_makes_it():
    assert all(map(is_own, ("mine:make", "my.agents:make_one", "_a1:_b2")))
    assert not any(
        map(is_own, ("ppo", "mine.yaml", "runs/mine:make", "mine:", ":make", "a:b:c", "a b:c", "1a:b", "é:b"))
    )


def test_it_is_found_in_the_present_folder_and_in_nobodys_place(folder):
    policy = policy_named("own_policies:strongest", np.random.default_rng(0))
    mask = np.array([True, True, False, True])
    assert policy.choose({}, mask) == 1
    assert type(policy.choose({}, mask)) is int
    assert policy.choose({}, np.array([False, False, True])) == 2
    assert sys.path[-1] == str(folder), "last"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:make", "cannot be imported: ModuleNotFoundError"),
        ("own_policies:nobody", "cannot be imported: AttributeError"),
        ("own_policies:number", "cannot be made: TypeError"),
        ("own_policies:needs_more", "cannot be made: TypeError"),
        ("own_policies:nothing", "is NoneType; allowed is what has choose"),
    ],
)
def test_what_makes_no_policy_is_one_line(folder, name, said):
    with pytest.raises(BadInput, match=said) as error:
        own_policy(name, folder)(np.random.default_rng(0))
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match=said):
        compare([name], ["iid"], folder / "out", Console(quiet=True), clusters=2, threads=1)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("function", "said"),
    [("too_far", "chose 1000000000; allowed are 0 to 2"), ("in_words", "TypeError"), ("breaks", "KeyError: 'nothing'")],
)
def test_what_is_no_action_is_not_taken_for_one(folder, function, said):
    policy = policy_named(f"own_policies:{function}", np.random.default_rng(0))
    with pytest.raises(BackburnError, match=f"policy own_policies:{function}.*{said}"):
        policy.choose({}, np.array([True, False, True]))


def test_it_is_compared_on_the_suite_like_any_other(folder):
    names = ["own_policies:strongest", "ucb"]
    compare(names, ["iid"], folder / "out", Console(quiet=True), clusters=4, threads=1)
    figures = json.loads((folder / "out" / "benchmark.json").read_text())["iid"]
    assert set(figures) == {*names, "random", "oracle"}
    assert figures["own_policies:strongest"]["violations"] == 0


def test_it_runs_a_campaign_and_what_it_breaks_is_one_line(folder):
    config = config_file(folder, campaign={"budget_min": 1.0})
    said = backburn(
        "run", "--config", config, "--policy", "own_policies:strongest", "--out", folder / "run", PYTHONPATH=str(folder)
    )
    assert said.returncode == 0, said.stderr
    outcomes = [json.loads(line) for line in (folder / "run" / "outcomes.jsonl").read_text().splitlines()]
    assert any(outcome["why"] == "choice" for outcome in outcomes)
    broken = backburn("run", "--config", config, "--policy", "own_policies:breaks", PYTHONPATH=str(folder))
    refused(broken, 4, "policy own_policies:breaks: KeyError: 'nothing'")
