"""What is measured of runs and halts: the numbers mean what they say, and what was not seen is not a number."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from actuators.catalogue import kind_of
from actuators.errors import BackburnError, BadInput, Unsafe
from agent.bench import rates, workers
from agent.bench.__main__ import Memory, measured
from agent.bench.beside import in_one_line, whole_from_1
from agent.bench.drilled import Ban, answered, timeline
from agent.bench.halts import calm, figures, halted, undone_faults
from agent.bench.remains import Remains
from agent.bench.tuning import Trial, lines_of, tuned
from agent.learning.regression import Prior
from agent.run import Run
from agent.settings import load
from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator
from safety.journal import Entry
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


def test_what_rates_are_measured_of_runs(monkeypatch):
    monkeypatch.setattr(rates, "_STOCK_BATCH", 8)
    pool, sizes = pool_of(Generator((6, 8)), 16, seed=0), rates.Sizes(alone=8, learning=8, minibatch=64)
    pieces = [rates._alone(Campaigns(pool, 8)), *(of(pool, sizes, 8) for of in (rates._rollout, rates._ppo))]
    for experiments, run in [*pieces, rates._stock_ppo(pool, sizes, 8)]:
        assert experiments == 8 * 32
        span = rates._span(experiments, run)
        assert span.experiments == experiments
        assert span.ended_s > span.began_s


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
    world.experimenter.lookout.poll = poll
    world.experimenter.supervisor.watch = lambda injection, _: world.experimenter.supervisor.revert(
        injection, "telemetry", "it was lost"
    )
    assert calm(world.experimenter, faults[0])
    assert halted(world.experimenter, world.state.lever, faults[0], 0.0) is None, "that was no halt"
    world.close()


def test_figures_of_a_run_stand_beside_what_was_aimed_for(tmp_path):
    settings = load(config_file(tmp_path, "local.yaml"))
    timings = {
        "phase_entries": {"gate": 12},  # a campaign waits at a gate where it then runs no experiment, too
        "phases_s": {"gate": 100.0, "ending everything": 3.0},
        "campaign_s": 400.0,
        "agent_own_s": 4.0,
        "agent_cpu_s": 8.0,
        "startup_s": {"ready": 45.0},
        "bring_up_s": 50.0,
        "calibration_s": 250.0,
    }
    facts = {"timings": timings, "decision_s": [0.001, 0.002, 0.2], "ended_by": "the budget is spent"}
    found = measured(facts, 10, Memory(settings), 2)
    assert found["an experiment in all"] == {"value": 40.0, "unit": "s", "against": 42.0, "ratio": 0.9524}
    assert found["phase: gate"]["value"] == 10.0
    assert "phase: ending everything" not in found
    assert found["the agent's own share of the time"]["ratio"] == 0.5
    assert found["a decision, longest"]["value"] == 200.0
    for experiments, decisions in ((0, []), (1, [])):
        with pytest.raises(BadInput, match="nothing was measured: the budget is spent"):
            measured(facts | {"decision_s": decisions}, experiments, Memory(settings), 2)


def test_only_what_a_campaign_did_counts_in_its_phases(settings, tmp_path):
    out = tmp_path / "run"
    Run(settings, out, Console(quiet=True)).execute()
    timings = json.loads((out / "run.json").read_text())["timings"]
    assert "calibrate" not in timings["phases_s"]
    outcomes = [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]
    assert timings["phase_entries"]["in force"] == sum(each["injection_id"] is not None for each in outcomes)


def test_whatever_is_left_of_a_cluster_is_found_by_folder_and_by_session(tmp_path):
    """A process in whose command line nothing tells, as a platform's are, and one that names the folder of a run."""
    settings = load(config_file(tmp_path, "local.yaml"))
    wait = "import sys; sys.stdin.read()"
    remains, pids = Remains(settings), []
    with ExitStack() as ends:
        for arguments in ([], [str(settings.runs_dir / "one" / "settings.yaml")], [f"{settings.runs_dir}-of-another"]):
            command = [sys.executable, "-c", wait, *arguments]
            process = ends.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=not arguments)
            )
            ends.callback(process.kill)
            pids.append(process.pid)
        settings.cluster_state_dir.mkdir(parents=True)
        handle = settings.cluster_state_dir / "platform.json"
        handle.write_text(json.dumps({"root": "/tmp/backburn-0000", "session_id": pids[0]}))
        remains.look()
        handle.unlink()
        remains.look()
        assert sorted(int(found.split()[0]) for found in remains.running()) == sorted(pids[:2])


def test_a_measurement_that_cannot_be_made_is_one_line(capsys):
    for error, code in ((BadInput("a\nb"), 2), (Unsafe("a\nb"), 3), (BackburnError("a\nb"), 4)):

        def failing(error: BackburnError = error) -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            in_one_line(failing)
        assert ended.value.code == code
        assert capsys.readouterr().err == "a b\n"
    for text in ("0", "-1", "1.5", "many"):
        with pytest.raises(argparse.ArgumentTypeError, match="allowed is a whole number from 1"):
            whole_from_1(text)
    assert whole_from_1("12") == 12


