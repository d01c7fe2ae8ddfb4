"""What is measured of runs and halts: the numbers mean what they say, and what was not seen is not a number."""

from __future__ import annotations

import math

import pytest

from actuators.catalogue import kind_of
from agent.bench.__main__ import Memory, measured
from agent.bench.halts import calm, figures, halted, undone_faults
from agent.settings import load
from tests.conftest import config_file
from tests.simulation import simulation


def test_halts_are_counted_by_kind_and_together_and_a_fault_that_stayed_is_no_time():
    found = figures({"pod.pause": [0.2, 0.4, 0.6], "network.delay": [0.1, math.nan]})
    assert found["pod.pause"] == {
        "p50_s": pytest.approx(0.4),
        "p99_s": pytest.approx(0.596),
        "halts": 3,
        "not_seen_to_be_gone": 0,
    }
    assert (found["network.delay"]["halts"], found["network.delay"]["not_seen_to_be_gone"]) == (2, 1)
    assert (found["all"]["halts"], found["all"]["p50_s"]) == (5, pytest.approx(0.3))
    assert figures({})["all"]["p50_s"] is None


def test_what_is_halted_can_be_undone_and_ends_with_the_lever(settings, tmp_path):
    world = simulation(settings, tmp_path)
    faults = undone_faults(world.experimenter)
    assert {kind_of(fault.kind).reversible for fault in faults} == {True}
    assert len({fault.kind for fault in faults}) > 8
    assert calm(world.experimenter, faults[0])
    poll = world.experimenter.lookout.poll

    def with_the_lever_pulled():
        """A simulated cluster's time runs faster than any timer."""
        world.state.lever.engage("a test", "test")
        return poll()

    world.experimenter.lookout.poll = with_the_lever_pulled
    assert 0.0 <= abs(halted(world.experimenter, world.state.lever, faults[0], 0.0)) < 5.0
    assert not world.state.lever.read().engaged
    assert world.state.journal.open_injections() == []
    world.close()


def test_figures_of_a_run_stand_beside_what_was_aimed_for(tmp_path):
    settings = load(config_file(tmp_path, "local.yaml"))
    timings = {
        "phase_entries": {"gate": 10},
        "phases_s": {"gate": 100.0, "calibrate": 250.0},
        "campaign_s": 400.0,
        "agent_own_s": 4.0,
        "agent_cpu_s": 8.0,
        "startup_s": {"ready": 45.0},
        "bring_up_s": 50.0,
        "calibration_s": 250.0,
    }
    found = measured({"timings": timings, "decision_s": [0.001, 0.002, 0.2]}, Memory(settings), 2)
    assert found["an experiment in all"] == {"value": 40.0, "unit": "s", "against": 42.0, "ratio": 0.9524}
    assert found["phase: gate"]["value"] == 10.0
    assert "phase: calibrate" not in found
    assert found["the agent's own share of the time"]["ratio"] == 0.5
    assert found["a decision, longest"]["value"] == 200.0
