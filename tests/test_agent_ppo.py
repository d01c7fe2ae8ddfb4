"""PPO on simulated clusters: its two paths are one, its probabilities are such, and it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.buffers import RolloutBuffer

from agent.learning.ppo.choosing import new_policy
from agent.learning.ppo.device import DevicePPO, DeviceRolloutBuffer
from agent.learning.ppo.looks import Kept, looks_at
from agent.learning.ppo.set_policy import SetPolicy
from agent.learning.ppo.vec_env import CampaignsVecEnv
from envs import encoding
from envs.chaos import Reward
from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator, Structure

SMALL = Generator((6, 8))
EASY = replace(SMALL, only=frozenset({"redundancy", "canary_gate"}), prevalence=1.0, structure=Structure.none())


@pytest.fixture(scope="module")
def pool():
    return pool_of(SMALL, 64, seed=1)


def campaigns_on(pool, count=8, seed=0):
    return Campaigns(pool, count, seed=seed, budget_min=(5.0, 10.0))


def device_ppo(pool, count=8, **kwargs):
    settings = {"n_steps": 12, "batch_size": 32, "n_epochs": 2, "seed": 3, "gamma": 0.99}
    return DevicePPO(campaigns_on(pool, count), **settings | kwargs)


def collected(model):
    """Fills the buffer of a model once, as `learn` would."""
    _, callback = model._setup_learn(10**6)
    torch.manual_seed(11)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def test_the_path_in_numpy_and_the_one_on_the_device_are_the_same(pool):
    """Stock MaskablePPO, its buffer and its loop, against ours, with one seed."""
    ours = device_ppo(pool)
    stock = MaskablePPO(
        SetPolicy, CampaignsVecEnv(campaigns_on(pool)), n_steps=12, batch_size=32, n_epochs=2, seed=3, gamma=0.99
    )
    stock.policy.load_state_dict(ours.policy.state_dict())
    here, there = collected(ours), collected(stock)
    assert np.array_equal(here._numbers["actions"].numpy(), there.actions.squeeze(-1))
    assert np.array_equal(here._numbers["rewards"].numpy(), there.rewards)
    assert here.values == pytest.approx(there.values, abs=1e-5)
    assert here._numbers["log_prob"].numpy() == pytest.approx(there.log_probs, abs=1e-5)
    assert here._numbers["advantages"].numpy() == pytest.approx(there.advantages, abs=1e-4)
    assert here.returns == pytest.approx(there.returns, abs=1e-4)
    assert here._numbers["over"].sum() > 0, "campaigns ended on the way"


def test_advantages_are_those_of_stable_baselines(pool):
    model = device_ppo(pool)
    buffer = collected(model)
    theirs = RolloutBuffer(
        12, model.observation_space["budget"], model.action_space, gae_lambda=model.gae_lambda, gamma=0.99, n_envs=8
    )
    over = buffer._numbers["over"].numpy()
    theirs.rewards, theirs.values = buffer._numbers["rewards"].numpy(), buffer.values
    theirs.episode_starts = np.concatenate([np.zeros((1, 8)), over[:-1]])
    looks = looks_at(encoding.seen(model.campaigns.state), model.campaigns.masks())
    with torch.no_grad():
        last = model.policy.choose(looks, deterministic=True)[1]
    theirs.compute_returns_and_advantage(last, over[-1])
    assert buffer._numbers["advantages"].numpy() == pytest.approx(theirs.advantages, abs=1e-5)


def test_what_is_kept_judges_as_what_was_seen(pool):
    model = device_ppo(pool)
    looks = looks_at(encoding.seen(model.campaigns.state), model.campaigns.masks())
    with torch.no_grad():
        actions, values, log_prob, kept = model.policy.choose(looks)
        again = model.policy.judge(kept, actions)
        seen = model.policy.evaluate_actions(
            encoding.seen(model.campaigns.state), actions, model.campaigns.masks().numpy()
        )
    assert torch.allclose(again[0], values, atol=1e-6)
    assert torch.allclose(again[1], log_prob, atol=1e-6)
    assert torch.allclose(seen[1], log_prob, atol=1e-6)
    assert torch.allclose(seen[2], again[2], atol=1e-6)


def test_the_probabilities_of_all_actions_sum_to_one_and_of_masked_ones_to_nothing(pool):
    model = device_ppo(pool, count=4)
    seen, masks = encoding.seen(model.campaigns.state), model.campaigns.masks()
    actions = torch.arange(masks.shape[1])
    for row in range(4):
        many = {name: values[row : row + 1].expand(len(actions), *values.shape[1:]) for name, values in seen.items()}
        with torch.no_grad():
            _, log_prob, _ = model.policy.evaluate_actions(many, actions, masks[row].expand(len(actions), -1))
        odds = log_prob.exp()
        assert float(odds.sum()) == pytest.approx(1.0, abs=1e-4)
        assert float(odds[~masks[row]].sum()) == pytest.approx(0.0, abs=1e-6)


@torch.no_grad()
def test_of_a_million_drawn_actions_none_is_masked(pool):
    torch.manual_seed(5)
    campaigns, policy, drawn, different = campaigns_on(pool, count=1024), new_policy(8), 0, 0
    for _ in range(32):
        looks, masks = policy.looks_on(campaigns), campaigns.masks()
        for _ in range(32):
            actions = policy.choose(looks)[0]
            assert masks.gather(1, actions[:, None]).all()
            drawn += len(actions)
        different += len(actions.unique())
        assert not campaigns.step(actions).refused.any()
    assert drawn > 1_000_000
    assert different > 3200, "it is no policy that always does the same"


def test_what_only_the_critic_may_know_changes_no_choice(pool):
    model = device_ppo(pool, policy_kwargs={"privileged": True})
    looks, outlook = model.policy.looks_on(model.campaigns), model.campaigns.outlook()
    chosen = []
    with torch.no_grad():
        for shown in (outlook, torch.zeros_like(outlook), None):
            torch.manual_seed(5)
            chosen.append(model.policy.choose(looks, outlook=shown))
        judged = [model.policy.judge(kept, actions) for actions, _, _, kept in chosen]
    for other, again in zip(chosen[1:], judged[1:], strict=True):
        assert torch.equal(other[0], chosen[0][0])
        assert torch.equal(other[2], chosen[0][2])
        assert not torch.equal(other[1], chosen[0][1]), "the critic does look at it"
        assert all(torch.equal(here, there) for here, there in zip(again[1:], judged[0][1:], strict=True))


def test_a_policy_is_kept_without_its_privileged_critic(pool):
    model = device_ppo(pool, policy_kwargs={"privileged": True})
    collected(model)
    model.train()
    kept = new_policy(model.policy.hidden)
    kept.load_state_dict(model.policy.acting())
    with torch.no_grad():
        here = model.policy.choose(model.policy.looks_on(model.campaigns), deterministic=True)[0]
        there = kept.choose(kept.looks_on(model.campaigns), deterministic=True)[0]
    assert torch.equal(here, there)


def test_one_policy_serves_clusters_of_any_size_and_order(pool):
    policy = device_ppo(pool).policy
    large = campaigns_on(pool_of(Generator((20, 24)), 16, seed=2), 4)
    seen, masks = encoding.seen(large.state), large.masks()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = {
        "components": seen["components"][:, order],
        "graph": seen["graph"][:, order][:, :, order],
        "arms": seen["arms"][:, order],
        "budget": seen["budget"],
    }
    arms = masks[:, :-1].view(4, 24, -1)
    moved = torch.cat([arms[:, order].flatten(1), masks[:, -1:]], dim=1)
    with torch.no_grad():
        here = policy.choose(looks_at(seen, masks), deterministic=True)
        there = policy.choose(looks_at(shuffled, moved), deterministic=True)
    assert torch.allclose(here[1], there[1], atol=1e-5)
    assert torch.allclose(here[2], there[2], atol=1e-5)


def test_with_nothing_allowed_it_stops(pool):
    model = device_ppo(pool)
    masks = torch.zeros_like(model.campaigns.masks())
    masks[:, -1] = True
    with torch.no_grad():
        actions, _, log_prob, _ = model.policy.choose(looks_at(encoding.seen(model.campaigns.state), masks))
    assert (actions == model.campaigns.stop).all()
    assert torch.allclose(log_prob, torch.zeros_like(log_prob), atol=1e-5)


def test_where_to_go_on_does_not_decide_whether_to_stop(pool):
    """Whatever makes all components less attractive does not end the campaign."""
    policy, campaigns = new_policy(16, teacher=8), campaigns_on(pool)
    stops = torch.full((8,), campaigns.stop)
    kept = policy.looks_on(campaigns).at(torch.zeros(8, dtype=torch.long))
    with torch.no_grad():
        before = policy.judge(kept, stops)[1]
        policy.network.choice.bias.sub_(20.0)
        shunned = policy.judge(kept, stops)[1]
        policy.network.stop.bias.add_(1.0)
        tired = policy.judge(kept, stops)[1]
    assert torch.allclose(before, shunned, atol=1e-4)
    assert (tired > before + 0.9).all()


def test_who_is_not_likely_to_stop_goes_on_however_many_share_what_is_left():
    """One component in fifty is less likely than to stop, where that is as likely as one in twenty."""
    many = pool_of(Generator((48, 64)), 8, seed=3)
    policy, campaigns = new_policy(16, teacher=8), campaigns_on(many)
    with torch.no_grad():
        policy.network.log_sharpness.fill_(-20.0)
        for stop, wanted in ((-3.0, False), (1.0, True)):
            policy.network.stop.bias.fill_(stop)
            actions = policy.choose(policy.looks_on(campaigns), deterministic=True)[0]
            assert bool((actions == campaigns.stop).all()) is wanted
            assert bool((actions == campaigns.stop).any()) is wanted


def test_on_a_leash_the_entropy_says_how_far_it_has_strayed(pool):
    model, usual = device_ppo(pool), device_ppo(pool).policy
    usual.load_state_dict(model.policy.state_dict())
    looks = looks_at(encoding.seen(model.campaigns.state), model.campaigns.masks())
    with torch.no_grad():
        actions, _, _, kept = model.policy.choose(looks)
        alone = model.policy.judge(kept, actions)
        model.policy.leashed_to(usual)
        kept = model.policy.on_leash(kept, actions)
        near = model.policy.judge(kept, actions)
        model.policy.network.choice.weight.mul_(3.0)
        far = model.policy.judge(kept, actions)
    assert (alone[2] > 0.0).all()
    assert torch.equal(near[1], alone[1])
    assert torch.allclose(near[2], torch.zeros(8), atol=1e-6)
    assert (far[2] < -1e-6).all()
    assert len(list(model.policy.parameters())) == len(list(usual.parameters())), "the leash is no part of the policy"


def test_nobody_is_alone_in_a_minibatch(pool):
    """The spread of one advantage is no number, and every weight would be none."""
    model = DevicePPO(Campaigns(pool, 5), n_steps=13, batch_size=32, n_epochs=1, seed=3)
    model.learn(65)
    assert [len(samples.actions) for samples in model.rollout_buffer.get(32)] == [32, 33]
    assert [len(samples.actions) for samples in model.rollout_buffer.get(30)] == [30, 30, 5]
    assert all(bool(torch.isfinite(weights).all()) for weights in model.policy.parameters())


def test_the_buffer_is_allocated_once(pool):
    model = device_ppo(pool)
    first = [each.data_ptr() for each in collected(model)._kept]
    assert isinstance(model.rollout_buffer, DeviceRolloutBuffer)
    assert [each.data_ptr() for each in collected(model)._kept] == first


@pytest.mark.timeout(240)
def test_it_learns():
    """Two protections are often absent, and nothing else is: who has learnt which, earns more."""
    # Nothing has a price here: where minutes do, the first thing that anybody learns is to stop.
    campaigns = Campaigns(
        pool_of(EASY, 256, seed=4), 128, seed=0, budget_min=(10.0, 15.0), reward=Reward(per_minute=0.0, blast=0.0)
    )
    model = DevicePPO(campaigns, n_steps=16, batch_size=512, n_epochs=4, seed=3, learning_rate=3e-3, ent_coef=0.003)
    earned = []
    model.learn(128 * 16 * 30, callback=lambda local, _: not earned.append(float(local["rewards"].mean())))
    first, last = np.mean(earned[:48]), np.mean(earned[-48:])
    assert last > first + 0.02, (first, last)
    kept = Kept(*model.rollout_buffer._kept)
    shows = model.rollout_buffer._weak[kept.open].float().mean()
    knowing_how_often = -float(shows * shows.log() + (1 - shows) * (1 - shows).log())
    assert model.logger.name_to_value["train/weak_loss"] < knowing_how_often, "it knows more than how many are weak"


def test_a_saved_model_goes_on_where_it_was(pool, tmp_path):
    model = device_ppo(pool)
    model.learn(8 * 12)
    model.save(tmp_path / "model")
    other = device_ppo(pool)
    learnt, fresh = (of.policy.network.of_component.weight for of in (model, other))
    assert not torch.equal(learnt, fresh)
    other.set_parameters(tmp_path / "model.zip")
    assert torch.equal(learnt, other.policy.network.of_component.weight)


@pytest.mark.parametrize("name", ["luck", "unwrapped"])
def test_the_vector_environment_has_no_more_than_it_says(pool, name):
    env = CampaignsVecEnv(campaigns_on(pool))
    with pytest.raises(AttributeError, match=name):
        env.get_attr(name)
    with pytest.raises(AttributeError, match=name):
        env.env_method(name)
    with pytest.raises(AttributeError, match="cannot be set"):
        env.set_attr(name, 1)
    assert env.has_attr("action_masks")
