"""The simulator: what it draws is plausible, what it shows is what a real cluster would show, and nothing leaks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check

import agent.environments  # noqa: F401 (registers)
from actuators.catalogue import CATALOGUE, LEVELS
from actuators.errors import BadInput
from actuators.fault import Fault, Target
from envs import encoding
from envs.confirmation import Cell, Confirmations
from envs.encoding import COMPONENT_FEATURES, OBSERVED_ARM, ROLES
from envs.history import HISTORY_FEATURES, Shown, Told, after, by_kind, in_role, never_tried
from envs.protections import ALL_ROLES
from envs.scoring import Evidence, Verdict
from envs.scoring.conformal import e_value
from envs.simulator.campaigns import ARMS_OF_ONE, MOST_EXPERIMENTS, Campaigns
from envs.simulator.faults import KINDS
from envs.simulator.gym_env import SimulatedChaosEnv, SimulatedChaosVectorEnv
from envs.simulator.pool import TRUTH, WEAKNESSES, pool_of
from envs.simulator.structure import FAMILIES, Generator, Structure
from safety.guards import judge
from safety.limits import OPT_IN_LABEL, Limits
from safety.vitals import ComponentVitals, Identity, Vitals

SMALL = Generator((6, 16))
NONE = replace(SMALL, structure=Structure.none())


@pytest.fixture(scope="module")
def pool():
    return pool_of(SMALL, 256, seed=1)


def truth(pool, name):
    return pool.truth[..., TRUTH.index(name)]


def random_actions(campaigns, random, *, masked=True):
    masks = campaigns.masks()[:, :-1]
    odds = masks.float() if masked else torch.ones_like(masks, dtype=torch.float32)
    return torch.multinomial(odds, 1, generator=random).squeeze(1)


def feature(pool, name):
    return pool.components[..., COMPONENT_FEATURES.index(name)]


def inside(pool):
    return feature(pool, "ready_share") > 0


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_neither_trivial_nor_hopeless():
    """The share of permitted experiments that would show something: what choosing at random hits."""
    drawn = pool_of(Generator(), 512, seed=2)
    rate = float((drawn.shows.sum(1) / drawn.available.sum(1)).mean())
    assert 0.12 <= rate <= 0.20, rate


@pytest.mark.parametrize("form", FAMILIES)
def test_every_form_of_graph_is_acyclic_and_serves_somebody(form):
    drawn = pool_of(replace(SMALL, families=(form,)), 64, seed=3)
    graph = drawn.graph
    power = graph
    for _ in range(drawn.places):
        power = (power @ graph).clamp(max=1.0)
    assert not power.any(), "there is a cycle"
    alone = (graph.sum(1) == 0) & inside(drawn) & (feature(drawn, "role_trainer") == 0)
    assert (alone.sum(1) == 1).all(), "all but the entry and trainers have somebody who depends on them"
    assert not graph[~inside(drawn)].any()


def test_forms_differ():
    shares = {
        form: float(pool_of(replace(SMALL, families=(form,)), 64, seed=3).graph.sum((1, 2)).mean()) for form in FAMILIES
    }
    assert shares["tree"] < shares["star"] < min(shares["layered"], shares["random"], shares["mesh"]), shares


def test_padding_is_empty(pool):
    nobody = ~inside(pool)
    assert nobody.any()
    assert not pool.components[nobody].any()
    assert not pool.available.view(len(pool), pool.places, -1)[nobody].any()


def test_redundancy_can_be_seen_to_help(pool):
    weak = pool.shows.view(len(pool), pool.places, len(KINDS), len(LEVELS))[:, :, KINDS.index("pod.kill")].any(-1)
    redundant = feature(pool, "redundant") > 0
    rates = [float(weak[inside(pool) & which].float().mean()) for which in (redundant, ~redundant)]
    assert rates[0] < 0.7 * rates[1], rates


def test_shared_causes_make_components_of_a_role_alike():
    """How much more often the second model server lacks what the first one lacks, with shared causes and without."""
    ratios = []
    for shared in (True, False):
        drawn = pool_of(replace(SMALL, structure=replace(Structure.none(), shared_causes=shared)), 1024, seed=4)
        server = feature(drawn, "role_model-server") > 0
        kind = KINDS.index("model.bad_canary")
        lacks = drawn.shows.view(len(drawn), drawn.places, len(KINDS), len(LEVELS))[:, :, kind].any(-1)
        pairs = []
        for index in (server.sum(1) >= 2).nonzero().squeeze(1).tolist():
            pairs.append(lacks[index][server[index]][:2].tolist())
        first, second = np.array(pairs).T
        ratios.append(second[first].mean() - second[~first].mean())
    assert ratios[0] > ratios[1] + 0.1, ratios


@pytest.mark.parametrize("name", ["restart", "canary_gate"])
def test_a_protection_that_is_held_out_is_never_absent(name):
    whole, without = (
        pool_of(generator, 128, seed=5) for generator in (SMALL, replace(SMALL, without=frozenset({name})))
    )
    kind = KINDS.index({"restart": "gpu.memory_pressure", "canary_gate": "model.bad_canary"}[name])
    shown = [p.shows.view(len(p), p.places, len(KINDS), len(LEVELS))[:, :, kind].any() for p in (whole, without)]
    assert [bool(s) for s in shown] == [True, False]


def test_what_is_in_no_list_is_missing_in_other_places_of_every_cluster_and_is_one_gap_per_role():
    """Nothing that is listed is absent here."""
    drawn = pool_of(replace(SMALL, prevalence=-10.0, unlisted=1.0), 256, seed=5)
    number = truth(drawn, "weakness")[drawn.shows]
    role = drawn.components[..., : len(ALL_ROLES)].argmax(-1).repeat_interleave(ARMS_OF_ONE, 1)[drawn.shows]
    per_role = WEAKNESSES // len(ALL_ROLES)
    assert (number % per_role == per_role - 1).float().mean() > 0.95
    assert (number // per_role == role).all()
    weak = drawn.shows.view(256, drawn.places, len(KINDS), len(LEVELS)).any(-1).any(1)
    assert 0.2 < weak.any(1).float().mean() < 1.0
    assert weak.any(0).float().mean() > 0.9, "any kind of fault may show it"
    assert 1.5 < weak[weak.any(1)].sum(1).float().mean() < 6.0, "and few do on one cluster"
    assert (drawn.gaps() > 0).sum(1).max() <= len(ALL_ROLES)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"components": (3, 8)}, "components"),
        ({"components": (12, 8)}, "components"),
        ({"components": (6, 1000)}, "components"),
        ({"families": ("ring",)}, "families"),
        ({"families": ()}, "families"),
        ({"without": frozenset({"luck"})}, "without"),
        ({"only": frozenset({"restart"}), "without": frozenset({"restart"})}, "without"),
        ({"prevalence": float("nan")}, "prevalence"),
        ({"noise": -1.0}, "noise"),
        ({"unlisted": 1.5}, "unlisted"),
    ],
)
def test_an_impossible_generator_is_one_clear_error(given, complaint):
    with pytest.raises(BadInput) as error:
        Generator(**given)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


def test_what_is_seen_of_a_target_says_nothing_of_what_it_lacks():
    """As on the embedded cluster: a killed process is gone, whether somebody stands in for it or not."""
    everything, nothing = (pool_of(replace(SMALL, prevalence=odds), 64, seed=9) for odds in (10.0, -10.0))
    assert truth(everything, "shows").mean() > 100 * truth(nothing, "shows").mean()
    effect = truth(everything, "effect")
    assert torch.equal(effect, truth(nothing, "effect"))
    by_kind = effect.view(64, everything.places, len(KINDS), len(LEVELS))
    assert (by_kind[:, :, KINDS.index("pod.kill")] > 0).all()
    starved = by_kind[:, :, KINDS.index("pod.cpu_stress")] > 0
    assert (starved[..., :-1] <= starved[..., 1:]).all(), "felt from some level on"
    assert 0.0 < starved[..., 0].float().mean() < starved[..., -1].float().mean()


def test_what_breaks_where_nobody_waits_is_half_as_grave(pool):
    grave, score = truth(pool, "severity"), truth(pool, "anomaly_score")
    alone = (pool.graph.sum(1) == 0) & (feature(pool, "role_gateway") == 0) & inside(pool)
    assert 0.05 < alone[inside(pool)].float().mean() < 0.3
    share = (grave / score).view(len(pool), pool.places, -1)
    assert torch.allclose(share[alone], torch.tensor(0.5))
    called = (pool.graph.sum(1) > 0) & inside(pool)
    assert (share[called] == 1.0).float().mean() > 0.8
    assert (share[inside(pool)] >= 0.5).all()


# ---- what is allowed ------------------------------------------------------------------------------------------------

LIMITS = Limits(
    environment="staging",
    cluster_id="it",
    max_instances=1,
    max_share=0.25,
    whole_component=ALL_ROLES,
    irreversible=tuple(CATALOGUE),
)


def test_the_mask_is_what_the_guards_would_say(pool):
    """On 100,000 arms of random clusters: whatever exists and differs from a milder level."""
    random = np.random.default_rng(0)
    replicas = torch.exp2(6.0 * feature(pool, "replicas_log2")).round().long()
    checked = 0
    verdicts: dict[tuple[str, str, float, int], bool] = {}
    for index in range(len(pool)):
        arms = random.choice(pool.places * ARMS_OF_ONE, 700, replace=False)
        for arm in arms.tolist():
            component, rest = divmod(arm, ARMS_OF_ONE)
            kind, level = KINDS[rest // len(LEVELS)], LEVELS[rest % len(LEVELS)]
            if not inside(pool)[index, component]:
                assert not pool.available[index, arm]
                continue
            of_kind = pool.available[index].view(pool.places, len(KINDS), len(LEVELS))[component, rest // len(LEVELS)]
            total = int(replicas[index, component])
            key = (kind, "it", level, total)
            if key not in verdicts:
                verdicts[key] = permitted(kind, level, total)
            if pool.available[index, arm]:
                assert verdicts[key], key
            elif of_kind.any():
                # Offered in another strength: this one is forbidden, or does no more than a milder one.
                milder = [LEVELS.index(other) for other in LEVELS if other < level]
                assert not verdicts[key] or any(of_kind[m] for m in milder), key
            elif CATALOGUE[kind].capability in WHEREVER:
                assert not verdicts[key], f"{key} is possible on everything that there is, and nowhere offered"
            checked += 1
    assert checked >= 100_000


def test_in_whatever_state_the_mask_is_what_the_cluster_offers_and_what_can_be_told(pool):
    """On 100,000 states of random campaigns: no state changes what guards say of an arm on a cluster that is steady."""
    count = 4096
    campaigns, random = Campaigns(pool, count, seed=9), torch.Generator().manual_seed(9)
    weakness = HISTORY_FEATURES.index("weakness")
    shrunk = 0
    for _ in range(25):
        told = (campaigns.state.history[..., weakness] > 0).any(-1)
        untold = torch.zeros_like(told)
        for name, kind in CATALOGUE.items():
            if kind.trigger is not None:
                untold[..., KINDS.index(name)] = told[..., KINDS.index(kind.trigger)]
        offered = pool.available[campaigns.cluster].view(count, pool.places, len(KINDS), len(LEVELS))
        expected = offered & ~untold[..., None]
        assert torch.equal(campaigns.masks()[:, :-1], expected.flatten(1))
        shrunk += int((offered != expected).flatten(1).any(1).sum())
        campaigns.step(random_actions(campaigns, random))
    assert shrunk > 100


WHEREVER = {CATALOGUE[kind].capability for kind in ("pod.kill", "pod.memory_stress")}
"""What every component can be asked for, whatever its role."""


def permitted(kind: str, level: float, total: int) -> bool:
    vitals = Vitals(
        identity=Identity("it", "staging"),
        service_levels={},
        age_s=0.0,
        components={"gateway": ComponentVitals(total=total, ready=total, labels={OPT_IN_LABEL: "true"})},
        open_faults=(),
        quarantined=frozenset(),
        unsteady=(),
        firing_alerts=(),
    )
    fault = Fault(kind, Target("gateway"), level, CATALOGUE[kind].duration_s)
    return judge(fault, vitals, LIMITS) is None


def test_no_sampled_action_is_masked_and_no_masked_one_touches_anything(pool):
    """A million sampled ones, and some thousand forbidden ones. What has become masked meanwhile is refused as well."""
    random, acted = torch.Generator().manual_seed(0), 0
    for seed in range(4):
        campaigns = Campaigns(pool, 4096, seed=seed, restarts=False)
        drawn = torch.multinomial(campaigns.masks()[:, :-1].float(), 64, replacement=True, generator=random)
        for actions in drawn.T:
            allowed = campaigns.masks().gather(1, actions[:, None]).squeeze(1)
            assert torch.equal(campaigns.step(actions).refused, ~allowed)
            acted += int(allowed.sum())
    assert acted > 1_000_000
    before, components = campaigns.state.history.clone(), campaigns.state.components.clone()
    spent = campaigns.spent_min.clone()
    forbidden = torch.multinomial((~campaigns.masks()[:, :-1]).float(), 1, generator=random).squeeze(1)
    step = campaigns.step(forbidden)
    assert step.refused.all()
    assert not step.reward.any()
    assert (step.p == 1.0).all(), "a question that costs nothing is not answered"
    assert torch.equal(campaigns.state.history, before)
    assert torch.equal(campaigns.state.components, components)
    assert torch.equal(campaigns.spent_min, spent)


def test_whoever_asks_for_nothing_but_what_is_masked_comes_to_an_end(pool):
    campaigns = Campaigns(pool, 8, seed=0, restarts=False)
    forbidden = (~campaigns.masks()[:, :-1]).float().argmax(1)
    over = [bool(campaigns.step(forbidden).over.all()) for _ in range(MOST_EXPERIMENTS)]
    assert over == [False] * (MOST_EXPERIMENTS - 1) + [True]
    assert not campaigns.spent_min.any()


# ---- what is shown --------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(Verdict)), st.floats(0, 1), st.floats(0, 1), st.integers(1, 81), st.floats(0.1, 20.0)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_confirmed_in_the_history_is_confirmed_in_the_campaign(experiments):
    """The two who say when a weakness is shown: tensors for thousands, and the record of one campaign."""
    confirmations, rows, now_h = Confirmations(), never_tried(1), torch.zeros(1)
    fault = Fault("pod.kill", Target("gateway"), 0.25, 9.0)
    for verdict, effect, anomaly, beaten_by, cost in experiments:
        p = beaten_by / 81
        e = 0.5 / p**0.5
        e = e if verdict in {Verdict.WEAKNESS, Verdict.INCONCLUSIVE} else min(1.0, e)
        if verdict in {Verdict.INVALID, Verdict.TOOL_ERROR}:
            e = 1.0
        evidence = Evidence(verdict, effect=effect, anomaly_score=anomaly, p=p, e_value=e, cost_min=cost)
        mechanism = "unavailable" if verdict is Verdict.WEAKNESS else None
        confirmations.add(fault, "gateway", evidence, mechanism)
        now_h = now_h + cost / 60.0
        rows = after(rows, Shown.of(evidence), now_h)
    seen = dict(zip(HISTORY_FEATURES, rows[0].tolist(), strict=True))
    replicates = confirmations.cells.get(Cell.of(fault))
    assert seen["tried"] == min(1.0, len(experiments) / 8)
    if replicates is not None and abs(np.log(replicates.e_product) - np.log(20.0)) > 1e-3:
        bounded = -2.0 < seen["evidence"] < 2.0
        if bounded and len(experiments) <= 8:
            running = np.cumsum([np.log(e.e_value) / np.log(20.0) for e in replicates.evidence])
            if (np.abs(running) < 2.0).all():
                assert bool(seen["confirmed"]) == replicates.confirmed


def test_a_broken_promise_is_evidence_as_the_scorer_counts_it_even_where_it_is_undecided(pool):
    campaigns, random = Campaigns(pool, 2048, seed=7), torch.Generator().manual_seed(2)
    steps = [campaigns.step(random_actions(campaigns, random)) for _ in range(10)]
    told, shown_e, p = (
        torch.cat(each) for each in zip(*((s.shown.told, s.shown.e_value, s.p) for s in steps), strict=True)
    )
    for verdict in (Told.WEAKNESS, Told.RESILIENT, Told.UNDECIDED):
        of = (told == verdict) & (p > 0.05 if verdict == Told.UNDECIDED else p > 0)
        expected = torch.tensor([e_value(float(each)) for each in p[of]])
        expected = expected.clamp(max=1.0) if verdict == Told.RESILIENT else expected
        assert int(of.sum()) > 50
        assert torch.allclose(shown_e[of], expected, atol=1e-5)


def test_p_values_lie_on_the_grid_and_are_small_where_something_breaks(pool):
    campaigns = Campaigns(pool, 2048, seed=1)
    random = torch.Generator().manual_seed(1)
    steps = [campaigns.step(random_actions(campaigns, random)) for _ in range(20)]
    p = torch.cat([step.p for step in steps])
    told = torch.cat([step.shown.told for step in steps])
    assert torch.allclose((p * 81).round(), p * 81, atol=1e-3)
    assert p.min() >= 1 / 81 - 1e-6
    weak = torch.cat([step.weak for step in steps])
    assert p[told == Told.WEAKNESS].max() <= 0.05
    assert (p[told == Told.NOTHING] == 1.0).all(), "what came to nothing tells nothing"
    calm = p[~weak & (told != Told.NOTHING)]
    assert abs(float((calm <= 0.05).float().mean()) - 4 / 81) < 0.01, "the null is uniform on the grid"
    assert float((told[weak] == Told.WEAKNESS).float().mean()) > 0.5


def test_without_noise_the_truth_is_what_is_shown():
    campaigns = Campaigns(pool_of(NONE, 64, seed=6), 512, seed=2)
    random = torch.Generator().manual_seed(2)
    for _ in range(10):
        weak = campaigns.would_show()
        actions = random_actions(campaigns, random)
        told = campaigns.step(actions).shown.told
        truly = weak.gather(1, actions[:, None]).squeeze(1)
        assert not (told[~truly] == Told.WEAKNESS).any()
        # What remains is a latent fault whose trigger alone breaks a promise.
        assert set(told[truly].tolist()) <= {Told.WEAKNESS, Told.UNDECIDED}


def test_a_weakness_pays_once_and_stopping_ends():
    drawn = pool_of(NONE, 16, seed=7)
    campaigns = Campaigns(drawn, 16, seed=3, clusters=torch.arange(16), budget_min=(1e3, 1e3))
    eligible = drawn.shows & (truth(drawn, "trigger_shows") == 0)
    arm = eligible.float().argmax(1)
    assert eligible.gather(1, arm[:, None]).all()
    rewards = torch.stack([campaigns.step(arm).reward for _ in range(5)])
    assert ((rewards > 0).sum(0) == 1).all(), "paid in one step, after replicates, and never again"
    step = campaigns.step(torch.full((16,), campaigns.stop))
    assert step.over.all()
    assert not step.reward.any()
    assert not campaigns.spent_min.any(), "and the next campaign has begun"


def test_a_gap_pays_once_whatever_shows_it():
    drawn = pool_of(NONE, 64, seed=7)
    campaigns = Campaigns(drawn, 64, seed=3, clusters=torch.arange(64), budget_min=(1e3, 1e3))
    eligible = drawn.shows & (truth(drawn, "trigger_shows") == 0)
    number = truth(drawn, "weakness").long()
    arm = eligible.float().argmax(1)
    same = number == number.gather(1, arm[:, None])
    index = torch.arange(number.shape[1])
    component, kind = index // ARMS_OF_ONE, index % ARMS_OF_ONE // len(LEVELS)
    other = eligible & same & (kind != kind[arm][:, None]) & (component == component[arm][:, None])
    both = other.any(1)
    assert both.sum() >= 10
    again = other.float().argmax(1)
    assert campaigns.would_pay().gather(1, again[:, None])[both].all()
    paid = sum((campaigns.step(arm).found > 0).int() for _ in range(4))
    assert (paid == 1).all()
    assert not campaigns.would_pay()[same].any()
    assert campaigns.would_show().gather(1, again[:, None])[both].all()
    told = sum((campaigns.step(again).found > 0).int() for _ in range(4))
    assert not told[both].any()


def test_what_it_would_cost_and_earn_is_what_it_costs_and_earns():
    structure = replace(Structure.none(), costs=True)
    drawn = pool_of(replace(SMALL, structure=structure), 64, seed=8)
    campaigns = Campaigns(drawn, 64, seed=4, clusters=torch.arange(64), budget_min=(1e3, 1e3))
    waited = earned = 0
    for _ in range(12):
        cost, earns = campaigns.would_cost(), campaigns.would_earn()
        arm = torch.where(campaigns.would_pay().any(1), earns.argmax(1), 0)
        cost, earns = (of.gather(1, arm[:, None]).squeeze(1) for of in (cost, earns))
        usual = truth(drawn, "cost_min").gather(1, arm[:, None]).squeeze(1)
        step = campaigns.step(arm)
        acted = ~step.refused
        assert torch.allclose(step.shown.cost_min[acted], cost[acted], atol=1e-4)
        waited += int((cost[acted] > usual[acted] + 0.5).sum())
        found = step.found > 0
        assert torch.allclose(step.found[found], earns[found])
        earned += int(found.sum())
    assert waited > 10
    assert earned > 10


def test_what_is_left_to_be_found_is_what_would_pay():
    drawn = pool_of(NONE, 32, seed=8)
    campaigns = Campaigns(drawn, 32, seed=4, clusters=torch.arange(32), budget_min=(1e3, 1e3))
    severity, gap = truth(drawn, "severity"), truth(drawn, "weakness").long()
    for _ in range(12):
        pays, found = campaigns.would_pay(), campaigns.outlook()
        for row in range(32):
            graver = {int(n): 0.0 for n in gap[row, pays[row]]}
            for number, grave in zip(gap[row, pays[row]].tolist(), severity[row, pays[row]].tolist(), strict=True):
                graver[number] = max(graver[number], grave)
            first = sorted(graver.values(), reverse=True)[:3] + [0.0] * 3
            expected = [sum(graver.values()) / 4.0, len(graver) / 8.0, *first[:3]]
            assert found[row].tolist() == pytest.approx(expected, abs=1e-5)
        arm = torch.where(pays.any(1), pays.float().argmax(1), campaigns.stop)
        campaigns.step(arm)
    assert (campaigns.confirmed > 1).any()


def test_a_component_that_was_hit_makes_the_next_experiment_on_it_wait():
    drawn = pool_of(replace(NONE, structure=replace(Structure.none(), costs=True)), 32, seed=8)
    campaigns = Campaigns(drawn, 32, seed=4, clusters=torch.arange(32), budget_min=(1e3, 1e3))
    arm = drawn.available.float().argmax(1)
    first, second = (campaigns.step(arm).shown.cost_min for _ in range(2))
    assert (second >= first).all()
    assert float((second - first).mean()) > 0.3


def test_a_compound_weakness_shows_only_shortly_after_a_dependency_was_hit():
    generator = replace(NONE, structure=replace(Structure.none(), compound=True))
    drawn = pool_of(generator, 256, seed=9)
    compound = drawn.shows & (truth(drawn, "needs_dependency") > 0) & (truth(drawn, "trigger_shows") == 0)
    clusters = compound.any(1).nonzero().squeeze(1)
    arm = compound[clusters].float().argmax(1)
    dependency = drawn.graph[clusters, arm // ARMS_OF_ONE].argmax(1)
    offered = drawn.available[clusters].view(len(clusters), drawn.places, ARMS_OF_ONE)
    at_dependency = dependency * ARMS_OF_ONE + offered[torch.arange(len(clusters)), dependency].float().argmax(1)
    campaigns = Campaigns(drawn, len(clusters), clusters=clusters, budget_min=(1e3, 1e3))
    assert not (campaigns.step(arm).shown.told == Told.WEAKNESS).any()
    campaigns.step(at_dependency)
    assert (campaigns.step(arm).shown.told == Told.WEAKNESS).all()


def test_drift_makes_and_mends():
    drawn = pool_of(replace(NONE, structure=replace(Structure.none(), drift=True)), 32, seed=10)
    campaigns = Campaigns(drawn, 32, clusters=torch.arange(32), budget_min=(1e3, 1e3))
    before = campaigns.would_show()
    campaigns.spent_min += 100.0
    changed = before != campaigns.would_show()
    assert changed.any()
    assert not changed[~drawn.available].any()


def test_what_drift_makes_shows_from_some_level_on_and_what_it_mends_shows_on_none():
    """One that would show to a weak fault and hide from a strong one is none that a cluster could have."""
    drawn = pool_of(replace(NONE, structure=replace(Structure.none(), drift=True)), 256, seed=10)
    cells = (len(drawn), -1, len(LEVELS))
    at_first, late = (truth(drawn, name).bool().view(cells) for name in ("shows", "shows_late"))
    for shows in (at_first, late):
        assert (shows[..., :-1] <= shows[..., 1:]).all()
    made, mended = ~at_first.any(-1) & late.any(-1), at_first.any(-1) & ~late.any(-1)
    assert made.any()
    assert mended.any()
    assert torch.equal(at_first[~made & ~mended], late[~made & ~mended])


def test_a_latent_fault_tells_nothing_once_drift_has_made_its_trigger_break_a_promise():
    drawn = pool_of(replace(NONE, structure=replace(Structure.none(), drift=True)), 512, seed=11)
    by_trigger, late = (truth(drawn, name).bool() for name in ("trigger_shows", "trigger_shows_late"))
    now_untold = drawn.shows & ~by_trigger & late & truth(drawn, "shows_late").bool()
    clusters = now_untold.any(1).nonzero().squeeze(1)
    assert len(clusters)
    arm = now_untold[clusters].float().argmax(1)
    campaigns = Campaigns(drawn, len(clusters), clusters=clusters, budget_min=(1e3, 1e3))
    row = torch.arange(len(clusters))
    assert campaigns.would_show()[row, arm].all()
    campaigns.spent_min += 100.0
    assert not campaigns.would_show()[row, arm].any()
    assert not (campaigns.step(arm).shown.told == Told.WEAKNESS).any()


def test_the_same_seed_makes_the_same_campaigns(pool):
    def rewards(seed):
        campaigns, random = Campaigns(pool, 64, seed=seed), torch.Generator().manual_seed(0)
        return torch.stack([campaigns.step(random_actions(campaigns, random)).reward for _ in range(12)])

    assert torch.equal(rewards(0), rewards(0))
    assert not torch.equal(rewards(0), rewards(1))


# ---- what is seen ---------------------------------------------------------------------------------------------------


def test_no_feature_is_constant_and_a_linear_probe_beats_chance(pool):
    """On all that is observed after some experiments: features that say nothing teach to do nothing."""
    campaigns, random = Campaigns(pool, 512, seed=5, budget_min=(5.0, 30.0)), torch.Generator().manual_seed(3)
    for _ in range(16):
        campaigns.step(random_actions(campaigns, random))
    seen = encoding.seen(campaigns.state)
    real = seen["components"][seen["components"][..., COMPONENT_FEATURES.index("role_gateway") :].any(-1)]
    constant = [name for name, column in zip(COMPONENT_FEATURES, real.T, strict=True) if column.std() == 0]
    assert constant == ["quarantined"], "nobody is quarantined in a simulation"
    offered = campaigns.masks()[:, :-1]
    arms = seen["arms"].flatten(1, 3)[offered]
    families = {"family_api", "family_llm"}
    constant = [n for n, column in zip(OBSERVED_ARM, arms.T, strict=True) if column.std() == 0 and n not in families]
    assert constant == []
    assert (seen["budget"].std(0) > 0).all()
    depends, needed = seen["graph"].sum(2), seen["graph"].sum(1)
    assert min(depends.std(), needed.std(), seen["graph"].std()) > 0
    owner = torch.arange(offered.shape[1]) // ARMS_OF_ONE
    around = torch.cat([seen["components"], depends[..., None], needed[..., None]], dim=-1)[:, owner][offered]
    budget = seen["budget"][:, None].expand(-1, offered.shape[1], -1)[offered]
    x = torch.cat([arms, around, budget, torch.ones(len(arms), 1)], dim=1).double()
    y = campaigns.would_show()[offered].double()
    half = len(x) // 2
    weights = torch.linalg.lstsq(x[:half] + 1e-9, y[:half, None], driver="gelsd").solution
    score = (x[half:] @ weights).squeeze(1)
    rank = score.argsort().argsort().double()
    positive = y[half:] > 0
    auc = (rank[positive].mean() - (positive.sum() - 1) / 2) / (~positive).sum()
    assert auc > 0.6, float(auc)


def test_what_is_kept_by_kind_is_what_the_history_says(pool):
    campaigns, random = Campaigns(pool, 256, seed=7, budget_min=(5.0, 8.0)), torch.Generator().manual_seed(5)
    ended = 0
    for _ in range(20):
        ended += int(campaigns.step(random_actions(campaigns, random)).over.sum())
        kinds = by_kind(campaigns.state.history)
        role = campaigns.state.components[..., : len(ROLES) + 1]
        assert torch.equal(campaigns.by_kind, kinds)
        assert torch.equal(campaigns.in_role, in_role(role, kinds))
        assert torch.equal(campaigns.able, campaigns.state.available.any((-1, -2)))
    assert ended, "campaigns began anew on the way"


def test_one_real_cluster_and_thousands_are_encoded_alike(pool):
    """A simulated campaign's state, row by row, is what a batch of one would see."""
    campaigns, random = Campaigns(pool, 8, seed=6), torch.Generator().manual_seed(4)
    for _ in range(4):
        campaigns.step(random_actions(campaigns, random))
    state = campaigns.state
    seen = encoding.seen(state)
    for row in range(8):
        one = replace(
            state,
            **{
                name: getattr(state, name)[row : row + 1]
                for name in ("components", "graph", "available", "history", "budget", "now_h")
            },
        )
        for name, values in encoding.observe(one).items():
            assert np.array_equal(values, seen[name][row].numpy()), name


