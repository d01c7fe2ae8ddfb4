from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from rich.console import Console

from actuators.errors import BackburnError, BadInput, TargetNotFound, Unsafe
from actuators.fault import Fault, Target
from agent.build.parts import policy_named
from agent.build.simulated import SimulatedWorld
from agent.build.state import lever_of
from agent.campaign import Budget, Campaign, Ending, Result
from agent.cli import running
from agent.cli.options import FailOn
from agent.findings.ground_truth import SWITCHES
from agent.findings.ledger import Ledger
from agent.findings.report import load_run, rendered
from agent.findings.waterfall import as_text
from agent.learning.replay import ReplayPolicy
from agent.progress import Silent
from agent.run import Run
from agent.settings import load
from envs.chaos import ChaosEnv, Experience
from envs.clusters.simulated.hidden import Hidden
from envs.confirmation import Fingerprint
from envs.encoding import observed
from envs.experiment import NotSteady
from envs.hypothesis import Mechanism
from envs.protections import Gap
from envs.scoring import Evidence, Verdict
from tests.conftest import config_file
from tests.simulation import simulation
from tests.test_agent_findings import weakness
from tests.test_agent_waterfall import QUICK, SLOW, requests
from tests.waiting import wait_until

WEAK = Hidden({"gateway": 1, "model-server": 1, "feature-store": 1, "trainer": 2}, frozenset({"feature_timeout"}))


