"""The learned policy: learns from the simulator, is the same whatever a cluster's size and order, is read safely."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from actuators.errors import BadInput
from agent.build.parts import policy_named
from agent.build.simulated import chaos_env
from agent.learning import posterior
from agent.learning.arena import compared, greedily, knowing, randomly, tallied
from agent.learning.arms import ARM_INPUTS, Surroundings
from agent.learning.policy_file import SHIPPED, learnt_on, read, store
from agent.learning.posterior import ArmNetwork, PosteriorPolicy, best_bets, odds_of
from agent.learning.ppo.set_policy import SetPolicy
from agent.learning.train import Lessons, taught
from agent.learning.worth import worth_on, worth_per_minute
from agent.settings import PACKAGED
from envs import encoding
from envs.encoding import OBSERVED_ARM, ROLES
from envs.simulator.campaigns import ARMS_OF_ONE, Campaigns
from envs.simulator.faults import KINDS
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator
from tests.test_agent_cli import backburn, refused

SMALL = Generator((6, 10))
_NEARNESS = ("entrance", "behind_entrance", "from_entrance", "behind_gateway")
_OF_A_FAMILY = ("weak_in_family_here", "weak_in_family", "weak_in_family_and_role")


@pytest.fixture(scope="module")
def pool():
    return pool_of(SMALL, 512, seed=1)


@pytest.fixture(scope="module")
def network(pool):
    return taught(pool, Lessons(steps=250, batch=128, seed=0)).eval()


def played_on(pool, count):
    campaigns, random = Campaigns(pool, count, seed=2), randomly(0)
    for _ in range(6):
        campaigns.step(random(campaigns))
    return campaigns


def test_arms_looked_at_in_blocks_are_the_arms_looked_at_together(pool, network, monkeypatch):
    campaigns = played_on(pool, 4)
    around, allowed = Surroundings.on(campaigns), campaigns.masks()[:, :-1]
    together = odds_of(network, around, allowed)
    assert int(allowed.sum()) % 7 != 0, "the last block is smaller"
    monkeypatch.setattr(posterior, "_BLOCK", 7)
    for one, all_of_them in zip(odds_of(network, around, allowed), together, strict=True):
        assert torch.allclose(one, all_of_them, atol=1e-6)
    assert bool((together.weak[allowed] > 0).all())


@pytest.fixture
def campaigns(pool):
    return played_on(pool, 32)


# ---- what it learns -------------------------------------------------------------------------------------------------


def test_after_minutes_of_lessons_it_beats_chance_on_clusters_it_has_never_seen(network):
    unseen = pool_of(SMALL, 96, seed=77)
    tallies = {
        name: [tallied(choose, unseen, budget_min=15.0, seed=3)]
        for name, choose in {"random": randomly(1), "posterior": greedily(network), "oracle": knowing}.items()
    }
    figures = compared(tallies)
    assert figures["posterior"]["low"] > 0.15, figures
    assert (figures["random"]["auc"], figures["oracle"]["auc"]) == (0.0, 1.0)


def test_what_campaigns_keep_up_to_date_is_what_is_seen(pool):
    campaigns = played_on(pool, 64)
    rows, arms = campaigns.masks()[:, :-1].nonzero(as_tuple=True)
    kept, seen = Surroundings.on(campaigns), Surroundings.of(encoding.seen(campaigns.state))
    assert torch.allclose(kept.inputs(rows, arms), seen.inputs(rows, arms), atol=1e-6)
    odds = torch.rand(campaigns.state.available.shape, generator=torch.Generator().manual_seed(0))
    there = worth_per_minute(encoding.seen(campaigns.state), odds)
    assert torch.allclose(worth_on(kept, odds), there, rtol=1e-4)


def test_its_odds_are_odds(network, pool):
    """Of all arms that it holds to be weak with a probability of one in ten, about one in ten is, and so on.

    Arms of one cluster have much in common, so it takes many clusters. Who has learnt for seconds alone is too modest
    about what has shown itself once already.
    """
    campaigns = played_on(pool, 512)
    allowed = campaigns.masks()[:, :-1]
    with torch.no_grad():
        odds = odds_of(network, Surroundings.of(encoding.seen(campaigns.state)), allowed).weak[allowed]
    weak = campaigns.would_show()[allowed].float()
    filled = 0
    for low, high, within_of in ((0.0, 0.15, 0.05), (0.15, 0.4, 0.12), (0.4, 1.0, 0.2)):
        within = (odds >= low) & (odds < high)
        if int(within.sum()) > 200:
            filled += 1
            assert float(weak[within].mean()) == pytest.approx(float(odds[within].mean()), abs=within_of)
    assert filled >= 2, "who says the same of every arm knows nothing"


def test_it_knows_what_is_new_no_more(network, pool):
    """Of weak arms, those that show what was confirmed already are held to show something new far more seldom."""
    campaigns, choose = Campaigns(pool, 256, seed=11, budget_min=(1e3, 1e3)), greedily(network)
    with torch.no_grad():
        before = odds_of(network, Surroundings.on(campaigns), campaigns.masks()[:, :-1]).new
        for _ in range(24):
            campaigns.step(choose(campaigns))
        new = odds_of(network, Surroundings.on(campaigns), campaigns.masks()[:, :-1]).new
    weak, pays = campaigns.would_show(), campaigns.would_pay()
    assert float(before.mean()) > 0.9
    assert int((weak & ~pays).sum()) > 100
    assert float(new[weak & pays].mean()) > float(new[weak & ~pays].mean()) + 0.3


def test_lessons_are_the_same_for_the_same_seed(pool):
    def weights(seed):
        return taught(pool, Lessons(steps=5, batch=16, seed=seed)).state_dict()["layers.0.weight"]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


# ---- what it looks at -----------------------------------------------------------------------------------------------


def shuffled(seen, order):
    return {
        "components": seen["components"][:, order],
        "graph": seen["graph"][:, order][:, :, order],
        "arms": seen["arms"][:, order],
        "budget": seen["budget"],
    }


def test_the_order_of_components_does_not_matter(network, campaigns):
    seen, allowed = encoding.seen(campaigns.state), campaigns.masks()[:, :-1]
    order = torch.randperm(seen["components"].shape[1], generator=torch.Generator().manual_seed(0))
    per_component = (len(allowed), -1, ARMS_OF_ONE)
    there = odds_of(network, Surroundings.of(shuffled(seen, order)), allowed.view(per_component)[:, order].flatten(1))
    for moved, stayed in zip(there, odds_of(network, Surroundings.of(seen), allowed), strict=True):
        assert torch.allclose(moved, stayed.view(per_component)[:, order].flatten(1), atol=1e-5)


def test_padding_does_not_matter(network):
    """The same clusters in ten places and in sixteen."""
    few = pool_of(SMALL, 8, seed=4)
    more = {
        name: torch.cat([values, torch.zeros((8, 6, *values.shape[2:]))], dim=1) if name != "graph" else values
        for name, values in (("components", few.components), ("graph", few.graph))
    }
    more["graph"] = torch.nn.functional.pad(few.graph, (0, 6, 0, 6))
    wide = replace(
        few,
        components=more["components"],
        graph=more["graph"],
        available=torch.nn.functional.pad(few.available, (0, 6 * ARMS_OF_ONE)),
        truth=torch.nn.functional.pad(few.truth, (0, 0, 0, 6 * ARMS_OF_ONE)),
        recover_min=torch.nn.functional.pad(few.recover_min, (0, 6)),
        cooldown_min=torch.nn.functional.pad(few.cooldown_min, (0, 6)),
    )
    odds = []
    for pool in (few, wide):
        campaigns = Campaigns(pool, 8, clusters=torch.arange(8))
        seen = encoding.seen(campaigns.state)
        # The chance part of what is seen at first is drawn per place.
        seen["components"] = pool.components
        odds.append(odds_of(network, Surroundings.of(seen), campaigns.masks()[:, :-1]).weak)
    assert torch.allclose(odds[1][:, : odds[0].shape[1]], odds[0], atol=1e-5)
    assert not odds[1][:, odds[0].shape[1] :].any()


def test_every_input_has_a_name(campaigns):
    rows, arms = campaigns.masks()[:, :-1].nonzero(as_tuple=True)
    inputs = Surroundings.of(encoding.seen(campaigns.state)).inputs(rows, arms)
    assert inputs.shape == (len(rows), len(ARM_INPUTS))
    assert torch.isfinite(inputs).all()
    assert inputs.abs().max() <= 64.0


def test_how_near_users_are_is_seen(pool):
    seen = encoding.seen(Campaigns(pool, 1, seed=0, clusters=torch.tensor([0])).state)
    gateway, server, store, lonely, second = range(5)
    seen["components"] = torch.zeros_like(seen["components"])
    for component, role in ((gateway, 0), (server, 1), (store, 2), (lonely, 3), (second, 0)):
        seen["components"][0, component, role] = 1.0
    seen["graph"] = torch.zeros_like(seen["graph"])
    for caller, called in ((gateway, server), (server, store), (lonely, second), (second, store)):
        seen["graph"][0, caller, called] = 1.0
    arms = torch.arange(5) * ARMS_OF_ONE
    inputs = Surroundings.of(seen).inputs(torch.zeros(5, dtype=torch.long), arms)
    shown = {name: inputs[:, ARM_INPUTS.index(name)].tolist() for name in _NEARNESS}
    assert shown["entrance"] == [1, 0, 0, 0, 0], "a gateway that somebody calls is none"
    assert shown["behind_entrance"] == [0, 1, 0, 0, 0]
    assert shown["from_entrance"] == [0, 1 / 8, 2 / 8, 1, 1]
    assert shown["behind_gateway"] == [1, 1, 1, 0, 1]
    seen["graph"][0, lonely, gateway] = 1.0
    inputs = Surroundings.of(seen).inputs(torch.zeros(5, dtype=torch.long), arms)
    assert inputs[:, ARM_INPUTS.index("entrance")].tolist() == [1, 0, 0, 0, 1], "where all are called, any is one"


def test_what_was_seen_of_a_family_elsewhere_is_told_apart(pool):
    seen = encoding.seen(Campaigns(pool, 1, seed=0, clusters=torch.tensor([0])).state)
    seen["components"] = torch.zeros_like(seen["components"])
    for component, role in ((0, 1), (1, 1), (2, 2)):
        seen["components"][0, component, role] = 1.0
    delay, loss, kill = (KINDS.index(kind) for kind in ("network.delay", "network.loss", "pod.kill"))
    seen["arms"][0, 0, delay, 2, OBSERVED_ARM.index("weakness")] = 1 / 8
    arms = [component * ARMS_OF_ONE + kind * 3 for component in range(3) for kind in (loss, kill)]
    inputs = Surroundings.of(seen).inputs(torch.zeros(6, dtype=torch.long), torch.tensor(arms))
    shown = {name: (8 * inputs[:, ARM_INPUTS.index(name)]).tolist() for name in _OF_A_FAMILY}
    assert shown == {
        "weak_in_family_here": [1, 0, 0, 0, 0, 0],
        "weak_in_family": [0, 0, 1, 0, 1, 0],
        "weak_in_family_and_role": [0, 0, 1, 0, 0, 0],
    }


def test_what_is_confirmed_is_worth_nothing_more_and_what_may_show_the_same_little(pool):
    seen = encoding.seen(Campaigns(pool, 1, seed=0, clusters=torch.tensor([0])).state)
    odds = torch.full(seen["arms"].shape[:4], 0.5)
    before = worth_per_minute(seen, odds)[0]
    role = seen["components"][0, :, : len(ROLES) + 1]
    here = int(role.sum(1).argmax())
    delay, loss, kill = (KINDS.index(kind) for kind in ("network.delay", "network.loss", "pod.kill"))
    seen["arms"][0, here, delay, 0, OBSERVED_ARM.index("confirmed")] = 1.0
    left = worth_per_minute(seen, odds)[0] / before
    assert left[here, delay, 0] == 0.0
    for component in range(len(role)):
        if component != here and (role[component] == role[here]).all():
            assert (left[component, delay] < 0.1).all(), "nor elsewhere in that role"
        if (role[component] == role[here]).all():
            assert (left[component, loss] < left[component, kill]).all(), "another kind of the family even less"
            assert (left[component, kill] < 1.0).all()
        else:
            assert (left[component] == 1.0).all()


def test_what_was_just_hit_is_worth_less_until_it_has_cooled_down(pool):
    seen = encoding.seen(Campaigns(pool, 1, seed=0, clusters=torch.tensor([0])).state)
    odds = torch.full(seen["arms"].shape[:4], 0.5)
    never = worth_per_minute(seen, odds)[0]
    here, since = int(seen["components"][0, :, : len(ROLES) + 1].sum(1).argmax()), OBSERVED_ARM.index("minutes_since")
    ratios = []
    for minutes in (0.0, 1.0, 2.0):
        seen["arms"][0, here, 3, 1, since] = minutes / 60.0
        now = worth_per_minute(seen, odds)[0]
        ratios.append(float((now[here] / never[here])[never[here] > 0].max()))
        others = torch.arange(len(never)) != here
        assert torch.equal(now[others], never[others])
    assert ratios[0] < ratios[1] < ratios[2] == 1.0, ratios


# ---- how it chooses -------------------------------------------------------------------------------------------------


def test_on_one_cluster_it_chooses_what_it_would_choose_among_many(network, campaigns):
    seen, masks = encoding.seen(campaigns.state), campaigns.masks()
    together = best_bets(network, Surroundings.of(seen), masks)
    for row in range(8):
        policy = PosteriorPolicy(network)
        observation = {name: values[row].numpy() for name, values in seen.items()}
        assert policy.choose(observation, masks[row].numpy()) == int(together[row])


def test_it_never_chooses_what_is_masked_and_stops_when_all_is(network):
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    policy, random = PosteriorPolicy(network), np.random.default_rng(0)
    for _ in range(50):
        mask = env.action_masks() & (random.random(env.code.stop + 1) < 0.05)
        mask[env.code.stop] = True
        assert mask[policy.choose(observation, mask)]
    mask[:-1] = False
    assert policy.choose(observation, mask) == env.code.stop
    env.close()


def test_an_observation_without_numbers_is_one_clear_error(network):
    env = chaos_env()
    observation, _ = env.reset(seed=0)
    mask = env.action_masks()
    env.close()
    observation["arms"][0, 0, 0, 0] = np.nan
    with pytest.raises(BadInput, match="observation 'arms' holds values that are no numbers"):
        PosteriorPolicy(network).choose(observation, mask)


def test_choosing_learns_nothing(network, campaigns):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    policy, seen = PosteriorPolicy(network), encoding.seen(campaigns.state)
    for row in range(8):
        policy.choose({name: values[row].numpy() for name, values in seen.items()}, campaigns.masks()[row].numpy())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


# ---- its file -------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_read(network, tmp_path, campaigns):
    store(network, tmp_path / "it.safetensors", {"device": "a test"})
    seen, masks = encoding.seen(campaigns.state), campaigns.masks()
    again = read(tmp_path / "it.safetensors", ArmNetwork)
    assert torch.equal(best_bets(again, Surroundings.of(seen), masks), best_bets(network, Surroundings.of(seen), masks))
    assert policy_named(str(tmp_path / "it.safetensors"), np.random.default_rng(0))


@pytest.mark.parametrize(
    "generator", [{"without": None}, {"without": 5}, {"families": None}, {"without": [["freshness"]]}]
)
def test_a_record_that_cannot_be_is_one_clear_error(network, tmp_path, generator):
    store(network, tmp_path / "it.safetensors", {"generator": generator})
    with pytest.raises(BadInput, match="allowed is a list of names"):
        learnt_on(tmp_path / "it.safetensors")


def test_what_could_not_be_written_whole_is_not_there(network, tmp_path):
    (tmp_path / "it.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        store(network, tmp_path / "it.safetensors", {"device": "a test"})
    assert not (tmp_path / "it.safetensors").exists()


def test_a_policy_of_ppo_whose_teacher_looks_at_something_else_is_refused(tmp_path):
    for file in SHIPPED["ppo"], SHIPPED["ppo"].with_suffix(".json"):
        shutil.copy(file, tmp_path)
    inputs = json.loads((tmp_path / "ppo.json").read_text())["inputs"]
    assert {f"teacher: {name}" for name in ARM_INPUTS} < set(inputs)
    described_as(inputs=[*inputs[:-2], inputs[-1], inputs[-2]])(tmp_path / "ppo.safetensors")
    with pytest.raises(BadInput, match="has other inputs"):
        read(tmp_path / "ppo.safetensors", SetPolicy)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def tampered(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def described_as(**changes):
    def change(path):
        beside = path.with_suffix(".json")
        beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (cut_off, "changed or cut off"),
        (tampered, "changed or cut off"),
        (described_as(encoding=1), "of encoding version 1; allowed is version"),
        (described_as(format=99), "of format version 99"),
        (described_as(sort="ppo"), "of sort 'ppo'; allowed is posterior"),
        (described_as(inputs=["luck"]), "has other inputs"),
        (described_as(hidden=-3), "names -3 as its width"),
        (described_as(hidden=32), "does not hold this network"),
        (lambda path: path.with_suffix(".json").unlink(), "no it.json beside it"),
        (lambda path: path.with_suffix(".json").write_text("{"), "is not JSON"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "is no JSON object"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_a_damaged_policy_is_one_clear_error(tmp_path, harm, complaint):
    path = tmp_path / "it.safetensors"
    store(ArmNetwork(), path, {})
    harm(path)
    with pytest.raises(BadInput, match=complaint) as error:
        read(path, ArmNetwork)
    assert "\n" not in str(error.value)


def test_a_policy_of_no_numbers_is_one_clear_error(tmp_path):
    network = ArmNetwork()
    with torch.no_grad():
        network.layers[0].weight[0, 0] = torch.nan
    store(network, tmp_path / "it.safetensors", {})
    with pytest.raises(BadInput, match="weights that are no numbers"):
        read(tmp_path / "it.safetensors", ArmNetwork)


def test_the_shipped_policy_is_one_and_says_how_it_came_about():
    path = PACKAGED / "policies" / "posterior.safetensors"
    described = json.loads(path.with_suffix(".json").read_text())
    assert read(path, ArmNetwork).hidden == described["hidden"]
    assert described["training"]["experiments"] > 1e5
    figures = described["training"]["held_out"]["figures"]
    assert figures["posterior"]["low"] > figures["thompson"]["high"]


# ---- its command ----------------------------------------------------------------------------------------------------


def test_training_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.learning.school._CLUSTERS", 64)
    monkeypatch.setattr("agent.learning.school._HELD_OUT", 8)
    from agent.learning import school

    out = tmp_path / "it.safetensors"
    school.train(Lessons(steps=3, batch=8), SMALL, out, Console(quiet=True), device="cpu", threads=1)
    record = json.loads(out.with_suffix(".json").read_text())["training"]
    assert set(record["held_out"]["figures"]) == {
        "random",
        "round_robin",
        "ucb",
        "genetic",
        "incident",
        "thompson",
        "static",
        "posterior",
        "posterior as it ships",
        "oracle",
    }
    assert read(out, ArmNetwork)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "it.zip"], "has to end in .safetensors"),
        (["--out", "taken.safetensors"], "exists already"),
        (["--out", "it.safetensors", "--components", "2", "4"], "allowed is a range within 6 to 96"),
        (["--out", "new/it.safetensors", "--seed", "1000003"], "allowed is 0 to 1000001"),
        (["--out", "new/it.safetensors", "--algorithm", "ppo", "--teacher", "no.safetensors"], "no."),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.safetensors").touch()
    refused(backburn("train", *arguments), 2, said)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]