# ---- Gymnasium ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Your observation .* has an unconventional shape:UserWarning")
def test_both_checkers_accept_the_environment(pool):
    gymnasium_check(gym.make("backburn/SimulatedChaos-v0", pool=pool, disable_env_checker=True).unwrapped)
    sb3_check(SimulatedChaosEnv(pool=pool))


def test_one_of_a_vector_is_what_one_alone_is(pool):
    alone = SimulatedChaosEnv(pool=pool)
    many = gym.make_vec("backburn/SimulatedChaos-v0", num_envs=1, vectorization_mode="vector_entry_point", pool=pool)
    one, _ = alone.reset(seed=5)
    batch, _ = many.reset(seed=5)
    random, over = np.random.default_rng(0), False
    while not over:
        assert all(np.array_equal(one[name], batch[name][0]) for name in one)
        assert many.observation_space.contains(batch)
        assert np.array_equal(alone.action_masks(), many.action_masks()[0])
        action = int(random.choice(np.flatnonzero(alone.action_masks()[:-1])))
        one, reward, over, _, info = alone.step(action)
        batch, rewards, overs, _, infos = many.step(np.array([action]))
        assert (reward, over, info["p"]) == (rewards[0], overs[0], infos["p"][0])
        if over:
            batch = {name: values[None] for name, values in infos["final_obs"][0].items()}
    assert all(np.array_equal(one[name], batch[name][0]) for name in one)


