"""The head learns whether one cluster is like those that were learnt on, and only from what was told there."""

from __future__ import annotations

import math

import pytest
import torch

from agent.learning.arms import Surroundings
from agent.learning.head import Head
from agent.learning.posterior import ArmNetwork, PosteriorPolicy
from agent.learning.ppo.choosing import PpoPolicy, new_policy
from agent.learning.regression import Prior, regressed
from envs import encoding
from envs.encoding import OBSERVED_ARM
from envs.simulator.campaigns import Campaigns
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


def shown(seen):
    around = Surroundings.of(seen)
    return regressed(around.components, around.arms, Prior()).flatten(1).float()


def test_beforehand_either_is_as_likely_and_what_is_believed_lies_half_way(seen):
    seen, allowed = seen
    head, odds = Head(), odds_like(allowed)
    for _ in range(2):  # nothing was told in between
        believed = head.corrected(Surroundings.of(seen), odds)
        assert torch.allclose(head.alike, torch.tensor(0.5))
        assert torch.allclose(believed, torch.where(allowed, 0.5 * odds + 0.5 * shown(seen), 0.0))


@pytest.mark.parametrize(("thought", "column", "more_alike"), [(0.02, WEAKNESS, False), (0.02, RESILIENT, True)])
def test_who_foresees_an_outcome_better_is_held_to_be_likelier(seen, thought, column, more_alike):
    """By Bayes' rule: the odds of both change by how likely each held what came."""
    seen, allowed = seen
    allowed = torch.ones_like(allowed)
    head, odds = Head(), odds_like(allowed, thought)
    head.corrected(Surroundings.of(seen), odds)
    by_itself = float(shown(seen)[0, 0])
    head.corrected(Surroundings.of(told(seen, 0, column)), odds)
    ratio = thought / by_itself if column == WEAKNESS else (1.0 - thought) / (1.0 - by_itself)
    assert torch.allclose(head.alike, torch.tensor(ratio / (1.0 + ratio)))
    assert bool((head.alike > 0.5).all()) == more_alike


def test_outcomes_that_nobody_had_expected_leave_the_network_behind(seen):
    """Kinds of weakness that never occurred where it learnt: it goes on to believe in none of them."""
    seen, allowed = seen
    allowed = torch.ones_like(allowed)
    head, odds = Head(), odds_like(allowed, 0.01)
    head.corrected(Surroundings.of(seen), odds)
    for arm in range(0, 60, 20):
        seen = told(seen, arm, WEAKNESS)
        believed = head.corrected(Surroundings.of(seen), odds)
    assert (head.alike < 0.001).all()
    assert torch.allclose(believed, shown(seen), atol=1e-3)


def test_nothing_is_held_to_be_impossible(seen):
    seen, allowed = seen
    allowed = torch.ones_like(allowed)
    head, odds = Head(), odds_like(allowed, 1e-9)
    head.corrected(Surroundings.of(seen), odds)
    head.corrected(Surroundings.of(told(seen, 0, WEAKNESS)), odds)
    assert torch.allclose(head.alike.logit(), torch.tensor(math.log(1e-3) - math.log(0.3)), atol=0.2)


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
    assert (there[there > 0] != late[there > 0]).all()


def test_what_was_masked_stays_so_and_teaches_nothing(seen):
    seen, allowed = seen
    head = Head()
    odds = odds_like(allowed & (torch.arange(allowed.shape[1]) > 0))
    head.corrected(Surroundings.of(seen), odds)
    after = head.corrected(Surroundings.of(told(seen, 0, WEAKNESS)), odds)
    assert torch.allclose(head.alike, torch.tensor(0.5))
    assert (after[odds == 0] == 0).all()


def test_another_cluster_begins_anew(seen):
    seen, allowed = seen
    head, odds = Head(), odds_like(allowed)
    head.corrected(Surroundings.of(seen), odds)
    head.corrected(Surroundings.of(told(seen, int(allowed[0].nonzero()[0]), WEAKNESS)), odds)
    fewer = {name: values[:2] for name, values in seen.items()}
    head.corrected(Surroundings.of(fewer), odds[:2])
    assert torch.allclose(head.alike, torch.full((2,), 0.5))


@pytest.mark.parametrize("shows", ["other roles", "less told"])
def test_other_clusters_in_the_same_place_begin_anew(seen, shows):
    """As simulated campaigns that restart: what was looked at before is written over."""
    seen, allowed = seen
    head, odds, arm = Head(), odds_like(allowed), int(allowed[0].nonzero()[0])
    head.corrected(Surroundings.of(seen), odds)
    seen["arms"].copy_(told(seen, arm, WEAKNESS)["arms"])
    head.corrected(Surroundings.of(seen), odds)
    assert not torch.allclose(head.alike, torch.tensor(0.5))
    if shows == "other roles":
        seen["components"].copy_(seen["components"].flip(0))
        seen["arms"].copy_(told(seen, arm, WEAKNESS)["arms"])
    else:
        seen["arms"].copy_(told(seen, arm, WEAKNESS, times=-1)["arms"])
    head.corrected(Surroundings.of(seen), odds)
    assert torch.allclose(head.alike, torch.tensor(0.5))


def test_what_many_clusters_show_is_what_each_of_them_shows(seen):
    """All at once or one by one, however many arms were tried on the others."""
    seen, _ = seen
    for cluster, tries in enumerate((0, 1, 3, 2)):
        for arm in range(tries):
            column = WEAKNESS if arm % 2 else RESILIENT
            seen["arms"].flatten(1, 3)[cluster, 7 * arm, column] += 1 / 8.0
    alone = [shown({name: values[n : n + 1] for name, values in seen.items()}) for n in range(4)]
    assert torch.allclose(shown(seen), torch.cat(alone), atol=1e-6)