class Log:
    """Remembers what a campaign told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Verdict]] = []
        self.found = []

    def outcome(self, outcome, why, reason=None) -> None:
        self.outcomes.append((why, outcome.verdict))

    def weakness(self, weakness) -> None:
        """Not of interest."""

    def milder(self, weakness) -> None:
        """Not of interest."""

    def chose(self, fault, spent_min, reason=None) -> None:
        """Not of interest."""

    def judged(self, outcome, why) -> None:
        """Not of interest."""

    def confirmed(self, weakness) -> None:
        self.found.append(weakness)


def campaigned(settings, tmp_path, policy="thompson", minutes=20.0, seed=0, hidden=WEAK):
    world = simulation(settings, tmp_path, hidden=hidden)
    env = ChaosEnv(world, budget_min=0.8 * minutes)
    log, result = run_campaign(env, policy_named(policy, np.random.default_rng(seed)), Budget(minutes, 0.2, 0.1), seed)
    return world, env, log, result


def run_campaign(env, policy, budget, seed=0):
    log, result = Log(), Result()
    Campaign(env, policy, budget, record=log, progress=log, result=result, seed=seed, stopwatch=lambda: 0.0).run()
    return log, result


def test_a_campaign_confirms_what_is_weak_and_claims_nothing_else(settings, tmp_path):
    _, _, log, result = campaigned(settings, tmp_path)
    fingerprints = {weakness.fingerprint for weakness in result.weaknesses}
    assert "pod.kill|model-server|unavailable" in fingerprints
    assert any("|feature-store|" in f for f in fingerprints)
    # A job whose card is filled up by somebody else stops everywhere; nobody planted that, and it is true.
    assert {f for f in fingerprints if "trainer" in f} <= {"gpu.memory_pressure|trainer|stuck"}
    assert [w.id for w in log.found] == [w.id for w in result.weaknesses]
    assert result.spent_min <= 20.0 + 3.0


@pytest.mark.parametrize("policy", ["random", "round_robin", "thompson"])
def test_at_least_one_experiment_in_ten_is_a_sham(settings, tmp_path, policy):
    _, _, log, result = campaigned(settings, tmp_path, policy)
    assert result.shams >= len(log.outcomes) / 10
    assert result.sham_alarms == 0


def test_a_sham_that_could_not_be_judged_counts_as_run_and_as_that(settings, tmp_path):
    env = ChaosEnv(simulation(settings, tmp_path, hidden=WEAK), budget_min=4.0)
    sham = env.experimenter.sham
    env.experimenter.sham = lambda: sham().with_verdict(Verdict.INVALID, "nobody could tell")
    log, result = run_campaign(env, policy_named("round_robin", np.random.default_rng(0)), Budget(5.0, 0.2, 0.1))
    unjudged = log.outcomes.count(("sham", Verdict.INVALID))
    assert unjudged > 0
    assert (result.shams, result.sham_alarms, result.shams_unjudged) == (unjudged, 0, unjudged)


def test_every_outcome_is_recorded_with_its_purpose(settings, tmp_path):
    hidden = Hidden(weak=frozenset({"checkpoint"}))
    _, env, log, _ = campaigned(settings, tmp_path, "round_robin", minutes=40.0, hidden=hidden)
    purposes = [why for why, _ in log.outcomes]
    assert set(purposes) <= {"choice", "control", "sham", "shrink"}
    assert len(purposes) - purposes.count("sham") == len(env.outcomes)
    assert env.outcomes
    assert not any(outcome.trace for outcome in env.outcomes), "written down; a campaign of days would keep them all"


class Impatient(Log):
    """Asks for the end as soon as the first experiment has been judged, when nothing is in force or being watched."""

    def __init__(self, env) -> None:
        super().__init__()
        self._env = env

    def judged(self, outcome, why) -> None:
        self._env.experimenter.supervisor.interrupt("SIGTERM")


def test_an_interruption_between_two_experiments_is_why_it_ended(settings, tmp_path):
    env = ChaosEnv(simulation(settings, tmp_path, hidden=WEAK), budget_min=20.0)
    result, log = Result(), Impatient(env)
    policy = policy_named("random", np.random.default_rng(0))
    budget = Budget(40.0, 0.5, 0.1)
    Campaign(env, policy, budget, record=log, progress=log, result=result, seed=0, stopwatch=lambda: 0.0).run()
    assert log.outcomes == [("sham", Verdict.RESILIENT)]
    assert result.ended_by == "interrupted: SIGTERM"


def test_what_stands_in_the_way_for_a_moment_does_not_end_a_campaign(settings, tmp_path):
    """An alert, or telemetry that is silent, masks everything just when a policy is to choose; a gate waits for it."""
    env = ChaosEnv(simulation(settings, tmp_path, hidden=WEAK), budget_min=4.0)
    masks, nothing = env.action_masks, np.arange(env.code.stop + 1) == env.code.stop
    asked = []
    env.action_masks = lambda: nothing if asked.append(0) or len(asked) % 2 else masks()
    _, result = run_campaign(env, policy_named("round_robin", np.random.default_rng(0)), Budget(5.0, 0.2, 0.1))
    assert (result.ending, result.ended_by) == (Ending.COMPLETE, "the budget is spent")
    assert result.verdicts


def test_where_nothing_is_ever_offered_the_policy_stops(settings, tmp_path):
    env = ChaosEnv(simulation(settings, tmp_path, hidden=WEAK), budget_min=4.0)
    nothing = np.arange(env.code.stop + 1) == env.code.stop
    env.action_masks = lambda: nothing
    _, result = run_campaign(env, policy_named("round_robin", np.random.default_rng(0)), Budget(5.0, 0.2, 0.1))
    assert (result.ended_by, result.verdicts) == ("the policy stopped", [])


def test_what_the_door_refuses_again_and_again_is_not_offered_for_ever(settings, tmp_path):
    """Nothing speaks against it beforehand, and yet its target is not there: half a second each, for hours."""
    world = simulation(settings, tmp_path)
    env = ChaosEnv(world, budget_min=20.0)

    def gone(injection_id, fault):
        raise TargetNotFound("nobody there")

    world.actuators["pod"].prepare = gone
    pause = env.code.encode(env.code.fault("gateway", "pod.pause", 0.25))
    log, result = run_campaign(env, ReplayPolicy(pause, 50), Budget(40.0, 0.5, 0.1))
    assert [verdict for why, verdict in log.outcomes if why == "choice"] == [Verdict.INVALID] * 3
    assert result.ended_by == "the policy stopped"


@pytest.mark.parametrize("way", ["lever", "leak", "not steady"])
def test_a_run_that_was_not_allowed_to_go_on_says_so(settings, tmp_path, way):
    world = simulation(settings, tmp_path)
    env = ChaosEnv(world, budget_min=20.0)

    class InTheWay(Log):
        def judged(self, outcome, why) -> None:
            if why == "choice" and way == "lever":
                world.state.lever.engage("that is enough", "test")

    if way == "leak":
        world.actuators["pod"].probe_clean = lambda injection: False
    if way == "not steady":
        env.experimenter.gate = lambda fault: (_ for _ in ()).throw(NotSteady("it wanders"))
    log, result = InTheWay(), Result()
    pause = env.code.encode(env.code.fault("gateway", "pod.pause", 0.25))
    policy, budget = ReplayPolicy(pause, 50), Budget(40.0, 0.5, 0.1)
    Campaign(env, policy, budget, record=log, progress=log, result=result, seed=0, stopwatch=lambda: 0.0).run()
    assert result.ending is (Ending.NOT_STEADY if way == "not steady" else Ending.FORBIDDEN)
    run = SimpleNamespace(result=result, interrupted=False, leaked=list)
    error = BackburnError if way == "not steady" else Unsafe
    with pytest.raises(error, match={"lever": "that is enough", "leak": "leaked", "not steady": "wanders"}[way]):
        running._end(run, [], FailOn.NEVER)


def test_who_asks_for_the_end_hears_of_a_leak_all_the_same(settings, tmp_path):
    world = simulation(settings, tmp_path)
    env = ChaosEnv(world, budget_min=20.0)
    world.actuators["pod"].probe_clean = lambda injection: False
    result, log = Result(), Log()
    policy = ReplayPolicy(env.code.encode(env.code.fault("gateway", "pod.pause", 0.25)), 50)
    watch, interrupt = env.experimenter.supervisor.watch, env.experimenter.supervisor.interrupt
    env.experimenter.supervisor.watch = lambda *known: (interrupt("SIGTERM"), watch(*known))[1]
    budget = Budget(40.0, 0.5, 0.1)
    Campaign(env, policy, budget, record=log, progress=log, result=result, seed=0, stopwatch=lambda: 0.0).run()
    assert (result.ending, result.ended_by) == (Ending.FORBIDDEN, "interrupted: SIGTERM")
    run = Run(settings, tmp_path / "run", Console(quiet=True))
    run.result = result
    run._interruption.ask("SIGTERM")
    with pytest.raises(Unsafe, match=r"1 fault\(s\) leaked, first pod.pause on gateway"):
        running._end(run, [], FailOn.NEVER)


def replayed(result: Result) -> None:
    """Says what two repeats have come to for a weakness by which requests to a component multiply."""
    run = SimpleNamespace(
        result=result,
        execute=lambda: result,
        interrupted=False,
        leaked=list,
        folder=SimpleNamespace(path=Path("runs/it")),
    )
    running._replayed(run, {"id": "W-1", "severity": "high", "mechanism": "amplified"}, 2, FailOn.HIGH)


@pytest.mark.parametrize(
    ("verdicts", "ends"),
    [
        ([Verdict.WEAKNESS, Verdict.RESILIENT], typer.Exit),
        ([Verdict.RESILIENT, Verdict.RESILIENT], None),
        ([Verdict.RESILIENT, Verdict.INVALID], BackburnError),
        ([Verdict.RESILIENT], BackburnError),
        ([], BackburnError),
    ],
)
def test_a_replay_without_the_weakness_is_good_news_only_if_all_of_it_was_judged(verdicts, ends, capsys):
    how = {Verdict.WEAKNESS: frozenset({Mechanism.UNAVAILABLE, Mechanism.AMPLIFIED})}
    with pytest.raises(ends) if ends else nullcontext():
        replayed(Result(verdicts=verdicts, broken=[how.get(verdict, frozenset()) for verdict in verdicts]))
    said = capsys.readouterr().out
    shown, borne = verdicts.count(Verdict.WEAKNESS), verdicts.count(Verdict.RESILIENT)
    assert f"W-1 was shown again by {shown} of 2 repeats, and not by {borne}\n" in said


@pytest.mark.parametrize(
    ("second", "confirms", "ends", "said"),
    [
        ("amplified", False, typer.Exit, "by 1 of 2 repeats, and not by 1, of which 1 broke another promise"),
        ("unavailable", False, None, "by 0 of 2 repeats, and not by 2, of which 2 broke another promise"),
        ("unavailable", True, typer.Exit, "by 0 of 2 repeats, and not by 2, of which 2 broke another promise"),
        (None, False, BackburnError, "by 0 of 2 repeats, and not by 1, of which 1 broke another promise"),
    ],
)
def test_a_replay_that_breaks_another_promise_has_not_shown_the_weakness_again(second, confirms, ends, said, capsys):
    """It may have shown another one: that counts once it is confirmed."""
    broken = [frozenset({Mechanism.UNAVAILABLE}), frozenset() if second is None else frozenset({Mechanism(second)})]
    verdicts = [Verdict.WEAKNESS, Verdict.INVALID if second is None else Verdict.WEAKNESS]
    found = [weakness(severity="high")] if confirms else []
    with pytest.raises(ends) if ends else nullcontext():
        replayed(Result(verdicts=verdicts, broken=broken, weaknesses=found))
    assert f"W-1 was shown again {said}\n" in capsys.readouterr().out


def test_a_replay_is_on_the_cluster_on_which_the_weakness_was_seen_and_says_what_it_is(tmp_path):
    config = config_file(tmp_path, campaign={"budget_min": 3.0, "seed": 0}, scoring={"units": 24})
    ledger = Ledger(load(config).cluster_state_dir / "ledger.db")
    ledger.record([weakness(seed=3)])
    ledger.close()
    running.replay(weakness().id, config, times=1, out=tmp_path / "run", fail_on=FailOn.NEVER)
    campaign = load_run(tmp_path / "run")["settings"]["campaign"]
    assert (campaign["seed"], campaign["policy"]) == (3, f"replay {weakness().id}")
    assert f"policy replay {weakness().id}, seed 3" in rendered(tmp_path / "run", "md")


def test_a_weakness_is_in_the_ledger_before_the_experiment_that_confirmed_it(settings, tmp_path):
    """A later campaign that recalls the experiment takes the weakness for known; it must not be lost in between."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"checkpoint"})))
    env = ChaosEnv(world, budget_min=20.0)
    order = []

    class Ordered(Log):
        def outcome(self, outcome, why, reason=None) -> None:
            order.append(why)

        def weakness(self, weakness) -> None:
            order.append("weakness")

    log, worst = Ordered(), Fault("model.checkpoint_corrupt", Target("trainer"), 1.0, 50.0)
    policy, budget = ReplayPolicy(env.code.encode(worst), 2), Budget(40.0, 0.5, 0.1)
    Campaign(env, policy, budget, record=log, progress=log, result=Result(), seed=0, stopwatch=lambda: 0.0).run()
    assert [what for what in order if what != "sham"][:4] == ["control", "choice", "weakness", "choice"]