@pytest.mark.parametrize("make", [SimulatedChaosEnv, partial(SimulatedChaosVectorEnv, 8)])
def test_without_a_seed_two_environments_are_not_the_same(pool, make):
    one, other = (make(pool=pool) for _ in range(2))
    seen = [[env.reset()[0]["components"] for _ in range(4)] for env in (one, other)]
    assert not np.array_equal(seen[0], seen[1])


def test_vectors_begin_anew_by_themselves(pool):
    many = SimulatedChaosVectorEnv(16, pool=pool, budget_min=(3.0, 3.0))
    many.reset(seed=0)
    ended = 0
    for _ in range(12):
        choices = [np.flatnonzero(mask[:-1])[0] for mask in many.action_masks()]
        observations, _, over, truncated, info = many.step(np.array(choices))
        assert not truncated.any()
        for index in np.flatnonzero(over):
            assert info["final_obs"][index]["budget"][0] == 0.0
            assert observations["budget"][index, 0] == 1.0
        ended += over.sum()
    assert ended >= 16


@pytest.mark.parametrize("action", [-1, 10**6])
def test_an_action_that_does_not_exist_is_one_clear_error(pool, action):
    env = SimulatedChaosEnv(pool=pool)
    env.reset(seed=0)
    with pytest.raises(BadInput, match="does not exist; allowed are 0 to"):
        env.step(action)


