"""The frozen suite: what it is made of stays as it is, and whoever cheats in it is seen."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from actuators.errors import BadInput
from agent.benchmark.curves import picture
from agent.benchmark.splits import compare, makers_of
from agent.cli import learning
from agent.cli.options import Algorithm
from agent.learning import suite
from agent.learning.arena import Tally, compared, knowing, randomly
from agent.settings import PACKAGED
from envs.protections import ALL_ROLES, PROTECTIONS
from envs.simulator.pool import WEAKNESSES, pool_of
from tests.test_agent_cli import backburn, refused

POSTERIOR = str(PACKAGED / "policies" / "posterior.safetensors")

FROZEN = {
    "iid": (0.1403, 41.84, 0.000, 2.547),
    "size": (0.1244, 186.45, 0.000, 3.173),
    "topology": (0.1391, 41.41, 0.000, 2.556),
    "family": (0.1160, 34.53, 0.000, 1.596),
    "prevalence": (0.1076, 31.80, 0.000, 2.399),
    "noise": (0.1403, 41.84, 0.000, 1.862),
    "plain": (0.1530, 44.77, 0.050, 3.526),
}
"""Of 64 clusters the share of permitted experiments that would show something, and how many of a cluster would; of 16
areas of chance and of the oracle (mean severity confirmed over the budget), which tell of what goes on in campaigns.
"""


def test_the_suite_has_the_splits_that_are_frozen():
    assert set(FROZEN) == set(suite.SPLITS)


@pytest.mark.parametrize("split", FROZEN)
def test_a_split_is_what_it_was_when_it_was_frozen(split):
    hit_rate, shows = suite.frozen(split, 64)
    assert hit_rate == pytest.approx(FROZEN[split][0], abs=5e-4)
    assert shows == pytest.approx(FROZEN[split][1], abs=0.05)
    tallies = [suite.tried(suite.SPLITS[split], lambda _, by=by: by, 16).tally for by in (randomly(0), knowing)]
    assert [float(tally.area.mean()) for tally in tallies] == pytest.approx(FROZEN[split][2:], abs=0.01)


def test_choosing_at_random_hits_as_often_as_was_agreed():
    hit_rate, _ = suite.frozen("iid")
    assert 0.12 <= hit_rate <= 0.20


def test_what_is_held_back_never_occurs_in_training_and_does_in_its_split():
    names = [protection.name for protection in PROTECTIONS]
    held_back = {names.index(name) for name in suite.TRAINING.without}

    def seen(generator) -> set[int]:
        pool = pool_of(generator, 64, seed=3)
        numbers = pool.truth[..., 5][pool.shows]
        return {int(number) % (WEAKNESSES // len(ALL_ROLES)) for number in numbers}

    assert not seen(suite.TRAINING) & held_back
    assert seen(suite.SPLITS["family"].generator) == held_back


def test_whoever_takes_what_is_masked_is_seen():
    def cheating(campaigns) -> torch.Tensor:
        return (~campaigns.masks()[:, :-1]).float().argmax(1)

    policies = {"cheat": lambda n: cheating, "random": lambda n: randomly(0), "oracle": lambda n: knowing}
    split = suite.SPLITS["iid"]
    result = suite.result_of(split, {name: [suite.tried(split, make, 8)] for name, make in policies.items()}, 8)
    assert result.figures["cheat"]["violations"] > 100
    assert result.figures["random"]["violations"] == result.figures["oracle"]["violations"] == 0
    assert result.figures["random"]["auc"] == 0.0
    assert result.figures["oracle"]["auc"] == 1.0


def test_a_comparison_leaves_a_table_a_file_and_a_picture(tmp_path):
    compare(["thompson", POSTERIOR], ["iid", "plain"], tmp_path, Console(quiet=True), clusters=6, threads=1)
    found = json.loads((tmp_path / "benchmark.json").read_text())
    for split in ("iid", "plain"):
        figures = found[split]
        assert set(figures) == {
            "thompson",
            "thompson as it ships",
            "posterior",
            "posterior as it ships",
            "static posterior",
            "random",
            "oracle",
        }
        for of in figures.values():
            assert {
                "auc",
                "low",
                "high",
                "discoveries",
                "fdr",
                "violations",
                "decision_ms",
                "seeds",
                "clusters",
            } <= set(of)
            assert (of["violations"], of["clusters"]) == (0, 6)
        assert (tmp_path / f"{split}.svg").read_text().count("<polyline") == 7
    with pytest.raises(BadInput, match="holds a benchmark already"):
        compare(["thompson"], ["iid"], tmp_path, Console(quiet=True), clusters=6, threads=1)


def test_who_is_ahead_is_told_cluster_by_cluster():
    """Clusters differ more than policies: areas overlap, and yet one is ahead on every cluster."""
    random = np.random.default_rng(0)
    easy = random.uniform(1.0, 9.0, 64)

    def tally(area):
        return Tally(np.repeat(area[:, None], 32, 1), np.ones(64), np.zeros(64))

    tallies = {"random": [tally(0.0 * easy)], "oracle": [tally(10.0 + 0.0 * easy)], "first": [tally(easy)]}
    tallies |= {"one": [tally(easy + 0.2)], "many": [tally(easy + more) for more in (-1.0, 0.0, 1.6)]}
    figures = compared(tallies, reference="first")
    one, many, first = (figures[name] for name in ("one", "many", "first"))
    assert one["low"] < first["auc"] < one["auc"] < first["high"]
    assert one["lead"] == pytest.approx(0.02)
    assert 0.019 < one["lead_low"] < one["lead_high"] < 0.021
    assert many["lead"] == pytest.approx(0.02)
    assert many["lead_low"] < -0.02 < 0.06 < many["lead_high"]  # by luck of training
    assert (one["seeds"], many["seeds"]) == (1, 3)
    assert "lead" not in first


def test_a_pupil_is_compared_with_its_own_teacher():
    """Teachers differ by luck, and each pupil is ahead of its own: nothing of that luck is in the lead."""
    areas = np.random.default_rng(0).uniform(1.0, 9.0, 64)

    def tally(area):
        return Tally(np.repeat(area[:, None], 32, 1), np.ones(64), np.zeros(64))

    tallies = {"random": [tally(0.0 * areas)], "oracle": [tally(10.0 + 0.0 * areas)]}
    tallies["teachers"] = [tally(areas + luck) for luck in (-2.0, 0.0, 2.0)]
    tallies["pupils"] = [tally(areas + luck + 0.2) for luck in (-2.0, 0.0, 2.0)]
    lead = compared(tallies, reference="teachers")["pupils"]
    assert 0.019 < lead["lead_low"] <= lead["lead"] <= lead["lead_high"] < 0.021


def test_the_middle_half_does_not_see_what_a_few_clusters_are_like():
    def tally(area):
        return Tally(np.repeat(np.asarray(area, float)[:, None], 32, 1), np.ones(8), np.zeros(8))

    tallies = {"random": [tally([0] * 8)], "oracle": [tally([10] * 8)], "lucky": [tally([2] * 7 + [10])]}
    figures = compared(tallies)
    assert figures["lucky"]["iqm"] == pytest.approx(0.2)
    assert figures["lucky"]["auc"] == pytest.approx(0.3)


def test_a_folder_is_one_policy_of_several_trainings(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(BadInput, match="holds no"):
        makers_of([f"{folder}/"])
    for number in (1, 2):
        for ending in (".safetensors", ".json"):
            shutil.copy(Path(POSTERIOR).with_suffix(ending), folder / f"{number}{ending}")
    makers = makers_of([f"{folder}/"])
    assert {name: len(each) for name, each in makers.items()} == {
        "mine": 2,
        "mine as it ships": 2,
        "static mine": 2,
        "random": 1,
        "oracle": 1,
    }
    for ending in (".safetensors", ".json"):
        shutil.copy(PACKAGED / "policies" / f"ppo{ending}", folder / f"3{ending}")
    with pytest.raises(BadInput, match="several sorts"):
        makers_of([f"{folder}/"])


def test_shared_among_ray_tasks_it_comes_to_the_same(tmp_path):
    def figures(workers: int):
        folder = tmp_path / str(workers)
        told = backburn(
            "benchmark", "--split", "iid", "--policies", POSTERIOR, "--clusters", 6, "--workers", workers,
            "--run-dir", folder,
        )  # fmt: skip
        assert "area (random 0, oracle 1)" in told.stdout, "in a file, columns are as wide as they are"
        assert sorted(path.name for path in folder.iterdir()) == ["about.json", "benchmark.json", "iid.svg"]
        found = json.loads((folder / "benchmark.json").read_text())["iid"]
        return {name: {k: v for k, v in of.items() if k != "decision_ms"} for name, of in found.items()}

    assert figures(2) == figures(1)


def test_a_picture_escapes_names():
    assert "&lt;b&gt;" in picture({"<b>": [0.0, 1.0], "oracle": [1.0, 2.0]}, "a & b")
    assert "a &amp; b" in picture({}, "a & b")


def test_a_file_of_incidents_of_ones_own_is_a_rival_like_any_other(tmp_path):
    path = tmp_path / "my-incidents.yaml"
    shutil.copy(PACKAGED / "incidents.yaml", path)
    assert set(makers_of([str(path)])) == {"my-incidents", "random", "oracle"}
    told = backburn(
        "benchmark", "--split", "plain", "--policies", path, "--clusters", 4, "--run-dir", tmp_path / "it"
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "my-incidents" in json.loads((tmp_path / "it" / "benchmark.json").read_text())["plain"]


@pytest.mark.parametrize(("option", "value"), [("--minutes", 5), ("--seeds", 2), ("--seed", 3)])
def test_what_a_frozen_suite_fixes_cannot_be_chosen(tmp_path, option, value):
    told = backburn("benchmark", "--split", "iid", option, value, "--run-dir", tmp_path / "it")
    refused(told, 2, f"{option}: not with --split")


@pytest.mark.parametrize(
    ("command", "given", "complaint"),
    [
        (learning.benchmark, {"cluster": "simulated", "workers": 2}, "--workers: only with --split"),
        (learning.benchmark, {"cluster": "simulated", "config": "it.yaml"}, "--cluster: not with --config"),
        (learning.benchmark, {"again": "it", "plant": 3}, "--plant: not with --replay"),
        (learning.benchmark, {"split": "iid", "again": "it"}, "--replay: not with --split"),
        (learning.train, {"held_back": True, "components": (6, 8)}, "--components: not with --held-back"),
        (learning.train, {"teacher": Path(POSTERIOR)}, "--teacher: only with --algorithm ppo"),
        (learning.train, {"held_back": True, "algorithm": Algorithm.PPO}, "has seen what --held-back holds back"),
    ],
)
def test_what_would_be_ignored_or_spoil_a_comparison_is_refused(tmp_path, command, given, complaint):
    out = {"out": tmp_path / "it.safetensors"} if command is learning.train else {}
    with pytest.raises(BadInput, match=complaint):
        command(**out, **given)
    assert list(tmp_path.iterdir()) == []


def test_what_is_shipped_is_compared_by_its_name(tmp_path):
    told = backburn(
        "benchmark", "--split", "plain", "--policies", "ppo,posterior", "--clusters", 4, "--run-dir", tmp_path / "it"
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "it" / "benchmark.json").read_text())["plain"]
    assert {"ppo", "ppo as it ships", "posterior", "static posterior"} < set(found)
    assert found["ppo"]["held_back"] is False
    with pytest.raises(BadInput, match="two policies are called 'posterior'"):
        makers_of([POSTERIOR, "posterior"])


def test_who_has_learnt_on_what_is_held_back_is_marked(tmp_path):
    said = Console(file=io.StringIO(), width=200)
    compare(["thompson", POSTERIOR], ["plain"], tmp_path, said, clusters=4, threads=1)
    found = json.loads((tmp_path / "benchmark.json").read_text())["plain"]
    assert {name for name, of in found.items() if not of["held_back"]} == {
        "posterior",
        "posterior as it ships",
        "static posterior",
    }
    assert "posterior *" in said.file.getvalue()
    assert "thompson *" not in said.file.getvalue()
    without = asdict(suite.TRAINING)
    assert not suite.has_seen_what_is_held_back(without)
    assert suite.has_seen_what_is_held_back(without | {"without": ["freshness"]})
    assert suite.has_seen_what_is_held_back(without | {"families": ["mesh"]})
    assert suite.has_seen_what_is_held_back({})


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="unknown policy 'magic'"):
        makers_of(["magic"])
    with pytest.raises(BadInput, match="two policies are called 'posterior'"):
        makers_of([POSTERIOR, POSTERIOR])
    shutil.copy(PACKAGED / "incidents.yaml", tmp_path / "random.yaml")
    with pytest.raises(BadInput, match="two policies are called 'random'"):
        makers_of([str(tmp_path / "random.yaml")])
    refused(
        backburn("benchmark", "--split", "iid,other", "--run-dir", tmp_path / "x"),
        2,
        "--split other",
        "allowed are iid",
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("policies", "splits", "said"),
    [
        ([], ["iid"], "--policies names none"),
        (["ucb", "ucb"], ["iid"], "--policies ucb, ucb; allowed is each of them once"),
        (["ucb"], ["iid", "iid"], "--split iid, iid; allowed are .*, each once"),
        (["ucb"], ["iid"], "--run-dir .*taken: cannot be made: File exists"),
    ],
)
def test_what_would_be_done_twice_or_cannot_be_kept_is_refused(tmp_path, policies, splits, said):
    (tmp_path / "taken").touch()
    with pytest.raises(BadInput, match=said):
        compare(policies, splits, tmp_path / "taken", Console(quiet=True), clusters=4, threads=1)