SERVER_DIES = Fault("pod.kill", Target("model-server"), 0.25, 9.0)


def remembered(fault: Fault, *mechanisms: Mechanism) -> list[Experience]:
    """Returns experiments of earlier campaigns that showed a weakness, as strongly as they can."""
    evidence = Evidence(Verdict.WEAKNESS, anomaly_score=0.9, p=0.0123, p_floor=0.0123, e_value=4.5, cost_min=0.5)
    return [Experience(fault, evidence, mechanism) for mechanism in mechanisms]


def test_what_only_forgetting_has_confirmed_is_confirmed_aloud_by_the_next_replicate(settings, tmp_path):
    """An experiment that was borne spoke against it, and is forgotten by now: no campaign has ever reported it."""
    env = ChaosEnv(simulation(settings, tmp_path, hidden=WEAK), budget_min=20.0)
    twice = remembered(SERVER_DIES, Mechanism.UNAVAILABLE, Mechanism.UNAVAILABLE)
    assert env.recall(twice, recorded=["pod.kill|gateway|unavailable"]) == 2
    assert (env.confirmations.confirmed, env.gaps) == ({}, set())
    arm = env.code.index(env.code.encode(SERVER_DIES))
    assert observed(env.observation(), "confirmed")[arm] == 0.0, "a policy would leave it alone"
    assert observed(env.observation(), "weakness")[arm] > 0.0
    log, result = run_campaign(env, ReplayPolicy(env.code.encode(SERVER_DIES), 1), Budget(40.0, 0.5, 0.1))
    (found,) = result.weaknesses
    assert (found.fingerprint, found.confidence["reproduced"]) == ("pod.kill|model-server|unavailable", 3)
    assert log.found == [found]
    assert observed(env.observation(), "confirmed")[arm] == 1.0