@pytest.mark.parametrize(
    "given",
    [
        {"clusters": 0},
        {"budget_min": (5.0, 1.0)},
        {"budget_min": (0.0, 1.0)},
        {"budget_min": (5.0, math.inf)},
        {"budget_min": (math.nan, 5.0)},
    ],
)
def test_an_impossible_environment_is_one_clear_error(given):
    with pytest.raises(BadInput, match=next(iter(given))):
        SimulatedChaosEnv(**given)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1)])
def test_a_vector_takes_one_action_for_each_environment(pool, shape):
    many = SimulatedChaosVectorEnv(4, pool=pool)
    with pytest.raises(BadInput, match=r"allowed is \(4,\), one per environment"):
        many.step(np.full(shape, many.campaigns.stop))


def test_a_latent_fault_is_masked_once_its_trigger_alone_has_broken_a_promise():
    """As on a real cluster (`ChaosEnv.telling`): nobody could say which of the two it came from."""
    drawn = pool_of(Generator((6, 10), prevalence=1.0), 256, seed=7)
    campaigns = Campaigns(drawn, 256, seed=0, clusters=torch.arange(256), restarts=False)
    latent = {KINDS.index(name): KINDS.index(kind.trigger) for name, kind in CATALOGUE.items() if kind.trigger}
    trigger = next(iter(set(latent.values())))
    of_trigger = [kind for kind, its in latent.items() if its == trigger]
    available = campaigns.state.available
    before = available.clone()
    has_both = available[:, :, trigger].any(-1) & available[:, :, of_trigger].flatten(2).any(-1)
    component = has_both.float().argmax(1)
    row = torch.arange(256)
    level = available[row, component, trigger].float().argmax(1)
    arm = (component * len(KINDS) + trigger) * len(LEVELS) + level
    step = campaigns.step(torch.where(has_both.any(1), arm, campaigns.stop))
    broke = (step.shown.told == Told.WEAKNESS) & has_both.any(1)
    assert 0 < int(broke.sum()) < int(has_both.any(1).sum())
    for cluster in range(256):
        now, then = available[cluster, component[cluster]], before[cluster, component[cluster]]
        assert now[of_trigger].any() == (not broke[cluster] and then[of_trigger].any())
        others = [kind for kind in range(len(KINDS)) if kind not in of_trigger]
        assert torch.equal(now[others], then[others])


