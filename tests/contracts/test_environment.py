"""The laws of the environment, on the simulated cluster."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check

from actuators.catalogue import CATALOGUE, LEVELS, kind_of
from actuators.fault import Fault, Target
from agent.build.parts import policy_named
from agent.build.simulated import chaos_env
from agent.cli.running import _prepared
from envs.chaos import ChaosEnv
from envs.clusters.simulated.hidden import MECHANISMS, Hidden
from envs.confirmation import Cell
from envs.encoding import BUDGET_FEATURES, ROLES
from envs.history import COLUMN
from envs.hypothesis import Broken, Mechanism
from envs.outcome import Outcome
from envs.protections import PROTECTIONS, Gap, gap_of
from envs.scoring import Evidence, Score, Verdict
from tests.simulation import simulation


@pytest.fixture
def env():
    env = chaos_env()
    yield env
    env.close()


def test_gymnasium_accepts_the_environment():
    env = gym.make("agent.environments:backburn/Chaos-v0", disable_env_checker=True)
    gymnasium_check(env.unwrapped, skip_render_check=True)
    env.close()


# Advice only: more than three dimensions are unconventional.
@pytest.mark.filterwarnings("ignore:Your observation .* has an unconventional shape:UserWarning")
def test_stable_baselines3_accepts_the_environment(env):
    sb3_check(env)


def test_what_was_shown_in_two_ways_once_each_looks_confirmed_to_nobody(env):
    """What looks confirmed no policy repeats, and the third time that would confirm it never came."""
    env.reset(seed=0)
    kill = env.code.fault("model-server", "pod.kill", 0.25)
    row = (0, *env.code.index(env.code.encode(kill)), COLUMN["confirmed"])
    looks = []
    for mechanism in (Mechanism.UNAVAILABLE, Mechanism.SLOW, Mechanism.SLOW):
        broken = Broken("a promise", "client/p50_ms", mechanism, 1.0, 1.0, 3)
        evidence = Evidence(Verdict.WEAKNESS, anomaly_score=0.9, p=0.0123, e_value=4.5)
        env.learn(Outcome(kill, Score(evidence, (broken,), "because", None, ())))
        looks.append((float(env.state.history[row]), len(env.gaps)))
    assert looks == [(0.0, 0), (0.0, 0), (1.0, 1)]


def test_what_is_repeated_lasts_for_as_long_as_when_it_was_found(env):
    """A control is watched longer than its kind usually is, and may show what nobody would see otherwise."""
    env.reset(seed=0)
    record = {"id": "W-1", "fault": {"kind": "pod.kill", "target": "trainer", "duration_s": 50.0}}
    action = _prepared(env, record | {"reproducer": {"intensity": 0.25}})
    assert env.code.decode(action) == Fault("pod.kill", Target("trainer"), 0.25, 50.0)
    other = env.code.fault("model-server", "pod.kill", 0.25)
    assert other.duration_s == CATALOGUE["pod.kill"].duration_s


def played(seed: int, choose) -> list[tuple[object, ...]]:
    env = chaos_env()
    observation, _ = env.reset(seed=seed)
    seen = [(_frozen(observation),)]
    over, steps = False, 0
    while not over and steps < 6:
        action = choose(observation, env.action_masks())
        observation, reward, over, _, info = env.step(action)
        verdict = info["outcome"].verdict if info["outcome"] else None
        seen.append((action, _frozen(observation), round(reward, 9), over, verdict))
        steps += 1
    env.close()
    return seen


def _frozen(observation) -> tuple[bytes, ...]:
    return tuple(observation[key].tobytes() for key in sorted(observation))


@pytest.mark.parametrize("policy", ["random", "round_robin", "thompson"])
def test_the_same_seed_makes_the_same_run(policy):
    runs = [played(3, policy_named(policy, np.random.default_rng(7)).choose) for _ in range(2)]
    assert runs[0] == runs[1]


def test_another_seed_makes_another_run():
    choose = policy_named("round_robin", np.random.default_rng(0)).choose
    assert played(3, choose) != played(4, choose)


def test_observations_stay_inside_of_their_space(env):
    observation, _ = env.reset(seed=1)
    policy = policy_named("random", np.random.default_rng(0))
    over = False
    while not over:
        assert env.observation_space.contains(observation)
        observation, _, over, _, _ = env.step(policy.choose(observation, env.action_masks()))
    assert env.observation_space.contains(observation)


def test_stopping_is_always_allowed_and_touches_nothing(env):
    env.reset(seed=1)
    assert env.action_masks()[env.code.stop]
    _, reward, over, truncated, info = env.step(env.code.stop)
    assert (reward, over, truncated, info["outcome"]) == (0.0, True, False, None)


def test_even_when_everything_is_forbidden_stopping_is_allowed(settings, tmp_path):
    world = simulation(settings, tmp_path)
    env = ChaosEnv(world, budget_min=5.0)
    world.experimenter.supervisor.quarantine("gateway", "test")
    for name in ("model-server", "feature-store", "trainer", "stream", "feature-pipeline"):
        world.experimenter.supervisor.quarantine(name, "test")
    assert np.flatnonzero(env.action_masks()).tolist() == [env.code.stop]
    world.close()


@pytest.mark.parametrize(
    ("kind", "levels"), [("network.partition", [0.25]), ("network.loss", [0.25, 0.5, 1.0]), ("pod.kill", [0.25])]
)
def test_levels_that_do_the_same_are_one_arm(env, kind, levels):
    faults = map(env.code.decode, np.flatnonzero(env.state.available[0].numpy()).tolist())
    offered = [fault.intensity for fault in faults if (fault.kind, fault.target.name) == (kind, "feature-store")]
    assert offered == levels
    assert [level for level in LEVELS if env.fault_at(Cell("feature-store", kind, level))] == levels


class Forbidden:
    """Stands where an actuator would; whatever reaches it has come past the guards."""

    def __getattr__(self, name):
        raise AssertionError(f"a refused fault reached the actuator's {name}")


def test_a_masked_action_never_reaches_an_actuator(settings, tmp_path):
    """Whoever ignores the mask is refused at the door, on every single action of the space."""
    families = dict.fromkeys({kind_of(kind).family for kind in CATALOGUE}, Forbidden())
    world = simulation(settings, tmp_path, units=24, actuators=families, cluster_id="another")
    env = ChaosEnv(world, budget_min=1e9)
    assert env.action_masks().sum() == 1
    for action in range(env.code.stop):
        _, reward, over, _, info = env.step(action)
        assert info["outcome"].refusal is not None
        assert info["outcome"].verdict is Verdict.INVALID
        assert reward <= 0.0
        assert not over
    assert {entry.event for entry in world.state.journal.entries()} == {"refused"}
    world.close()


def test_what_the_cluster_does_not_offer_is_refused_although_no_guard_would(settings, tmp_path):
    """Guards know limits; a checkpoint of the gateway would be the trainer's."""
    world = simulation(settings, tmp_path, units=24)
    env = ChaosEnv(world, budget_min=1e9)
    vitals = env.experimenter.gate(None)
    offered, permits = env.action_masks(), env.experimenter.supervisor.would_refuse
    beyond = [a for a in np.flatnonzero(~offered).tolist() if permits(env.code.decode(a), vitals) is None]
    assert any("checkpoint" in env.code.decode(action).kind for action in beyond)
    for action in beyond:
        outcome = env.step(action)[4]["outcome"]
        assert outcome.refusal.guard == "environment"
        assert outcome.verdict is Verdict.INVALID
    assert list(world.state.journal.entries()) == []
    world.close()


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_the_mask_is_what_the_door_would_say(seed):
    """On the states of random campaigns: whatever the mask allows is injected, and whatever it forbids is refused."""
    env = chaos_env()
    env.reset(seed=seed)
    random = np.random.default_rng(seed)
    for _ in range(4):
        mask = env.action_masks()
        action = int(random.integers(env.code.stop))
        _, _, over, _, info = env.step(action)
        exists = bool(env.state.available[0].flatten()[action])
        if exists:
            assert (info["outcome"].refusal is None) == bool(mask[action])
        if over:
            break
    env.close()