def test_what_was_written_down_is_recalled_as_known(settings, tmp_path):
    env = ChaosEnv(simulation(settings, tmp_path, hidden=WEAK), budget_min=20.0)
    twice = remembered(SERVER_DIES, Mechanism.UNAVAILABLE, Mechanism.UNAVAILABLE)
    env.recall(twice, recorded=["pod.kill|model-server|unavailable"])
    assert env.gaps == {Gap("model-server", "redundancy")}
    arm = env.code.index(env.code.encode(SERVER_DIES))
    assert observed(env.observation(), "confirmed")[arm] == 1.0
    _, result = run_campaign(env, ReplayPolicy(env.code.encode(SERVER_DIES), 1), Budget(40.0, 0.5, 0.1))
    assert (result.verdicts, result.weaknesses) == ([Verdict.WEAKNESS], [])


def test_a_weakness_is_told_with_an_experiment_that_shows_it_or_not_yet(settings, tmp_path):
    """Answers were slow twice, says the memory; now requests fail, and no number of that tells of slow answers."""
    env = ChaosEnv(simulation(settings, tmp_path, hidden=WEAK), budget_min=20.0)
    env.recall(remembered(SERVER_DIES, Mechanism.SLOW, Mechanism.SLOW), recorded=())
    _, result = run_campaign(env, ReplayPolicy(env.code.encode(SERVER_DIES), 1), Budget(40.0, 0.5, 0.1))
    assert (result.broken, result.weaknesses) == ([frozenset({Mechanism.UNAVAILABLE})], [])


