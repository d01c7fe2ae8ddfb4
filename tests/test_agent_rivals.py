"""What others choose by: legal, as it is told of them, and no worse than it has to be."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from actuators.catalogue import CATALOGUE, LEVELS
from actuators.errors import BadInput
from agent.learning.arena import compared, floored, greedily, knowing, one_by_one, randomly, tallied
from agent.learning.floor import FlooredPolicy
from agent.learning.incident import Incident, IncidentPolicy, incidents_in
from agent.learning.policy_file import read
from agent.learning.posterior import ArmNetwork
from agent.learning.ppo.choosing import preferring
from agent.learning.ppo.set_policy import SetPolicy
from agent.learning.reasons import Explainer
from agent.learning.rivals import GeneticPolicy, RoundRobinPolicy, UcbPolicy
from agent.learning.thompson import ThompsonPolicy
from agent.settings import PACKAGED
from envs import encoding
from envs.encoding import BUDGET_FEATURES, OBSERVED_ARM, ROLES
from envs.simulator.campaigns import ARMS_OF_ONE, Campaigns
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator

PUBLISHED = incidents_in(PACKAGED / "incidents.yaml")
RIVALS = [GeneticPolicy, UcbPolicy, partial(IncidentPolicy, PUBLISHED), lambda _: RoundRobinPolicy()]
COLUMN = {name: index for index, name in enumerate(OBSERVED_ARM)}


@pytest.fixture(scope="module")
def pool():
    return pool_of(Generator((6, 8)), 32, seed=1)


def first_look(pool):
    campaigns = Campaigns(pool, 1, seed=0)
    return {name: values[0].numpy() for name, values in encoding.seen(campaigns.state).items()}, campaigns


def tell(observation, action, **columns):
    row = observation["arms"].reshape(-1, observation["arms"].shape[-1])[action]
    for name, value in columns.items():
        row[COLUMN[name]] = value


@pytest.mark.parametrize("rival", RIVALS)
def test_nothing_that_is_masked_is_chosen_and_with_nothing_left_it_stops(pool, rival):
    observation, campaigns = first_look(pool)
    mask, policy, random = campaigns.masks()[0].numpy(), rival(np.random.default_rng(0)), np.random.default_rng(1)
    for _ in range(100):
        fewer = mask & (random.random(len(mask)) < 0.1)
        fewer[-1] = True
        action = policy.choose(observation, fewer)
        assert fewer[action]
        if action < len(mask) - 1:
            tell(observation, action, tried=1 / 8, resilient=1 / 8, effect_last=0.4)
    nothing = np.zeros_like(mask)
    nothing[-1] = True
    assert policy.choose(observation, nothing) == len(mask) - 1


@pytest.mark.parametrize("rival", RIVALS)
def test_what_has_just_shown_a_weakness_is_tried_again_until_it_is_confirmed(pool, rival):
    observation, campaigns = first_look(pool)
    mask, policy = campaigns.masks()[0].numpy(), rival(np.random.default_rng(0))
    action = policy.choose(observation, mask)
    tell(observation, action, tried=1 / 8, weakness=1 / 8, evidence=0.5)
    assert policy.choose(observation, mask) == action
    tell(observation, action, tried=2 / 8, weakness=2 / 8, evidence=1.0, confirmed=1.0)
    assert policy.choose(observation, mask) != action


def test_every_kind_has_its_turn_before_any_has_another(pool):
    observation, campaigns = first_look(pool)
    mask, policy = campaigns.masks()[0].numpy(), RoundRobinPolicy()
    of_kind = np.arange(len(mask) - 1) % ARMS_OF_ONE // len(LEVELS)
    kinds = np.unique(of_kind[mask[:-1]])
    turns = []
    for _ in range(2 * len(kinds)):
        action = policy.choose(observation, mask)
        tell(observation, action, tried=1 / 8, resilient=1 / 8)
        turns.append(of_kind[action])
    assert sorted(turns[: len(kinds)]) == sorted(turns[len(kinds) :]) == kinds.tolist()


def test_genes_of_the_fittest_are_the_commonest(pool):
    observation, campaigns = first_look(pool)
    mask, policy = campaigns.masks()[0].numpy(), GeneticPolicy(np.random.default_rng(0))
    shape = observation["arms"].shape[:3]
    fittest = 0
    for turn in range(10):
        action = policy.choose(observation, mask)
        tell(observation, action, tried=1 / 8, resilient=1 / 8, effect_last=0.9 if turn == 0 else 0.0)
        fittest = action if turn == 0 else fittest
    component, kind, _ = np.unravel_index(fittest, shape)
    policy._breed(observation, mask[:-1])
    children = [np.unravel_index(child, shape) for child in policy._waiting]
    assert len(children) == 10
    # Targets are drawn anew in about a third of them, kinds in half.
    assert sum(child[0] == component for child in children) >= 4
    assert sum(child[1] == kind for child in children) >= 2


def test_the_genetic_algorithm_runs_nothing_twice_that_was_borne(pool):
    observation, campaigns = first_look(pool)
    mask, policy = campaigns.masks()[0].numpy(), GeneticPolicy(np.random.default_rng(0))
    chosen = []
    for _ in range(60):
        chosen.append(policy.choose(observation, mask))
        tell(observation, chosen[-1], tried=1 / 8, resilient=1 / 8, effect_last=0.3)
    assert len(set(chosen)) == 60


def test_kinds_that_paid_are_chosen_more_often(pool):
    observation, campaigns = first_look(pool)
    mask, policy = campaigns.masks()[0].numpy(), UcbPolicy(np.random.default_rng(0))
    shape = observation["arms"].shape[:3]
    arms_of = mask[:-1].reshape(shape).sum((0, 2))
    paying = int(arms_of.argmax())
    kinds = []
    for _ in range(3 * int((arms_of > 0).sum())):
        action = policy.choose(observation, mask)
        kinds.append(int(np.unravel_index(action, shape)[1]))
        if kinds[-1] == paying:
            tell(observation, action, tried=2 / 8, weakness=2 / 8, confirmed=1.0)
        else:
            tell(observation, action, tried=1 / 8, resilient=1 / 8)
    counts = np.bincount(kinds, minlength=shape[1])
    assert (counts[arms_of > 0] > 0).all(), "none is forgotten"
    assert counts[paying] < arms_of[paying], "it could have been chosen more often"
    assert counts[paying] > np.delete(counts, paying).max()


@pytest.mark.parametrize("rival", RIVALS)
def test_it_finds_more_than_chance(pool, rival):
    """Chance never repeats, so that what it finds is hardly ever confirmed."""
    choosers = {
        "random": randomly(0),
        "rival": one_by_one([rival(np.random.default_rng(seed)) for seed in range(len(pool))]),
        "oracle": knowing,
    }
    torch.manual_seed(0)
    figures = compared({name: [tallied(choose, pool, budget_min=30.0, seed=3)] for name, choose in choosers.items()})
    assert figures["rival"]["low"] > 0.0, figures


def test_what_is_found_after_the_minutes_counts_nowhere(pool):
    tally = tallied(knowing, pool, budget_min=3.0, seed=1)
    assert (tally.curve[:, -1] > 0).any()
    assert ((tally.curve[:, -1] > 0) == (tally.weaknesses > 0)).all()


@pytest.mark.parametrize("name", ["posterior", "ppo"])
def test_what_is_shipped_finds_more_than_thompson_and_learns_nothing_meanwhile(name):
    path = PACKAGED / "policies" / f"{name}.safetensors"
    network = read(path, SetPolicy if name == "ppo" else ArmNetwork)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pool = pool_of(Generator((6, 12)), 96, seed=1_000_003)
    chosen = preferring(network) if name == "ppo" else greedily(network)
    thompson = one_by_one([ThompsonPolicy(np.random.default_rng(seed)) for seed in range(len(pool))])
    area, other = (tallied(choose, pool, budget_min=20.0, seed=7).area.mean() for choose in (chosen, thompson))
    assert area > 1.1 * other, (area, other)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_incidents_are_drawn_as_often_as_they_have_happened(pool):
    """Three times as many crashes of trainers as slow links, and nothing else: that is what is tried."""
    observation, campaigns = first_look(pool)
    mask = campaigns.masks()[0].numpy()
    shape = observation["arms"].shape[:3]
    kinds = list(CATALOGUE)
    roles = observation["components"][:, :7].argmax(1)
    incidents = [Incident(kind="pod.pause", role="model-server", count=30), Incident(kind="network.delay", count=10)]
    drawn = Counter()
    for seed in range(600):
        action = IncidentPolicy(incidents, np.random.default_rng(seed)).choose(observation, mask)
        component, kind, _ = np.unravel_index(action, shape)
        drawn[kinds[kind]] += 1
        assert kinds[kind] == "network.delay" or ROLES[roles[component]] == "model-server"
    assert set(drawn) == {"pod.pause", "network.delay"}
    there = {int(role) for role in roles[mask[:-1].reshape(shape)[:, kinds.index("network.delay")].any(1)]}
    expected = 30.0 / (30.0 + 10.0 * len(there) / 7)
    assert drawn["pod.pause"] / 600 == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("incidents: []", "at least 1 item"),
        ("{}", "'incidents' is missing"),
        ("[]", "expected a mapping"),
        ("incidents: [{kind: pod.melt, count: 1}]", "unknown fault kind"),
        ("incidents: [{kind: pod.kill, role: cook, count: 1}]", "unknown role"),
        ("incidents: [{kind: pod.kill, count: 0}]", "greater than 0"),
        ("incidents: [{kind: pod.kill, count: .nan}]", "finite"),
        ("incidents: [{kind: pod.kill, cuont: 1}]", "is missing|did you mean 'count'"),
        ("incidents: {", "is not YAML"),
        (None, "cannot read the incidents"),
    ],
)
def test_a_malformed_file_of_incidents_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "incidents.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=message) as refused:
        incidents_in(path)
    assert str(path) in str(refused.value)


class Always:
    """A policy that would take the same experiment for ever."""

    def __init__(self, action: int) -> None:
        self.action = action

    def choose(self, observation, mask) -> int:
        return self.action


def test_thousands_give_way_as_one_does(pool):
    alone = one_by_one([FlooredPolicy(RoundRobinPolicy())] * len(pool))
    together = floored(one_by_one([RoundRobinPolicy()] * len(pool)))
    campaigns, gave_way = Campaigns(pool, len(pool), seed=0, clusters=torch.arange(len(pool)), restarts=False), 0
    for _ in range(24):
        actions = together(campaigns)
        assert torch.equal(actions, alone(campaigns))
        gave_way += int((actions != one_by_one([RoundRobinPolicy()] * len(pool))(campaigns)).sum())
        campaigns.step(actions)
    assert gave_way > 2 * len(pool)


def test_whose_turn_it_is_is_no_choice_of_the_policys_and_said_to_be_none(pool):
    observation, campaigns = first_look(pool)
    mask = campaigns.masks()[0].numpy()
    policy = FlooredPolicy(ThompsonPolicy(np.random.default_rng(0)))
    explainer = Explainer(policy, {}, str)
    for so_far, turn in ((4, False), (5, True)):
        observation["budget"][BUDGET_FEATURES.index("experiments")] = so_far / 64
        reason = explainer.reason(observation, mask, policy.choose(observation, mask))
        assert reason.new_kind == turn
        assert str(reason).startswith("never tried here, and so its turn; held to be" if turn else "held to be")


def test_the_floor_goes_on_after_as_many_experiments_as_a_budget_counts(pool):
    observation, campaigns = first_look(pool)
    mask = campaigns.masks()[0].numpy()
    observation["budget"][BUDGET_FEATURES.index("experiments")] = 1.0
    arms = np.flatnonzero(mask[:-1])
    policy = FlooredPolicy(Always(int(arms[0])))
    turns = []
    for tries in range(64, 80):
        for arm, count in zip(arms, np.bincount(np.arange(tries) % 10, minlength=10), strict=False):
            tell(observation, arm, tried=min(8, count) / 8)
        turns.append(policy.gives_way(observation, mask))
    assert 2 <= sum(turns) <= 3, turns


@pytest.mark.parametrize("rival", RIVALS)
def test_what_was_weak_is_tried_again_though_a_try_came_to_nothing_and_not_once_it_was_borne(pool, rival):
    observation, campaigns = first_look(pool)
    mask = campaigns.masks()[0].numpy()
    action = int(np.flatnonzero(mask)[3])
    policy = rival(np.random.default_rng(0))
    tell(observation, action, tried=2 / 8, weakness=1 / 8)
    assert policy.choose(observation, mask) == action
    tell(observation, action, tried=3 / 8, resilient=1 / 8)
    chosen = [policy.choose(observation, mask) for _ in range(20)]
    assert chosen.count(action) < 10


def test_every_sixth_choice_goes_to_a_kind_that_was_never_tried_until_there_is_none(pool):
    observation, campaigns = first_look(pool)
    mask, shape = campaigns.masks()[0].numpy(), observation["arms"].shape[:3]
    favourite = int(np.flatnonzero(mask)[0])
    policy = FlooredPolicy(Always(favourite))
    tell(observation, favourite, tried=1 / 8, resilient=1 / 8)
    tried = {np.unravel_index(favourite, shape)[1]}
    there = set(np.flatnonzero(mask[:-1].reshape(shape).any((0, 2))))
    for so_far in range(6 * len(there)):
        observation["budget"][BUDGET_FEATURES.index("experiments")] = so_far % 60 / 64
        action = policy.choose(observation, mask)
        assert mask[action]
        if so_far % 6 != 5 or tried == there:
            assert action == favourite
            continue
        component, kind, level = np.unravel_index(action, shape)
        assert kind not in tried
        assert level == np.flatnonzero(mask[:-1].reshape(shape)[component, kind]).max(), "at its strongest"
        tried.add(kind)
        tell(observation, action, tried=1 / 8, resilient=1 / 8)
    assert tried == there
