"""Policies compared on clusters that are there, and again on what these have shown."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from actuators.errors import BackburnError, BadInput
from actuators.fault import Fault, Target
from agent.benchmark import evidence
from agent.benchmark.evidence import outcome_of
from agent.benchmark.figures import lines_of
from agent.benchmark.live import Benchmark, planted
from agent.benchmark.replay import Group, RecordedWorld, replayed
from agent.campaign import Campaign
from agent.findings.ground_truth import SWITCHES
from agent.findings.record import RunFolder, outcome_json
from agent.learning.rivals import RoundRobinPolicy
from agent.settings import Settings, load
from envs.chaos import ChaosEnv
from envs.clusters.simulated.hidden import Hidden
from envs.confirmation import Cell
from envs.experiment import NotSteady
from envs.outcome import Outcome
from envs.recorded import Recorded, RecordedEnv
from envs.scoring import Verdict
from tests.conftest import config_file
from tests.simulation import simulation
from tests.test_agent_cli import backburn, refused

POLICIES = ["random", "oracle"]
WEAK = Hidden({"gateway": 1, "model-server": 1, "feature-store": 1, "trainer": 2}, frozenset({"feature_timeout"}))


def short(folder: Path) -> Settings:
    return load(config_file(folder, campaign={"budget_min": 6.0}))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder of a benchmark; whoever changes it, changes a copy."""
    folder = tmp_path_factory.mktemp("benchmark")
    Benchmark(short(folder), POLICIES, 2, folder / "out", Console(quiet=True)).execute()
    return folder / "out"


def test_every_policy_gets_the_same_planted_weaknesses_and_the_same_minutes(done):
    data = json.loads((done / "benchmark.json").read_text())
    assert data["state"] == "done"
    campaigns = {(campaign["start"], campaign["policy"]): campaign for campaign in data["campaigns"]}
    assert set(campaigns) == {(start, policy) for start in (1, 2) for policy in POLICIES}
    for start in (1, 2):
        weak = {tuple(campaigns[start, policy]["planted"]) for policy in POLICIES}
        assert weak == {tuple(n for n, state in data["clusters"][str(start)]["planted"].items() if state == "weak")}
        assert len({campaigns[start, policy]["budget_min"] for policy in POLICIES}) == 1
    lines = [json.loads(line) for line in (done / "evidence.jsonl").read_text().splitlines()]
    assert Counter(line["policy"] for line in lines) == {row["policy"]: row["experiments"] for row in data["policies"]}


def test_whoever_knows_what_was_planted_finds_some_of_it_and_nothing_else(done):
    rows = {row["policy"]: row for row in json.loads((done / "benchmark.json").read_text())["policies"]}
    assert rows["oracle"]["found"] > 0
    assert rows["oracle"]["found"] >= rows["random"]["found"]
    assert rows["oracle"]["false_alarms"] == 0