def test_a_weakness_that_a_control_confirms_is_written_down_like_any_other(settings, tmp_path):
    """The trigger alone showed it, then something inconclusive, so it is tried again beside the latent fault."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"restart", "checkpoint"})))
    env = ChaosEnv(world, budget_min=20.0)
    alone = env.experiment(Fault("pod.kill", Target("trainer"), 0.25, 30.0))
    assert alone.verdict is Verdict.WEAKNESS
    for outcome in (alone, alone.with_verdict(Verdict.INCONCLUSIVE, "who knows")):
        env.learn(outcome)
    worst = Fault("model.checkpoint_corrupt", Target("trainer"), 1.0, 50.0)
    log, result = run_campaign(env, ReplayPolicy(env.code.encode(worst), 1), Budget(40.0, 0.5, 0.1))
    assert ("control", Verdict.WEAKNESS) in log.outcomes
    (found,) = result.weaknesses
    assert found.fingerprint == "pod.kill|trainer|stuck"
    assert found.evidence["series"].startswith("trainer/")
    assert found.reproducer["command"] == f"backburn replay {found.id}"
    assert found.remedy["source"].startswith("https://")
    assert (log.found, len(result.confirmed_min)) == ([found], 1)


def test_a_level_that_is_the_same_as_a_milder_one_is_skipped_and_not_the_end(settings, tmp_path):
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"checkpoint"})))
    env = ChaosEnv(world, budget_min=20.0)
    fault_at = env.fault_at
    env.fault_at = lambda cell: None if cell.intensity == 0.5 else fault_at(cell)
    worst = Fault("model.checkpoint_corrupt", Target("trainer"), 1.0, 50.0)
    _, result = run_campaign(env, ReplayPolicy(env.code.encode(worst), 2), Budget(40.0, 0.5, 0.1))
    assert result.weaknesses[0].reproducer["intensity"] == 0.25


def test_a_promise_of_somebody_who_is_not_there_is_refused(settings, tmp_path):
    clauses = tuple(replace(clause, series="gatewya/up") for clause in settings.hypothesis.clauses[:1])
    settings = settings.model_copy(update={"hypothesis": replace(settings.hypothesis, clauses=clauses)})
    with pytest.raises(BadInput, match=r"names gatewya/up, which this cluster has not; allowed is gateway/up"):
        simulation(settings, tmp_path)


def test_a_confirmed_weakness_is_shrunk_to_its_mildest_form(settings, tmp_path):
    """A checkpoint that is gone stops training; so does one of which a quarter is missing."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"checkpoint"})))
    env = ChaosEnv(world, budget_min=20.0)
    worst = Fault("model.checkpoint_corrupt", Target("trainer"), 1.0, 50.0)
    log, result = run_campaign(env, ReplayPolicy(env.code.encode(worst), 2), Budget(40.0, 0.5, 0.1))
    (found,) = result.weaknesses
    assert (found.fault["intensity"], found.reproducer["intensity"]) == (1.0, 0.25)
    assert [why for why, _ in log.outcomes if why != "sham"] == ["control", "choice", "choice", "shrink", "shrink"]


class Cutting(Log):
    """Asks for the end as soon as a weakness is to be shrunk."""

    def __init__(self, env) -> None:
        super().__init__()
        self._env = env

    def chose(self, fault, spent_min, reason=None) -> None:
        if fault is not None and fault.intensity < 1.0:
            self._env.experimenter.supervisor.interrupt("SIGTERM")


