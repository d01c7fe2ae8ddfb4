"""What the policies draw from is what they say they draw from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actuators.errors import BadInput
from agent.build.simulated import chaos_env
from agent.learning import regression
from agent.learning.arms import Arms
from agent.learning.policy import require_sense
from agent.learning.reasons import Explainer
from agent.learning.regression import Prior
from agent.learning.rivals import RoundRobinPolicy
from agent.learning.thompson import ThompsonPolicy
from agent.learning.worth import worth_of
from envs import encoding
from envs.encoding import OBSERVED_ARM
from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator

PRIOR = Prior()


def drawn(policy, observation):
    """Returns what a policy draws when it chooses, shape (arms,)."""
    seen = {name: torch.as_tensor(values)[None] for name, values in observation.items()}
    return policy._odds(seen, policy._random).flatten().numpy()


def test_thompson_draws_from_the_posterior_of_its_regression():
    """Against the closed form; the draws are made another way, which never builds the covariance."""
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    env.close()
    weak = observation["arms"][..., OBSERVED_ARM.index("weakness")]
    weak[0, 0, 0], weak[1, 0, 0] = 1 / 8, 2 / 8
    seen = {name: torch.as_tensor(values)[None] for name, values in observation.items()}
    cells, arms = weak[..., 0].size, weak.size
    design = regression._Design(seen["components"], Arms.of(seen), PRIOR)
    shared, sd = design.rows(torch.arange(arms)[None])[0].numpy(), design.prior_sd.numpy()
    features = np.hstack([shared, np.eye(cells).repeat(arms // cells, axis=0), np.eye(arms)])
    prior_sd = np.concatenate([sd, np.full(cells, PRIOR.kind_sd), np.full(arms, PRIOR.arm_sd)])
    rows, times = features[[0, np.ravel_multi_index((1, 0, 0), weak.shape)]], np.array([1.0, 2.0])
    precision = np.diag(prior_sd**-2) + rows.T @ (rows * (times / PRIOR.noise_sd**2)[:, None])
    covariance = np.linalg.inv(precision)
    pull = rows.T @ (times / PRIOR.noise_sd**2 * (1.0 - PRIOR.mean))
    mean = PRIOR.mean + features @ covariance @ pull
    deviation = np.sqrt(np.einsum("ij,jk,ik->i", features, covariance, features))

    policy = ThompsonPolicy(np.random.default_rng(0))
    draws = np.stack([drawn(policy, observation) for _ in range(4000)])
    for share, z in ((0.25, -0.6745), (0.5, 0.0), (0.75, 0.6745)):
        # Odds are cut off at both ends, which moves no quantile in between.
        expected = np.clip(mean + z * deviation, 0.01, 0.99)
        assert np.quantile(draws, share, axis=0) == pytest.approx(expected, abs=0.04)


def test_what_thompson_believes_is_the_middle_of_what_it_draws_and_takes_no_draw():
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    mask = env.action_masks()
    env.close()
    observation["arms"][0, 0, 0, OBSERVED_ARM.index("weakness")] = 2 / 8
    policy, other = ThompsonPolicy(np.random.default_rng(0)), ThompsonPolicy(np.random.default_rng(0))
    odds = policy.odds(observation, mask)
    assert odds == pytest.approx(np.median([drawn(other, observation) for _ in range(4000)], axis=0), abs=0.05)
    fresh = ThompsonPolicy(np.random.default_rng(0))
    assert policy.choose(observation, mask) == fresh.choose(observation, mask)


def test_no_policy_is_asked_about_what_is_no_number_or_without_a_way_to_stop():
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    mask = env.action_masks()
    env.close()
    require_sense(observation, mask)
    with pytest.raises(BadInput, match="the mask does not allow to stop"):
        require_sense(observation, np.zeros_like(mask))
    observation["arms"][0, 0, 0, 0] = np.nan
    with pytest.raises(BadInput, match="observation 'arms' holds values that are no numbers"):
        require_sense(observation, mask)


@pytest.mark.parametrize("believes", [True, False])
def test_a_reason_says_what_was_believed_and_what_others_would_take(believes):
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    mask = env.action_masks()
    env.close()
    policy = ThompsonPolicy(np.random.default_rng(0)) if believes else RoundRobinPolicy()
    action = int(np.flatnonzero(mask)[3])
    explainer = Explainer(policy, {"round_robin": RoundRobinPolicy(), "fixed": Fixed(action)}, "arm {}".format)
    reason = explainer.reason(observation, mask, action)
    assert reason.rivals == {"round_robin": f"arm {RoundRobinPolicy().choose(observation, mask)}", "fixed": "the same"}
    assert (reason.odds is not None) == (reason.gain is not None) == believes
    if believes:
        assert reason.odds == pytest.approx(policy.odds(observation, mask)[action])
        assert reason.gain == pytest.approx(policy.worth(observation, mask)[action] * reason.minutes)
    assert str(reason).startswith("held to be weak with a probability of" if believes else "its turn, for about")
    assert reason.minutes == pytest.approx(env.code.decode(action).duration_s / 60.0 + 0.5, abs=0.01)
    assert explainer.reason(observation, mask, len(mask) - 1) is None


def test_a_reason_counts_the_wait_for_a_component_that_was_hit_just_now():
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    mask = env.action_masks()
    env.close()
    action = int(np.flatnonzero(mask)[3])
    component = np.unravel_index(action, observation["arms"].shape[:3])[0]
    policy = ThompsonPolicy(np.random.default_rng(0))

    def reason():
        return Explainer(policy, {}, str).reason(observation, mask, action)

    fresh = reason()
    observation["arms"][component, ..., OBSERVED_ARM.index("minutes_since")] = 0.0
    waits = reason()
    assert waits.minutes == pytest.approx(fresh.minutes + 1.0)
    assert waits.gain == pytest.approx(fresh.gain, abs=1e-6)


class Fixed:
    """Always takes the same action."""

    def __init__(self, action: int) -> None:
        self._action = action

    def choose(self, observation, mask) -> int:
        return self._action


def test_a_milder_level_of_what_is_confirmed_is_nothing_new_whatever_a_network_thinks():
    """Shrinking shows that milder levels are weak, too; nobody who learnt on simulated campaigns has ever seen that."""
    campaigns = Campaigns(pool_of(Generator((6, 8)), 1, seed=1), 1, seed=0)
    seen = {name: values.clone() for name, values in encoding.seen(campaigns.state).items()}
    arms = seen["arms"]
    arms[0, 0, 0, 2, OBSERVED_ARM.index("confirmed")] = 1.0
    arms[0, 0, 0, 1, OBSERVED_ARM.index("weakness")] = 1 / 8
    odds = torch.full(arms.shape[:4], 0.9)
    worth = worth_of(seen["components"], Arms.of(seen), odds, torch.zeros(arms.shape[:2]), torch.ones_like(odds))[0, 0]
    assert worth[0, 2] == 0.0
    assert 0.0 < worth[0, 1] < 0.2 * worth[1, 1]