def test_a_confirmed_weakness_pays_once(settings, tmp_path):
    world = simulation(
        settings, tmp_path, hidden=Hidden({"gateway": 1, "model-server": 1, "feature-store": 1, "trainer": 2})
    )
    env = ChaosEnv(world, budget_min=60.0)
    kill = next(
        a for a in np.flatnonzero(env.action_masks()) if str(env.code.decode(a)).startswith("pod.kill on model")
    )
    rewards, confirmed = [], []
    for _ in range(4):
        _, reward, _, _, info = env.step(kill)
        rewards.append(reward)
        confirmed.append(info["confirmed"])
    assert [c is not None for c in confirmed] == [False, True, False, False]
    assert rewards[1] > 0.5
    assert all(reward < 0 for reward in rewards[:1] + rewards[2:])
    world.close()


def test_a_gap_pays_once_whatever_shows_it(settings, tmp_path):
    """Killing and freezing the only model server show the same: there is no second one."""
    world = simulation(
        settings, tmp_path, hidden=Hidden({"gateway": 1, "model-server": 1, "feature-store": 1, "trainer": 2})
    )
    env = ChaosEnv(world, budget_min=60.0)
    rewards, confirmed = [], []
    for kind in ("pod.kill", "pod.kill", "pod.pause", "pod.pause"):
        action = next(
            a for a in np.flatnonzero(env.action_masks()) if str(env.code.decode(a)).startswith(f"{kind} on model")
        )
        _, reward, _, _, info = env.step(action)
        rewards.append(reward)
        confirmed.append(None if info["confirmed"] is None else info["confirmed"].kind)
    assert confirmed == [None, "pod.kill", None, "pod.pause"]
    assert [reward > 0 for reward in rewards] == [False, True, False, False]
    assert env.gaps == {Gap("model-server", "redundancy")}
    assert env.observation()["budget"][BUDGET_FEATURES.index("confirmed")] == pytest.approx(1 / 16)
    world.close()