def test_a_weakness_is_kept_although_it_could_not_be_shrunk(settings, tmp_path):
    """Where it is recalled as known, no later campaign would ever report it."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"checkpoint"})))
    env = ChaosEnv(world, budget_min=20.0)
    worst = Fault("model.checkpoint_corrupt", Target("trainer"), 1.0, 50.0)
    result, log = Result(), Cutting(env)
    policy, budget = ReplayPolicy(env.code.encode(worst), 2), Budget(40.0, 0.5, 0.1)
    Campaign(env, policy, budget, record=log, progress=log, result=result, seed=0, stopwatch=lambda: 0.0).run()
    (found,) = result.weaknesses
    assert found.reproducer["intensity"] == 1.0
    assert log.found == [found]
    assert result.ended_by == "interrupted: SIGTERM"


def test_what_is_confirmed_while_another_weakness_is_shrunk_is_written_down_as_well(settings, tmp_path):
    """Half the delay makes answers slow, where all of it makes requests fail: seen once before, then by shrinking."""
    world = simulation(settings, tmp_path, hidden=WEAK)
    env = ChaosEnv(world, budget_min=20.0)
    worst, half = (Fault("network.delay", Target("feature-store"), intensity, 12.0) for intensity in (1.0, 0.5))
    env.learn(env.experiment(half))
    log, result = run_campaign(env, ReplayPolicy(env.code.encode(worst), 2), Budget(40.0, 0.5, 0.1))
    assert [found.mechanism for found in result.weaknesses] == ["unavailable", "slow"]
    assert set(env.confirmations.confirmed) == {
        Fingerprint("network.delay", "feature-store", Mechanism(found.mechanism)) for found in log.found
    }


def test_a_milder_fault_that_breaks_another_promise_is_no_milder_form(settings, tmp_path):
    """Two seconds make requests fail; half a second makes them slow, which is another weakness."""
    world = simulation(settings, tmp_path, hidden=WEAK)
    env = ChaosEnv(world, budget_min=20.0)
    worst = Fault("network.delay", Target("feature-store"), 1.0, 12.0)
    _, result = run_campaign(env, ReplayPolicy(env.code.encode(worst), 2), Budget(40.0, 0.5, 0.1))
    (found,) = result.weaknesses
    assert (found.mechanism, found.reproducer["intensity"]) == ("unavailable", 1.0)


def test_a_fault_without_degrees_is_its_own_mildest_form(settings, tmp_path):
    world = simulation(settings, tmp_path, hidden=WEAK)
    env = ChaosEnv(world, budget_min=20.0)
    cut = env.code.encode(Fault("network.partition", Target("feature-store"), 0.25, 12.0))
    log, result = run_campaign(env, ReplayPolicy(cut, 2), Budget(40.0, 0.5, 0.1))
    (found,) = result.weaknesses
    assert found.title.startswith("Cutting feature-store off from its callers")
    assert found.reproducer["amount"] == "100% of traffic from and towards the target"
    assert "shrink" not in {why for why, _ in log.outcomes}


def test_thompson_spends_its_minutes_better_than_chance(settings, tmp_path):
    """On the same clusters and minutes; a sanity check, no benchmark."""
    found = {}
    for policy in ("thompson", "random"):
        total = 0
        for seed in range(6):
            folder = tmp_path / f"{policy}{seed}"
            folder.mkdir()
            state = settings.model_copy(update={"state_dir": folder})
            world, _, _, result = campaigned(state, folder, policy, minutes=8.0, seed=seed)
            total += len(result.weaknesses)
            world.close()
        found[policy] = total
    assert found["thompson"] > found["random"], found


# ---- a whole run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run = Run(load(config_file(folder, campaign={"budget_min": 12.0, "seed": 5})), folder / "run", Console(quiet=True))
    run.execute()
    return run.folder.path


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A copy of a run's folder, for a test to write in."""
    return Path(shutil.copytree(finished_once, tmp_path / "run"))


def test_switches_that_are_scrambled_outside_of_the_platform_change_no_decision(tmp_path):
    """Whatever the settings say is weak: only the platform's processes may read it, and here there are none."""
    decisions = []
    scrambled = np.random.default_rng(0).choice(["weak", "hardened"], len(SWITCHES)).tolist()
    for name, states in {"weak": ["weak"] * len(SWITCHES), "scrambled": scrambled}.items():
        folder = tmp_path / name
        folder.mkdir()
        switches = dict(zip(SWITCHES, states, strict=True))
        settings = load(config_file(folder, campaign={"budget_min": 8.0}, cluster={"switches": switches}))
        run = Run(settings, folder / "run", Console(quiet=True))
        run.execute()
        lines = [json.loads(line) for line in (run.folder.path / "outcomes.jsonl").read_text().splitlines()]
        decisions.append([(line["fault"], line["verdict"], line["evidence"]) for line in lines])
    assert len(decisions[0]) > 5
    assert decisions[0] == decisions[1]


