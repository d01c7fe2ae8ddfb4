"""What learns on a processor learns on a GPU: the same looks, the same choices, and policies that need no card.

Needs what `test_gpu` needs: `make test-gpu`.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from agent.learning.arena import floored, randomly, tallied
from agent.learning.arms import Surroundings
from agent.learning.floor import RARELY
from agent.learning.policy_file import read, store
from agent.learning.posterior import ArmNetwork, odds_of
from agent.learning.ppo.choosing import preferring
from agent.learning.ppo.device import DevicePPO
from agent.learning.ppo.practice import FolderKeeper, Practice, _model, practised
from agent.learning.ppo.set_policy import SetPolicy
from agent.learning.train import Lessons, taught
from agent.settings import PACKAGED
from envs.encoding import ROLES
from envs.history import by_kind, in_role
from envs.simulator.campaigns import Campaigns
from envs.simulator.gym_env import SimulatedChaosEnv
from envs.simulator.pool import pool_of
from tests.test_agent_practice import BRIEF, SMALL
from tests.test_gpu import why_not

pytestmark = pytest.mark.gpu

CARD = "cuda"
STEPS = 32


@pytest.fixture(autouse=True)
def _on_a_gpu() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def pool():
    return pool_of(SMALL, 64, seed=1)


def shipped(name: str, kind: type) -> torch.nn.Module:
    return read(PACKAGED / "policies" / f"{name}.safetensors", kind).eval().requires_grad_(requires_grad=False)


def test_the_same_campaigns_look_the_same_and_the_same_is_chosen(pool):
    here, there = Campaigns(pool, 64, seed=0), Campaigns(pool.to(CARD), 64, seed=0)
    choose = randomly(0)
    for _ in range(12):
        here.step(choose(here))
    there.restore(here.saved() | {"luck": there.saved()["luck"]})
    assert torch.equal(here.masks(), there.masks().cpu())
    network, policy = shipped("posterior", ArmNetwork), shipped("ppo", SetPolicy)
    odds = odds_of(network, Surroundings.on(here), here.masks()[:, :-1]).weak
    chosen, values, log_prob, _ = policy.choose(policy.looks_on(here), deterministic=True)
    network, policy = network.to(CARD), policy.to(CARD)
    torch.testing.assert_close(
        odds_of(network, Surroundings.on(there), there.masks()[:, :-1]).weak.cpu(), odds, rtol=1e-3, atol=1e-4
    )
    on_card = policy.choose(policy.looks_on(there), deterministic=True)
    # Where two choices are worth the same, either may come first.
    same = on_card[0].cpu() == chosen
    assert same.float().mean() > 0.95
    torch.testing.assert_close(on_card[1].cpu(), values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_card[2].cpu()[same], log_prob[same], rtol=1e-2, atol=1e-2)


def test_what_is_kept_on_the_card_is_what_the_history_says(pool):
    campaigns, choose = Campaigns(pool.to(CARD), 256, seed=7, budget_min=(5.0, 8.0)), randomly(5)
    ended = 0
    for _ in range(20):
        ended += int(campaigns.step(choose(campaigns)).over.sum())
        kinds = by_kind(campaigns.state.history)
        role = campaigns.state.components[..., : len(ROLES) + 1]
        torch.testing.assert_close(campaigns.by_kind, kinds)
        torch.testing.assert_close(campaigns.in_role, in_role(role, kinds))
        assert torch.equal(campaigns.able, campaigns.state.available.any((-1, -2)))
    assert ended, "campaigns began anew on the way"


def test_campaigns_on_the_card_show_as_much_as_on_the_processor(pool):
    def shown(on) -> tuple[float, float, float]:
        campaigns, choose = Campaigns(on, 2048, seed=3), randomly(5)
        steps = [campaigns.step(choose(campaigns)) for _ in range(40)]
        found, weak, over = (
            sum(float(of.float().mean()) for of in each)
            for each in zip(*((step.found > 0, step.weak, step.over) for step in steps), strict=True)
        )
        return found, weak, over

    found, *often = zip(shown(pool), shown(pool.to(CARD)), strict=True)
    assert found[1] == pytest.approx(found[0], rel=0.25)  # some hundreds, and their luck is another
    for here, there in often:
        assert there == pytest.approx(here, rel=0.1)


def by_itself(pool) -> tuple[DevicePPO, int]:
    """Returns PPO alone, and what it waits for in a step: which campaigns ended."""
    return DevicePPO(Campaigns(pool.to(CARD), 256), n_steps=STEPS, batch_size=1024, n_epochs=1), 1


def beside_its_teacher(pool) -> tuple[DevicePPO, int]:
    """Returns PPO as it is trained, and what it waits for: how many arms its teacher looks at, as well."""
    practice = Practice(batch=256, rollout=STEPS, minibatch=1024)
    return _model(pool.to(CARD), practice, shipped("posterior", ArmNetwork).to(CARD), rank=0), 2


@pytest.mark.parametrize("made", [by_itself, beside_its_teacher])
def test_a_rollout_copies_nothing_and_waits_for_a_number_or_two_a_step(pool, made):
    """Whatever else the host waits for would leave the card idle in every step."""
    model, each_step = made(pool)
    _, callback = model._setup_learn(256 * STEPS)
    model.collect_rollouts(None, callback, model.rollout_buffer, STEPS)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")  # which says once that it is a prototype
            model.collect_rollouts(None, callback, model.rollout_buffer, STEPS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in said if "called a synchronizing" in str(one.message)]
    assert waits, "it has to see those that there are"
    at_the_end = 8
    assert len(waits) <= each_step * STEPS + at_the_end, {f"{wait.filename}:{wait.lineno}" for wait in waits}


def test_what_ships_is_judged_and_learns_on_the_card(pool):
    campaigns = Campaigns(pool.to(CARD), 64, seed=0)
    policy = shipped("ppo", SetPolicy).to(CARD)
    tally = tallied(floored(preferring(policy, learns=True), RARELY), pool.to(CARD), budget_min=20.0, seed=1)
    chance = tallied(randomly(0), pool.to(CARD), budget_min=20.0, seed=1)
    assert tally.area.mean() > chance.area.mean()
    DevicePPO(campaigns, weak_epochs=1, n_steps=8, batch_size=64, n_epochs=1).learn(1024)


def test_an_environment_takes_a_pool_that_is_on_the_card(pool):
    env = SimulatedChaosEnv(pool=pool.to(CARD))
    env.reset(seed=0)
    observation, *_ = env.step(np.flatnonzero(env.action_masks())[0])
    assert env.observation_space.contains(observation)


def test_what_learns_on_the_card_goes_on_after_a_cut_and_is_read_without_one(pool, tmp_path):
    losses, steps = [], []
    teacher = taught(pool.to(CARD), Lessons(steps=200, batch=64), lambda progress: losses.append(progress.loss))
    assert losses[-1] < losses[0]
    aside = pool_of(SMALL, 8, seed=2).to(CARD)

    def trained(tell):
        return practised(pool.to(CARD), aside, BRIEF, teacher, FolderKeeper(tmp_path), {"origin": "these"}, tell)

    def cut(standing):
        steps.append(standing.step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(cut)
    policy = trained(lambda standing: steps.append(standing.step))
    assert steps == sorted(set(steps))
    assert steps[-1] == BRIEF.steps
    path = tmp_path / "policy.safetensors"
    store(policy.cpu(), path, {})
    campaigns = Campaigns(pool, 64, seed=0)
    assert int(preferring(read(path, SetPolicy))(campaigns).max()) <= campaigns.stop
