"""The GPU of a simulated cluster: who has one, what neighbours on it do to training, and what can be seen of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actuators.catalogue import CATALOGUE, LEVELS
from actuators.fault import Fault, Target
from agent.findings.ground_truth import compare
from envs.chaos import ChaosEnv
from envs.clusters.simulated.hidden import Hidden
from envs.scoring import Verdict
from tests.simulation import simulation

FILLED, CONTENDED = "gpu.memory_pressure", "gpu.compute_contention"


def fault(world, kind: str, level: float) -> Fault:
    return ChaosEnv(world, budget_min=10.0).code.fault("trainer", kind, level)


def seen(outcome) -> list[dict[str, Any]]:
    fault = outcome.fault
    fingerprint = f"{fault.kind}|{fault.target.name}|{outcome.mechanism}"
    return [{"fingerprint": fingerprint, "reproducer": {"intensity": fault.intensity}}]


@pytest.mark.parametrize("kind", [FILLED, CONTENDED])
@pytest.mark.parametrize("level", LEVELS)
def test_only_the_last_level_is_more_than_a_training_job_bears(settings, tmp_path, kind, level):
    world = simulation(settings, tmp_path)
    outcome = world.experimenter.run(fault(world, kind, level))
    assert outcome.verdict is (Verdict.WEAKNESS if level == 1.0 else Verdict.RESILIENT), outcome.score.reason
    if level == 1.0:
        truth = compare({}, seen(outcome))
        assert (truth["unplanted"], truth["false_alarms"]) == ([f"{kind}|trainer|stuck"], [])
    assert outcome.quarantined == ()
    world.close()


def test_a_job_that_dies_of_it_and_is_not_restarted_takes_a_repair(settings, tmp_path):
    """The promise that it breaks is the same with a restart, which fails as long as the card is full."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"restart"})))
    outcome = world.experimenter.run(fault(world, FILLED, 1.0))
    assert outcome.verdict is Verdict.WEAKNESS
    assert compare({"training.restart": "weak"}, seen(outcome))["unplanted"] == [f"{FILLED}|trainer|stuck"]
    assert outcome.repaired == ("trainer",), "nobody but the repair has started it again"
    world.close()


def watched(world, seconds: float) -> dict[str, list[float]]:
    """Returns what is measured meanwhile, by series."""
    found: dict[str, list[float]] = {}
    cluster = world.experimenter.cluster
    for _ in range(int(seconds / cluster.period_s)):
        for series, value in cluster.next_snapshot(1.0).values.items():
            found.setdefault(series, []).append(value)
    return found


def inject(world, kind: str, level: float, duration_s: float) -> None:
    supervisor = world.experimenter.supervisor
    supervisor.inject(Fault(kind, Target("trainer"), level, duration_s), world.experimenter.lookout.vitals())


@pytest.mark.parametrize("level", LEVELS)
def test_a_card_shows_how_much_of_it_is_taken_and_by_when_it_is_not(settings, tmp_path, level):
    world = simulation(settings, tmp_path)
    before = watched(world, 2.0)
    inject(world, FILLED, level, 10.0)
    during = watched(world, 8.0)
    after = watched(world, 40.0)
    assert set(before["trainer/gpu_memory_share"]) == {0.4}
    assert set(during["trainer/gpu_memory_share"]) == {CATALOGUE[FILLED].amount(level)}
    assert after["trainer/gpu_memory_share"][-1] == 0.4
    world.close()


def test_contention_slows_and_kills_nobody(settings, tmp_path):
    world = simulation(settings, tmp_path)
    inject(world, CONTENDED, 1.0, 10.0)
    during = watched(world, 9.0)
    assert np.mean(during["trainer/steps_per_s"]) == pytest.approx(7.5, abs=0.5)
    assert np.mean(during["trainer/gpu_utilisation"]) == pytest.approx(1.0, abs=0.05)
    assert during["trainer/restarts"][-1] == 0.0
    assert watched(world, 5.0)["trainer/steps_per_s"][-1] == pytest.approx(20.0, abs=2.0)
    world.close()


def test_memory_that_is_taken_for_good_keeps_a_job_down_and_is_found_again_after(settings, tmp_path):
    world = simulation(settings, tmp_path)
    inject(world, FILLED, 1.0, 50.0)
    during = watched(world, 49.0)
    assert set(during["trainer/steps_per_s"][1:]) == {0.0}
    assert during["trainer/restarts"][-1] >= 2.0
    assert watched(world, 20.0)["trainer/steps_per_s"][-1] == pytest.approx(20.0, abs=2.0)
    world.close()


def test_a_cluster_without_a_gpu_is_offered_no_such_fault_and_measures_none(settings, tmp_path):
    for has_gpu in (True, False):
        hidden = Hidden(has_gpu=has_gpu)
        world = simulation(settings.model_copy(update={"state_dir": tmp_path / str(has_gpu)}), tmp_path, hidden=hidden)
        env = ChaosEnv(world, budget_min=10.0)
        arms = {env.code.decode(action) for action in np.flatnonzero(env.state.available.numpy().reshape(-1))}
        kinds = {(arm.kind, arm.target.name) for arm in arms if arm is not None and arm.kind.startswith("gpu.")}
        assert kinds == ({(FILLED, "trainer"), (CONTENDED, "trainer")} if has_gpu else set())
        measured = watched(world, 1.0)
        assert {series for series in measured if "gpu" in series} <= set(world.experimenter.cluster.series)
        assert any("gpu" in series for series in measured) is has_gpu
        assert any("gpu" in series for series in world.experimenter.cluster.series) is has_gpu
        world.close()


def test_all_drawn_clusters_are_measured_alike():
    """What is recorded of several starts is judged together."""
    drawn = [Hidden.drawn(np.random.default_rng(seed)) for seed in range(40)]
    assert all(hidden.has_gpu for hidden in drawn)
    assert len({hidden.weak for hidden in drawn}) > 20
    assert drawn == [Hidden.drawn(np.random.default_rng(seed)) for seed in range(40)]