@pytest.mark.parametrize("kind", CATALOGUE)
def test_every_kind_of_fault_on_every_role_shows_some_gap(kind):
    for role in (*ROLES, "billing"):
        for mechanism in Mechanism:
            gap = gap_of(kind, role, mechanism)
            assert gap.role == role
            if gap.lacks != f"{kind}|{mechanism}":
                (one,) = [one for one in PROTECTIONS if one.name == gap.lacks]
                assert role in one.roles or role not in ROLES
                assert kind in one.kinds or mechanism is one.mechanism


def test_an_episode_ends_with_its_budget(settings, tmp_path):
    world = simulation(settings, tmp_path)
    env = ChaosEnv(world, budget_min=1.0)
    policy = policy_named("round_robin", np.random.default_rng(0))
    observation, over, steps = env.observation(), False, 0
    while not over:
        observation, _, over, _, _ = env.step(policy.choose(observation, env.action_masks()))
        steps += 1
    assert env.spent_min >= 1.0
    assert steps < 10
    assert observation["budget"][0] == 0.0
    world.close()


def test_what_an_agent_sees_holds_neither_switches_nor_truth(settings, tmp_path):
    """Two clusters that differ only in what is hidden look the same before anything was tried."""
    looks = []
    for weak in (frozenset(), frozenset(MECHANISMS)):
        folder = tmp_path / str(len(weak))
        folder.mkdir()
        world = simulation(settings.model_copy(update={"state_dir": folder}), folder, hidden=Hidden(weak=weak))
        looks.append(_frozen(ChaosEnv(world, budget_min=5.0).observation()))
        world.close()
    assert looks[0] == looks[1]
