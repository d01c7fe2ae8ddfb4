"""Training by PPO from a teacher on: it begins as its teacher, strays by what pays, and survives being cut off."""

from __future__ import annotations

import csv
import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from actuators.errors import BadInput
from agent.alone import alone
from agent.learning.arena import greedily
from agent.learning.policy_file import policy_in, read, store
from agent.learning.posterior import ArmNetwork
from agent.learning.ppo.checkpoint import NAME, require_same
from agent.learning.ppo.choosing import PpoPolicy, new_policy, preferring
from agent.learning.ppo.device import DevicePPO
from agent.learning.ppo.practice import FolderKeeper, Practice, _model, practised
from agent.learning.ppo.set_policy import SetPolicy
from agent.learning.reasons import Believes
from agent.learning.school import _require
from agent.settings import PACKAGED
from envs import encoding
from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator
from tests.test_agent_cli import backburn, refused

SMALL = Generator((6, 8))
BRIEF = Practice(steps=48, batch=16, rollout=8, minibatch=64, epochs=1, critic_first=1, judged_every=2, hidden=8)


@pytest.fixture(scope="module")
def pool():
    return pool_of(SMALL, 64, seed=1)


@pytest.fixture(scope="module")
def teacher():
    return read(PACKAGED / "policies" / "posterior.safetensors", ArmNetwork).eval()


def trained(pool, teacher, folder, practice=BRIEF, tell=lambda _: None, origin="these clusters"):
    return practised(pool, pool_of(SMALL, 8, seed=2), practice, teacher, FolderKeeper(folder), {"origin": origin}, tell)


def taught_by(teacher):
    policy = new_policy(16, teacher.hidden)
    policy.network.teacher.load_state_dict(teacher.state_dict())
    return policy


def test_those_who_learn_together_play_campaigns_of_their_own(pool, teacher):
    one, again, other = (_model(pool, BRIEF, teacher, rank) for rank in (0, 0, 1))
    assert torch.equal(one.campaigns.cluster, again.campaigns.cluster)
    assert not torch.equal(one.campaigns.cluster, other.campaigns.cluster)
    weights = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in weights)
    lucks = {of.campaigns._random.initial_seed() for of in (one, other)}
    assert len(lucks | {BRIEF.seed}) == 3, "nor is it the luck by which the clusters were drawn"


def test_it_begins_as_its_teacher(pool, teacher):
    campaigns = Campaigns(pool, 32, seed=2)
    policy, best = taught_by(teacher), greedily(teacher)
    with torch.no_grad():
        for _ in range(8):
            wanted = best(campaigns)
            assert torch.equal(preferring(policy)(campaigns), wanted)
            campaigns.step(wanted)


def test_what_it_draws_is_nearly_as_good(pool, teacher):
    """It has to see other ends than its teacher's, and not throw away what that knows."""
    campaigns = Campaigns(pool, 256, seed=2)
    policy = taught_by(teacher)
    actions, *_ = policy.choose(policy.looks_on(campaigns))
    agreed = float((actions == greedily(teacher)(campaigns)).float().mean())
    assert 0.05 < agreed < 0.9
    assert float((actions == campaigns.stop).float().mean()) < 0.05