def test_planted_switches_are_drawn_by_the_start_and_the_same_for_all(tmp_path):
    settings = load(config_file(tmp_path, "local.yaml"))
    drawn = [planted(settings, 6, seed).cluster.switches for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    for switches in drawn:
        assert list(switches) == list(SWITCHES)
        assert Counter(switches.values()) == {"weak": 6, "hardened": len(SWITCHES) - 6}
    assert planted(settings, 1, 0).campaign == settings.campaign


def test_what_is_planted_says_nothing_of_what_a_policy_will_draw(tmp_path):
    """Both follow from the start's seed: with one stream for both, who draws low would look where switches are weak."""
    settings = load(config_file(tmp_path, "local.yaml"))
    starts = range(400)
    first = np.array([np.random.default_rng(seed).random() for seed in starts])
    switches = [planted(settings, 6, seed).cluster.switches.values() for seed in starts]
    weak = np.array([[state == "weak" for state in drawn] for drawn in switches])
    low = first < 0.2
    shift = np.abs(weak[low].mean(0) - weak[~low].mean(0))
    assert shift.max() < 0.25, shift


@pytest.mark.parametrize(("cluster", "count", "said"), [("local", 99, "--plant 99"), ("simulated", 3, "simulated")])
def test_what_cannot_be_planted_is_one_line(tmp_path, cluster, count, said):
    told = backburn("benchmark", "--cluster", cluster, "--plant", count, "--run-dir", tmp_path / "it")
    refused(told, 2, "--plant", said)
    assert not (tmp_path / "it").exists()


def test_the_table_has_a_line_for_each_policy(done):
    rows = json.loads((done / "benchmark.json").read_text())["policies"]
    lines = lines_of(rows)
    assert lines[0].split()[:6] == ["policy", "area", "found", "missed", "false", "unplanted"]
    path = "configs/policies/ppo.safetensors"
    assert lines_of([row | {"policy": path} for row in rows])[1].split()[0] == path
    for row, line in zip(rows, lines[1:], strict=False):
        assert line.startswith(row["policy"])
        assert f"{row['found']}/{row['planted']}" in line


def test_the_same_seed_replays_the_same_table_and_another_one_another(done):
    first, again, other = (replayed(done, ["random"], seeds=2, budget_min=None, first_seed=seed) for seed in (5, 5, 50))
    assert first == again
    assert first != other


def test_a_replay_heeds_no_variable_of_today(done, monkeypatch):
    recorded = replayed(done, ["random"], seeds=1, budget_min=None, first_seed=5)
    monkeypatch.setenv("BACKBURN_CAMPAIGN__EXPERIMENTS", "1")
    assert replayed(done, ["random"], seeds=1, budget_min=None, first_seed=5) == recorded


def test_a_replay_keeps_to_what_was_tried_and_counts_what_was_not(done):
    told = replayed(done, ["round_robin"], seeds=1, budget_min=None, first_seed=0)
    tried: dict[int, set[Cell]] = {}
    for experiment in evidence.read(done):
        if experiment.outcome.fault is not None:
            tried.setdefault(experiment.start, set()).add(Cell.of(experiment.outcome.fault))
    assert told.offered - told.unknown <= sum(map(len, tried.values()))
    assert 0 < told.unknown < told.offered


def test_what_nobody_ever_tried_is_refused_and_not_made_up(tmp_path):
    live = simulation(short(tmp_path), tmp_path)
    sham = live.experimenter.sham()
    world = recorded_world(short(tmp_path), live, {None: [sham]})
    outcome = world.start(0).run(Fault("pod.pause", Target("gateway"), 1.0, 12.0))
    world.close()
    live.close()
    assert outcome.verdict is Verdict.INVALID
    assert "nobody has ever tried" in str(outcome.refusal)


def recorded_world(settings: Settings, live, recorded: Recorded, seed: int = 0) -> RecordedWorld:
    group = Group(1, {}, live.experimenter.cluster.topology(), recorded)
    return RecordedWorld(settings, group, np.random.default_rng(seed))


def verdicts(env: ChaosEnv, steps: int) -> list[tuple[Cell, Verdict]]:
    """Lets the same policy choose a while; returns what it tried and what that came to by itself."""
    observation, _ = env.reset(seed=0)
    policy, found = RoundRobinPolicy(), []
    for _ in range(steps):
        observation, _, over, _, info = env.step(np.int64(policy.choose(observation, env.action_masks())))
        if over:
            break
        outcome: Outcome = info["outcome"]
        found.append((Cell.of(outcome.fault), outcome.verdict))
    return found


def test_on_a_full_record_a_policy_is_shown_what_the_cluster_shows(tmp_path):
    """Every cell recorded on one cluster; the same policy on another one with the same weaknesses sees the same."""
    settings = short(tmp_path)
    live = simulation(settings, tmp_path / "a", hidden=WEAK, seed=1)
    env = ChaosEnv(live, budget_min=1e6)
    env.reset(seed=0)
    faults = [env.code.decode(int(action)) for action in np.flatnonzero(env.action_masks()[:-1])]
    recorded: dict[Cell | None, list[Outcome]] = {None: [live.experimenter.sham()]}
    for fault in faults:
        outcome = live.experimenter.run(fault)
        recorded[Cell.of(fault)] = [outcome_of(json.loads(json.dumps(outcome_json(outcome))))]
    world = recorded_world(settings, live, recorded)
    replay = RecordedEnv(world, recorded.keys(), budget_min=1e6)
    drawn = verdicts(replay, 60)
    unknown = replay.unknown
    world.close()
    live.close()
    assert unknown == 0

    (tmp_path / "b").mkdir()
    fresh = simulation(short(tmp_path / "b"), tmp_path / "b", hidden=WEAK, seed=2)
    seen = verdicts(ChaosEnv(fresh, budget_min=1e6), 60)
    fresh.close()
    assert len(seen) == len(drawn) == 60
    assert {Verdict.WEAKNESS, Verdict.RESILIENT} <= {verdict for _, verdict in seen}
    there, here = Counter(verdict for _, verdict in seen), Counter(verdict for _, verdict in drawn)
    assert sum(((there - here) + (here - there)).values()) <= 0.2 * 60, (there, here)


def test_draws_have_the_shares_of_the_record(tmp_path):
    settings = short(tmp_path)
    live = simulation(settings, tmp_path, hidden=WEAK)
    fault = Fault("pod.pause", Target("gateway"), 1.0, 12.0)
    weak, sham = live.experimenter.run(fault), live.experimenter.sham()
    mixed = [weak] * 3 + [weak.with_verdict(Verdict.RESILIENT, "a quarter of them")]
    world = recorded_world(settings, live, {None: [sham], Cell.of(fault): mixed})
    experimenter = world.start(0)
    drawn = [experimenter.run(fault).verdict for _ in range(400)]
    world.close()
    live.close()
    # Five standard deviations of a share of a quarter in 400.
    assert abs(drawn.count(Verdict.RESILIENT) / 400 - 0.25) < 0.11


def test_an_outcome_comes_back_from_its_line_as_it_was(tmp_path):
    live = simulation(short(tmp_path), tmp_path, hidden=WEAK)
    for outcome in (live.experimenter.run(Fault("pod.pause", Target("gateway"), 1.0, 12.0)), live.experimenter.sham()):
        line = json.dumps(outcome_json(outcome))
        again = outcome_of(json.loads(line))
        assert outcome_json(again)["evidence"] == outcome_json(outcome)["evidence"]
        assert again.score.tested == outcome.score.tested
        older = {key: value for key, value in json.loads(line).items() if key != "tested"}
        assert outcome_of(older).score.tested == ()
        assert again.score.broken == outcome.score.broken
        assert (again.fault, again.verdict, again.mechanism) == (outcome.fault, outcome.verdict, outcome.mechanism)
    live.close()


def test_a_benchmark_that_was_cut_off_goes_on_and_comes_to_the_same(done, tmp_path):
    whole, folder = json.loads((done / "benchmark.json").read_text()), tmp_path / "out"
    shutil.copytree(done, folder)
    cut_off = whole["campaigns"][-1]
    (folder / "benchmark.json").write_text(json.dumps(whole | {"campaigns": whole["campaigns"][:-1]}))
    Benchmark(load(folder / "settings.yaml"), POLICIES, 2, folder, Console(quiet=True)).execute()
    again = json.loads((folder / "benchmark.json").read_text())
    assert again["campaigns"] == whole["campaigns"]
    assert (folder / f"start-{cut_off['start']}-{cut_off['policy']}-try-2" / "outcomes.jsonl").exists()
    lines = [len((at / "evidence.jsonl").read_text().splitlines()) for at in (done, folder)]
    assert lines[0] == lines[1]


def test_a_campaign_that_was_cut_short_does_not_count_and_is_run_again(tmp_path, monkeypatch):
    loop, begun = Campaign._loop, []

    def unsteady_at_the_second(campaign: Campaign, began_s: float) -> None:
        begun.append(campaign)
        if len(begun) == 2:
            raise NotSteady("the steady state did not hold")
        loop(campaign, began_s)

    monkeypatch.setattr(Campaign, "_loop", unsteady_at_the_second)
    settings, folder = short(tmp_path), tmp_path / "out"
    with pytest.raises(BackburnError, match="was cut short: the steady state did not hold"):
        Benchmark(settings, POLICIES, 1, folder, Console(quiet=True)).execute()
    first = json.loads((folder / "benchmark.json").read_text())
    assert len(first["campaigns"]) == 1
    Benchmark(settings, POLICIES, 1, folder, Console(quiet=True)).execute()
    again = json.loads((folder / "benchmark.json").read_text())
    assert {campaign["policy"] for campaign in again["campaigns"]} == set(POLICIES)
    assert again["clusters"] == first["clusters"]
    assert again["clusters"]["1"]["topology"]["components"]


def test_a_benchmark_goes_on_with_its_own_settings_only(done):
    settings = yaml.safe_load((done / "settings.yaml").read_text())
    settings["campaign"]["budget_min"] = 7.0
    with pytest.raises(BadInput, match="other settings"):
        Benchmark(Settings.model_validate(settings), POLICIES, 2, done, Console(quiet=True))


def test_bad_input_is_one_line(done, tmp_path):
    config = config_file(tmp_path)
    refused(backburn("benchmark", "--config", config, "--policies", "random,clever"), 2, "'clever'", "oracle")
    refused(backburn("benchmark", "--config", config, "--minutes", "-1"), 2, "budget_min")
    refused(backburn("benchmark", "--replay", tmp_path / "nowhere"), 2, "not the folder of a benchmark")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("policies", [[], ["random", "random"]])
def test_each_policy_is_named_once(tmp_path, policies):
    with pytest.raises(BadInput, match="each of them once"):
        Benchmark(short(tmp_path), policies, 1, tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_replay_takes_minutes_that_a_run_would_take(done):
    with pytest.raises(BadInput, match="budget_min"):
        replayed(done, ["random"], seeds=1, budget_min=0.0, first_seed=0)


def test_only_a_benchmark_goes_on_as_one(tmp_path):
    settings = short(tmp_path)
    with pytest.raises(BadInput, match="nothing that could go on"):
        Benchmark(settings, POLICIES, 1, tmp_path, Console(quiet=True))
    RunFolder(tmp_path / "run")
    with pytest.raises(BadInput, match="not the folder of a benchmark"):
        Benchmark(settings, POLICIES, 1, tmp_path / "run", Console(quiet=True))


def test_evidence_that_cannot_be_read_is_named_with_its_line(done, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(done, folder)
    with (folder / "evidence.jsonl").open("a") as file:
        file.write("{}\n")
    number = len((folder / "evidence.jsonl").read_text().splitlines())
    with pytest.raises(BadInput, match=f"line {number} "):
        replayed(folder, ["random"], seeds=1, budget_min=None, first_seed=0)