def moment(seconds: float) -> datetime:
    return datetime(2026, 11, 28, tzinfo=UTC) + timedelta(seconds=seconds)


def entry(seconds: float, event: str, injection: str | None = None, reason: str = "") -> Entry:
    return Entry(0, moment(seconds).isoformat(timespec="milliseconds"), event, injection, "somebody", reason)


A_FAULT = [entry(10.0, "intended", "a", "pod.pause on gateway"), entry(10.1, "applied", "a")]
LEVER = Ban("a lever", moment(12.0), moment(60.0))
GOES_ON = entry(70.0, "campaign", reason="x begins: 20 min")


def test_a_ban_is_answered_when_the_fault_goes_nothing_begins_and_it_goes_on():
    answer = answered(LEVER, [*A_FAULT, entry(12.4, "clean", "a"), GOES_ON])
    assert answer.well
    assert answer.in_force == ["pod.pause on gateway"]
    assert (answer.gone_s, answer.resumed_s) == (pytest.approx(0.4), pytest.approx(10.0))


@pytest.mark.parametrize(
    "entries",
    [
        [*A_FAULT, GOES_ON],  # it was never seen to be gone
        [*A_FAULT, entry(30.0, "clean", "a"), GOES_ON],  # too late
        [*A_FAULT, entry(12.4, "clean", "a")],  # it does not go on
        [*A_FAULT, entry(12.4, "clean", "a"), entry(300.0, "campaign", reason="x begins: 20 min")],  # goes on too late
        [*A_FAULT, entry(12.4, "clean", "a"), entry(20.0, "intended", "b"), entry(21.0, "clean", "b"), GOES_ON],
        [GOES_ON],  # nothing was in force: nothing is proved
    ],
)
def test_a_ban_is_not_answered_otherwise(entries):
    assert not answered(LEVER, entries).well


def test_the_end_needs_nothing_to_go_on_and_a_closed_window_no_fault():
    entries = [*A_FAULT, entry(12.4, "clean", "a")]
    assert answered(Ban("SIGTERM", moment(12.0), None, resumes=False), entries).well
    assert answered(Ban("closed", moment(20.0), moment(60.0), in_a_fault=False), [*entries, GOES_ON]).well


def test_the_timeline_is_in_the_order_of_time_and_names_each_fault():
    lines = timeline([*A_FAULT, entry(12.4, "clean", "a"), GOES_ON], [LEVER])
    assert [line.split()[0] for line in lines] == ["00:00:10.0", "00:00:12.0", "00:00:12.4", "00:01:00.0", "00:01:10.0"]
    assert "pod.pause on gateway" in lines[0]
    assert "pod.pause on gateway" in lines[2]


def test_settings_of_rivals_are_tried_on_the_same_clusters_the_shipped_ones_first():
    told: list[Trial] = []
    trials = tuned(2, 4, told.append)
    assert [(trial.policy, len(trial.settings)) for trial in told[:2]] == [("thompson", 6), ("ucb", 1)]
    assert told[0].settings == asdict(Prior())
    assert sorted(trials, key=str) == sorted(told, key=str)
    assert [trial.policy for trial in trials] == ["thompson", "thompson", "ucb", "ucb"]
    assert trials[0].area >= trials[1].area
    assert told[0].area == tuned(1, 4)[0].area, "the same luck again"
    assert lines_of(trials)[0].startswith("thompson ")


def test_a_second_worker_is_compared_within_each_round(tmp_path, monkeypatch, capsys):
    """On a host that is slow in one round and fast in the next, all that is measured is."""
    slow = {"alone": 1000.0, "together": 800.0, "together without Ray": 900.0}
    fast = {name: 3.0 * rate for name, rate in slow.items()} | {"together": 2700.0}
    rounds = [slow, fast, slow]
    orders: list[list[str]] = []

    def measured(names: list[str], steps: int, folder: Path) -> dict[str, float]:
        orders.append(names)
        return rounds.pop()

    monkeypatch.setattr(workers, "measured", measured)
    monkeypatch.setattr("sys.argv", ["workers", "--rounds", "3"])
    monkeypatch.chdir(tmp_path)
    workers.main()
    said = capsys.readouterr().out
    assert "together to alone: 0.80 (0.80 to 0.90)" in said
    assert "together without Ray to alone: 0.90 (0.90 to 0.90)" in said
    facts = json.loads((tmp_path / "runs" / "workers.json").read_text())
    assert facts["together to alone"] == 0.8
    assert facts["experiments_per_s"] == [slow, fast, slow]
    assert orders == [list(slow), list(slow)[::-1], list(slow)]