def test_a_run_says_why_each_experiment_was_chosen(finished):
    lines = [json.loads(line) for line in (finished / "outcomes.jsonl").read_text().splitlines()]
    choices = [line for line in lines if line["why"] == "choice"]
    assert choices
    assert [line["because"] for line in lines if line["why"] != "choice"] == [None] * (len(lines) - len(choices))
    for line in choices:
        because = line["because"]
        assert 0.0 < because["odds"] < 1.0
        assert because["gain"] >= 0.0
        assert because["minutes"] > line["fault"]["duration_s"] / 60.0
        assert set(because["rivals"]) == {"round_robin", "thompson", "posterior"}
    weak = next(line for line in choices if line["verdict"] == "weakness")
    assert weak["because"]["odds"] > min(line["because"]["odds"] for line in choices)
    for form in ("html", "md"):
        assert "held to be weak with a probability of" in rendered(finished, form)


def test_a_run_leaves_everything_that_a_reader_needs(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "settings.yaml",
        "run.json",
        "outcomes.jsonl",
        "weaknesses.json",
        "report.html",
        "report.md",
        "report.json",
    }
    run = json.loads((finished / "run.json").read_text())
    assert run["schema_version"] == 1
    assert (run["state"], run["ended_by"]) == ("done", "the budget is spent")
    assert run["shams"]["run"] > 0
    assert (run["shams"]["alarms"], run["shams"]["unjudged"]) == (0, 0)
    assert len(run["decision_s"]) > 3
    assert statistics.median(run["decision_s"]) < 0.5
    data = load_run(finished)
    assert len(data["outcomes"]) > 10
    assert data["weaknesses"]


def test_reports_are_made_from_the_folder_alone_and_say_the_same(finished):
    for form in ("html", "md", "json"):
        assert rendered(finished, form) == (finished / f"report.{form}").read_text()
    html, markdown = rendered(finished, "html"), rendered(finished, "md")
    for found in json.loads((finished / "weaknesses.json").read_text()):
        assert found["id"] in html
        assert found["title"] in markdown
        assert found["remedy"]["source"] in html
    assert json.loads(rendered(finished, "json"))["schema_version"] == 1


def test_the_report_shows_a_request_before_and_one_during_the_fault_where_somebody_can_tell(finished):
    path = finished / "weaknesses.json"
    found = json.loads(path.read_text())
    assert [weakness["requests"] for weakness in found] == [None] * len(found), "simulated clusters show none"
    pictures = rendered(finished, "html").count("<svg")
    del found[-1]["requests"]  # as an earlier version wrote it
    found[0]["requests"] = requests(QUICK, SLOW)
    path.write_text(json.dumps(found))
    html = rendered(finished, "html")
    assert html.count("<svg") == pictures + 1
    assert "during fault bb-0123456789ab" in html
    assert as_text(found[0]["requests"]) in rendered(finished, "md")
    assert json.loads(rendered(finished, "json"))["weaknesses"][0]["requests"]["injection_id"] == "bb-0123456789ab"


def test_the_html_report_is_one_file_that_fetches_nothing(finished):
    html = (finished / "report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)\b", html)
    assert html.count("<svg") == len(json.loads((finished / "weaknesses.json").read_text()))


def test_names_from_outside_cannot_become_markup(finished):
    path = finished / "run.json"
    path.write_text(path.read_text().replace("the budget is spent", "<script>alert(1)</script>"))
    assert "<script>" not in rendered(finished, "html")


def test_the_report_says_which_weaknesses_come_to_the_same_gap(finished):
    (one, *_) = load_run(finished)["weaknesses"]
    fingerprints = ("pod.kill|gateway|unavailable", "network.delay|gateway|slow", "pod.pause|gateway|unavailable")
    weaknesses = [{**one, "id": f"W-{number}", "fingerprint": each} for number, each in enumerate(fingerprints)]
    (finished / "weaknesses.json").write_text(json.dumps(weaknesses))
    html, markdown = rendered(finished, "html"), rendered(finished, "md")
    assert markdown.startswith("# 3 confirmed weaknesses, 2 gaps on cluster")
    told = [line for line in markdown.splitlines() if line.startswith("- missing: ")]
    assert sorted(told) == [
        "- missing: gateway: redundancy, also shown by W-0",
        "- missing: gateway: redundancy, also shown by W-2",
        "- missing: gateway: what bears network.delay",
    ]
    assert html.count("also shown by <a href") == 2
    weaknesses[0]["fingerprint"] = "pod.kill"
    (finished / "weaknesses.json").write_text(json.dumps(weaknesses))
    with pytest.raises(BadInput, match="not the folder of a finished run"):
        rendered(finished, "md")


