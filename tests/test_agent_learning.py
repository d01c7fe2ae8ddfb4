"""What the policies draw from is what they say they draw from."""

from __future__ import annotations

import numpy as np
import pytest

from agent.build.simulated import chaos_env
from agent.learning import thompson
from agent.learning.thompson import ThompsonPolicy
from envs.encoding import OBSERVED_ARM


def test_thompson_draws_from_the_posterior_of_its_regression():
    """Against the closed form; the draws are made another way, which never builds the covariance."""
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    env.close()
    weak = observation["arms"][..., OBSERVED_ARM.index("weakness")]
    weak[0, 0, 0], weak[1, 0, 0] = 1 / 8, 2 / 8
    features, prior_sd = thompson._design(observation)
    rows, times = features[[0, np.ravel_multi_index((1, 0, 0), weak.shape)]], np.array([1.0, 2.0])
    precision = np.diag(prior_sd**-2) + rows.T @ (rows * (times / thompson._NOISE_SD**2)[:, None])
    covariance = np.linalg.inv(precision)
    pull = rows.T @ (times / thompson._NOISE_SD**2 * (1.0 - thompson._PRIOR_MEAN))
    mean = thompson._PRIOR_MEAN + features @ covariance @ pull
    deviation = np.sqrt(np.einsum("ij,jk,ik->i", features, covariance, features))

    policy = ThompsonPolicy(np.random.default_rng(0))
    draws = np.stack([policy._draw(observation).ravel() for _ in range(4000)])
    for share, z in ((0.25, -0.6745), (0.5, 0.0), (0.75, 0.6745)):
        # Odds are cut off at both ends, which moves no quantile in between.
        expected = np.clip(mean + z * deviation, 0.01, 0.99)
        assert np.quantile(draws, share, axis=0) == pytest.approx(expected, abs=0.04)