def test_what_would_show_now_shows_unless_it_is_missed():
    quiet = pool_of(Generator((6, 10), prevalence=1.0, noise=0.0), 256, seed=8)
    campaigns = Campaigns(quiet, 256, seed=0, clusters=torch.arange(256), restarts=False)
    random = torch.Generator().manual_seed(0)
    for _ in range(12):
        would, allowed = campaigns.would_show(), campaigns.masks()[:, :-1]
        # As many that would as would not.
        odds = torch.where(would, 1.0, 0.02) * allowed + 1e-9
        arm = torch.multinomial(odds, 1, generator=random).squeeze(1)
        wanted = would.gather(1, arm[:, None]).squeeze(1)
        component = arm // ARMS_OF_ONE
        there = campaigns.would_show_on(component).gather(1, (arm % ARMS_OF_ONE)[:, None]).squeeze(1)
        may = allowed.gather(1, arm[:, None]).squeeze(1)
        assert torch.equal(there & may, wanted)
        told = campaigns.step(arm).shown.told
        # A real weakness beats nearly all fault-free units; that it does not beat enough is undecided.
        assert ((told == Told.WEAKNESS) | (told == Told.UNDECIDED))[wanted].all()
        assert (told[may & ~wanted] != Told.WEAKNESS).all()