@pytest.fixture
def chromium():
    """A real Chromium; a newcomer may lack it, the place that tests everything may not."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and not os.environ.get("BACKBURN_TEST_EVERYTHING"):
        pytest.skip("no chromium here; Debian: apt-get install chromium")
    return found or "chromium"


@pytest.mark.browser
def test_the_report_reads_well_in_a_real_browser(finished, tmp_path, chromium):
    """Chromium lays it out: the headings are there, pictures have a size, and nothing is wider than the page."""
    probe = tmp_path / "probe.html"
    script = (
        "<script>addEventListener('load', () => { document.body.dataset.result = JSON.stringify({"
        "wide: document.documentElement.scrollWidth, view: innerWidth,"
        "pictures: [...document.querySelectorAll('svg')].map(s => [s.clientWidth, s.clientHeight]),"
        "headings: [...document.querySelectorAll('h1,h2')].map(h => h.textContent)}) })</script>"
    )
    probe.write_text((finished / "report.html").read_text().replace("</body>", script + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [chromium, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", probe.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = json.loads(re.search(r'data-result="([^"]*)"', dom).group(1).replace("&quot;", '"'))
    assert found["wide"] <= found["view"]
    assert found["pictures"]
    assert all(width > 300 and height > 60 for width, height in found["pictures"])
    assert "What was tried" in found["headings"]
    assert "How far to trust this" in found["headings"]


def test_a_dry_run_plans_and_touches_nothing(tmp_path):
    settings = load(config_file(tmp_path, campaign={"budget_min": 3.0}))
    run = Run(settings, tmp_path / "run", Console(quiet=True), dry_run=True)
    result = run.execute()
    data = load_run(run.folder.path)
    tried = [outcome for outcome in data["outcomes"] if outcome["fault"] is not None]
    assert tried
    assert {outcome["verdict"] for outcome in tried} == {"invalid"}
    assert result.weaknesses == []


def test_a_rival_that_cannot_be_read_is_said_before_anything_is_started(tmp_path, monkeypatch):
    def named(name, random):
        if name == "posterior":
            raise BadInput("policy posterior.safetensors is of another version")
        return policy_named(name, random)

    monkeypatch.setattr("agent.run.policy_named", named)
    with pytest.raises(BadInput, match="of another version"):
        Run(load(config_file(tmp_path)), tmp_path / "run", Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_no_longer_safe_leaves_what_it_had(tmp_path, monkeypatch):
    settings = load(config_file(tmp_path, campaign={"budget_min": 3.0}))
    run = Run(settings, tmp_path / "run", Console(quiet=True))
    keep = run._notebook.outcome

    def fenced(*args) -> None:
        keep(*args)
        raise Unsafe("another agent holds the lease")

    monkeypatch.setattr(run._notebook, "outcome", fenced)
    with pytest.raises(Unsafe):
        run.execute()
    data = load_run(run.folder.path)
    assert (data["run"]["state"], data["run"]["ended_by"]) == ("failed", "another agent holds the lease")
    assert len(data["outcomes"]) == 1


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_dry_run_repairs_nothing_for_a_repair_kills(settings, dry_run):
    world = SimulatedWorld(settings, Silent(), dry_run=dry_run, lever=lever_of(settings))
    assert world.start(0).supervisor.repair("trainer") is not dry_run
    world.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_valid_report(tmp_path, number):
    config = config_file(tmp_path, campaign={"budget_min": 100_000.0})
    out = tmp_path / "run"
    command = [sys.executable, "-m", "agent", "run", "--config", str(config), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    outcomes = out / "outcomes.jsonl"
    try:
        wait_until(lambda: outcomes.exists() and outcomes.stat().st_size > 0, within_s=60.0)
        os.kill(process.pid, number)
        text, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert f"interrupted: {signal.Signals(number).name}" in text
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "interrupted"
    assert "confirmed weakness" in (out / "report.html").read_text()