def test_cut_off_and_gone_on_it_ends_where_it_would_have(pool, teacher, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = []

    def tell(standing):
        told.append(standing)
        if len(told) == 1:
            shutil.copytree(whole, cut)

    trained(pool, teacher, whole, tell=tell)
    assert [standing.step for standing in told] == [16, 32, 48]
    # Whoever goes on has another past: nothing of it may matter.
    torch.manual_seed(99)
    trained(pool, teacher, cut)
    here, there = load_file(whole / NAME), load_file(cut / NAME)
    assert here.keys() == there.keys()
    assert [name for name in here if not torch.equal(here[name], there[name])] == []


def test_one_that_is_done_is_not_done_again(pool, teacher, tmp_path):
    first = trained(pool, teacher, tmp_path / "it").state_dict()
    told = []
    again = trained(pool, teacher, tmp_path / "it", tell=told.append).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert told == []


@pytest.mark.parametrize("has_teacher", [False, True])
def test_while_the_critic_learns_no_choice_changes(pool, teacher, has_teacher):
    def played(critic_first):
        model = DevicePPO(
            Campaigns(pool, 8, seed=0),
            critic_first=critic_first,
            n_steps=8,
            batch_size=32,
            n_epochs=1,
            seed=3,
            policy_kwargs={"teacher": teacher.hidden, "privileged": True} if has_teacher else {},
        )
        if has_teacher:
            model.policy.network.teacher.load_state_dict(teacher.state_dict())
        campaigns = Campaigns(pool, 64, seed=9)
        chosen = preferring(model.policy)(campaigns)
        before = {name: value.clone() for name, value in model.policy.state_dict().items()}
        model.learn(64)
        after = model.policy.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        return changed, torch.equal(preferring(model.policy)(campaigns), chosen)

    changed, same = played(1)
    assert same
    assert ("network.critic.layers.0.weight" if has_teacher else "network.value.0.weight") in changed
    changed, _ = played(0)
    assert "network.choice.weight" in changed
    assert not any(name.startswith("network.teacher.") for name in changed)


def test_who_hurries_is_paid_less_for_what_is_found_late(pool, teacher):
    def earned(hurries):
        campaigns, settings = Campaigns(pool, 32, seed=0), {"n_steps": 24, "batch_size": 64, "n_epochs": 1, "seed": 3}
        network = {"hidden": 8, "teacher": teacher.hidden}
        model = DevicePPO(campaigns, hurries=hurries, policy_kwargs=network, **settings)
        model.policy.network.teacher.load_state_dict(teacher.state_dict())
        _, callback = model._setup_learn(10**6)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 24)
        return model.rollout_buffer._numbers["rewards"]

    usual, hurried = earned(hurries=False), earned(hurries=True)
    found = usual > 0
    assert found.sum() >= 10
    assert (hurried >= 0.0).all()
    assert not hurried[~found].any()
    assert (hurried[found] > 0.0).float().mean() > 0.8, "but for what is found when the minutes are over"
    assert (hurried[found] < usual[found] + 0.2).all()  # an experiment costs less than that
    assert float(hurried[found].mean()) < float(usual[found].mean())


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "practice", "complaint"),
    [
        (cut_off, BRIEF, "cannot be read"),
        (lambda path: path.write_text("no checkpoint"), BRIEF, "cannot be read"),
        (lambda path: None, replace(BRIEF, leash=0.5), "other settings"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_clear_error(pool, teacher, tmp_path, harm, practice, complaint):
    trained(pool, teacher, tmp_path, replace(BRIEF, steps=16))
    # Steps are settings as well: only the same training goes on.
    harm(tmp_path / NAME)
    with pytest.raises(BadInput, match=complaint) as error:
        trained(pool, teacher, tmp_path, replace(practice, steps=16))
    assert "\n" not in str(error.value)


def test_a_training_on_other_clusters_or_from_another_teacher_does_not_go_on(pool, teacher, tmp_path):
    brief = replace(BRIEF, steps=16)
    trained(pool, teacher, tmp_path, brief)
    with pytest.raises(BadInput, match="other settings"):
        trained(pool, teacher, tmp_path, brief, origin="other clusters")


def test_a_folder_of_a_groups_training_is_no_folder_of_one_alone(tmp_path):
    of_two, of_one = ({"workers": workers, "over_ray": True} for workers in (2, 1))
    for folder, group in ((tmp_path / "two", of_two), (tmp_path / "one", of_one)):
        folder.mkdir()
        require_same(folder, Practice(), {"clusters": 1}, **group)
        require_same(folder, Practice(), {"clusters": 1}, **group)
        with pytest.raises(BadInput, match="other settings"):
            require_same(folder, Practice(), {"clusters": 1})


def test_settings_that_cannot_be_read_are_of_another_training(tmp_path):
    (tmp_path / "training.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="other settings"):
        require_same(tmp_path, Practice(), {"clusters": 1})


# ---- the policy that comes of it ------------------------------------------------------------------------------------


@pytest.fixture
def campaigns(pool):
    return Campaigns(pool, 16, seed=2)


def one_of(campaigns, row):
    seen = {name: values[row].numpy() for name, values in encoding.seen(campaigns.state).items()}
    return seen, campaigns.masks()[row].numpy()


def test_on_one_cluster_it_chooses_what_it_would_choose_among_many(campaigns):
    torch.manual_seed(0)
    network = new_policy(16)
    policy = PpoPolicy(network)
    for _ in range(4):
        wanted = preferring(network)(campaigns)
        assert [policy.choose(*one_of(campaigns, row)) for row in range(16)] == wanted.tolist()
        campaigns.step(wanted)


def test_its_odds_are_odds(campaigns):
    torch.manual_seed(0)
    policy = PpoPolicy(new_policy(16))
    assert isinstance(policy, Believes)
    observation, mask = one_of(campaigns, 0)
    odds = policy.odds(observation, mask)
    assert odds.shape == (len(mask) - 1,)
    assert ((odds > 0) == mask[:-1]).all()
    assert (odds < 1).all()


def test_it_never_chooses_what_is_masked_and_stops_when_all_is(campaigns):
    policy, random = PpoPolicy(new_policy(16)), np.random.default_rng(0)
    observation, mask = one_of(campaigns, 0)
    for _ in range(50):
        fewer = mask & (random.random(len(mask)) < 0.05)
        fewer[-1] = True
        assert fewer[policy.choose(observation, fewer)]
    nothing = np.zeros_like(mask)
    nothing[-1] = True
    assert policy.choose(observation, nothing) == len(mask) - 1


@pytest.mark.parametrize("teacher_hidden", [None, 24])
def test_what_is_stored_is_read(tmp_path, campaigns, teacher_hidden):
    torch.manual_seed(0)
    network, path = new_policy(16, teacher_hidden), tmp_path / "it.safetensors"
    store(network, path, {})
    wanted = preferring(network)(campaigns)
    assert torch.equal(preferring(read(path, SetPolicy))(campaigns), wanted)
    assert policy_in(path).choose(*one_of(campaigns, 0)) == int(wanted[0])
    with pytest.raises(BadInput, match="of sort 'ppo'; allowed is posterior"):
        read(path, ArmNetwork)


def test_training_from_a_teacher_writes_down_how_it_went(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.learning.school._CLUSTERS", 64)
    monkeypatch.setattr("agent.learning.school._HELD_OUT", 8)
    monkeypatch.setattr("agent.learning.school._ASIDE", 8)
    from agent.learning import school

    out, teacher = tmp_path / "it.safetensors", PACKAGED / "policies" / "posterior.safetensors"
    school.train_ppo(
        BRIEF, SMALL, out, Console(quiet=True), teacher=teacher, folder=tmp_path / "run", device="cpu", threads=1
    )
    record = json.loads(out.with_suffix(".json").read_text())["training"]
    assert set(record["held_out"]["figures"]) >= {"random", "thompson", "static", "posterior", "ppo", "oracle"}
    assert record["teacher"] == json.loads(teacher.with_suffix(".json").read_text())["sha256"]
    assert isinstance(policy_in(out), PpoPolicy)
    assert record["went_on"] is False
    with (tmp_path / "run" / "log-0" / "progress.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["aside/area"]) < 1.0, "the last look is kept as well"
    assert int(last["time/total_timesteps"]) == BRIEF.experiments
    (events,) = (tmp_path / "run" / "log-0").glob("events.out.tfevents.*")
    assert b"aside/area" in events.read_bytes(), "for TensorBoard"


def test_two_do_not_learn_in_one_folder(tmp_path):
    """Whoever comes second touches nothing: the first one's Ray would be taken for what a dead one has left."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "ray-folder").write_text("/tmp/bb-of-the-first\n")
    command = ("train", "--algorithm", "ppo", "--run-dir", str(run), "--out", str(tmp_path / "it.safetensors"))
    with alone(run / "lock", BadInput):
        refused(backburn(*command), 2, f"a training (pid {os.getpid()}) is at work in {run} already")
    assert sorted(path.name for path in run.iterdir()) == ["lock", "ray-folder"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "run").write_text("a file")
    command = (
        "train",
        "--algorithm",
        "ppo",
        "--run-dir",
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "it.safetensors"),
    )
    refused(backburn(*command), 2, "--run-dir", "cannot be made or written: File exists")


@pytest.mark.parametrize(
    ("beside", "said"),
    [('{"sha256": "of a training that could not end"}', None), ('{"auc": 1}', "describes no policy"), ("[]", "object")],
)
def test_what_stands_beside_a_policy_is_not_replaced_by_its_record(tmp_path, beside, said):
    (tmp_path / "it.json").write_text(beside)
    with nullcontext() if said is None else pytest.raises(BadInput, match=said):
        _require(tmp_path / "it.safetensors", "cpu", 0)


def test_every_worker_needs_a_card_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    _require(tmp_path / "it.safetensors", "cuda", 0, workers=1)
    with pytest.raises(BadInput, match=r"--workers 2: PyTorch sees 1 GPU\(s\) here, and each needs one"):
        _require(tmp_path / "it.safetensors", "cuda", 0, workers=2)


def test_without_a_teacher_it_is_one_line(tmp_path):
    out = tmp_path / "it.safetensors"
    refused(
        backburn("train", "--algorithm", "ppo", "--teacher", str(tmp_path / "nobody.safetensors"), "--out", str(out)),
        2,
        "no nobody.json beside it",
    )
    assert not out.exists()
