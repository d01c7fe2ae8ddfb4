"""The head learns what one cluster has of its own, and only from what was told there."""

from __future__ import annotations

import pytest
import torch

from agent.learning.arms import Surroundings
from agent.learning.head import HEAD_FEATURES, Head
from agent.learning.posterior import ArmNetwork, PosteriorPolicy
from agent.learning.ppo.choosing import PpoPolicy, new_policy
from envs import encoding
from envs.encoding import FAMILIES, OBSERVED_ARM, ROLES
from envs.simulator.campaigns import ARMS_OF_ONE, Campaigns
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator

WEAKNESS, RESILIENT = (OBSERVED_ARM.index(name) for name in ("weakness", "resilient"))


@pytest.fixture
def seen():
    campaigns = Campaigns(pool_of(Generator((6, 8)), 4, seed=1), 4, seed=0, clusters=torch.arange(4))
    return {name: values.clone() for name, values in encoding.seen(campaigns.state).items()}, campaigns.masks()[:, :-1]


def told(seen, arm, column, times=1):
    """Returns what is seen after one more outcome on an arm of every cluster."""
    after = {name: values.clone() for name, values in seen.items()}
    after["arms"].flatten(1, 3)[:, arm, column] += times / 8.0
    return after


def odds_like(allowed, value=0.2):
    return torch.where(allowed, value, 0.0)


def test_before_anything_is_told_nothing_changes(seen):
    seen, allowed = seen
    head = Head()
    odds = odds_like(allowed)
    assert torch.allclose(head.corrected(Surroundings.of(seen), odds), odds)
    assert torch.allclose(head.corrected(Surroundings.of(seen), odds), odds)


@pytest.mark.parametrize(("column", "sign"), [(WEAKNESS, 1.0), (RESILIENT, -1.0)])
def test_an_outcome_moves_the_odds_of_its_like_most(seen, column, sign):
    seen, allowed = seen
    allowed = torch.ones_like(allowed)
    head, odds = Head(), odds_like(allowed)
    head.corrected(Surroundings.of(seen), odds)
    moved = sign * (head.corrected(Surroundings.of(told(seen, 0, column)), odds) - odds)
    assert (moved > 0).all()  # all clusters lack more, or less, than was thought
    role = seen["components"][..., : len(ROLES) + 1]
    like = (role @ role[:, :1].transpose(1, 2)).squeeze(-1) > 0
    family = seen["arms"][:, 0, :, 0, : len(FAMILIES)]
    same_family = (family @ family[:, :1].transpose(1, 2)).squeeze(-1) > 0
    per_kind = moved.view(4, -1, ARMS_OF_ONE // 3, 3)[..., 0]
    checked = 0
    for cluster in range(4):
        if like[cluster].all() or not like[cluster].any():  # all alike, or nothing in that place
            continue
        checked += 1
        of_both = per_kind[cluster][like[cluster]][:, same_family[cluster]]
        of_neither = per_kind[cluster][~like[cluster]][:, ~same_family[cluster]]
        assert of_both.min() > of_neither.max()
    assert checked


def test_an_outcome_that_was_thought_likely_moves_less(seen):
    seen, allowed = seen
    allowed = torch.ones_like(allowed)

    def weight(thought):
        head = Head()
        head.corrected(Surroundings.of(seen), odds_like(allowed, thought))
        head.corrected(Surroundings.of(told(seen, 0, WEAKNESS)), odds_like(allowed, thought))
        return float(head._mean[:, 0].mean())

    assert weight(0.9) < weight(0.5) < weight(0.1)


@pytest.mark.parametrize(
    ("policy", "network"), [(PosteriorPolicy, ArmNetwork()), (PpoPolicy, new_policy(32, teacher=64))]
)
def test_a_policy_for_one_cluster_has_one(seen, policy, network):
    """It thinks otherwise of the same state if it was there when something was told."""
    seen, allowed = seen
    cluster = int(allowed.any(1).nonzero()[0])
    after = told(seen, int(allowed[cluster].nonzero()[0]), WEAKNESS)
    mask = torch.cat([allowed[cluster], torch.tensor([True])]).numpy()

    def thought(policy, seen):
        return torch.as_tensor(policy.odds({name: values[cluster].numpy() for name, values in seen.items()}, mask))

    witness = policy(network)
    thought(witness, seen)
    there, late = thought(witness, after), thought(policy(network), after)
    assert (there[there > 0] > late[there > 0]).all()


def test_it_agrees_with_the_posterior_that_is_integrated_numerically():
    """One weight alone: the same outcome again and again, against a grid."""
    grid = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)
    thought, outcomes = 0.2, [1.0, 1.0, 0.0, 1.0, 1.0]
    log = -0.5 * grid**2
    for outcome in outcomes:
        p = (torch.logit(torch.tensor(thought, dtype=torch.float64)) + grid).sigmoid()
        log = log + (p if outcome else 1.0 - p).log()
    weights = (log - log.max()).exp()
    exact = float((grid * weights).sum() / weights.sum())
    head = Head(prior_sd=1.0)
    head._mean = torch.zeros((1, len(HEAD_FEATURES)))
    head._covariance = torch.eye(len(HEAD_FEATURES))[None]
    one = torch.zeros((1, len(HEAD_FEATURES)))
    one[0, 0] = 1.0
    for outcome in outcomes:
        head._update(one, torch.tensor([True]), torch.tensor([thought]), torch.tensor([outcome]))
    assert float(head._mean[0, 0]) == pytest.approx(exact, abs=0.15)


def test_what_was_masked_stays_so_and_teaches_nothing(seen):
    seen, allowed = seen
    head = Head()
    odds = odds_like(allowed & (torch.arange(allowed.shape[1]) > 0))
    head.corrected(Surroundings.of(seen), odds)
    after = head.corrected(Surroundings.of(told(seen, 0, WEAKNESS)), odds)
    assert torch.equal(after, head.corrected(Surroundings.of(told(seen, 0, WEAKNESS)), odds))
    assert torch.allclose(after, odds)


def test_another_cluster_begins_anew(seen):
    seen, allowed = seen
    head, odds = Head(), odds_like(allowed)
    head.corrected(Surroundings.of(seen), odds)
    head.corrected(Surroundings.of(told(seen, int(allowed[0].nonzero()[0]), WEAKNESS)), odds)
    fewer = {name: values[:2] for name, values in seen.items()}
    assert torch.allclose(head.corrected(Surroundings.of(fewer), odds[:2]), odds[:2])


@pytest.mark.parametrize("shows", ["other roles", "less told"])
def test_other_clusters_in_the_same_place_begin_anew(seen, shows):
    """As simulated campaigns that restart: what was looked at before is written over."""
    seen, allowed = seen
    head, odds, arm = Head(), odds_like(allowed), int(allowed[0].nonzero()[0])
    head.corrected(Surroundings.of(seen), odds)
    seen["arms"].copy_(told(seen, arm, WEAKNESS)["arms"])
    assert not torch.allclose(head.corrected(Surroundings.of(seen), odds), odds)
    if shows == "other roles":
        seen["components"].copy_(seen["components"].flip(0))
        seen["arms"].copy_(told(seen, arm, WEAKNESS)["arms"])
    else:
        seen["arms"].copy_(told(seen, arm, WEAKNESS, times=-1)["arms"])
    assert torch.allclose(head.corrected(Surroundings.of(seen), odds), odds)
