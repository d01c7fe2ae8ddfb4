"""Whatever happens in an experiment: nothing stays in force, and only what was seen to be resilient is called so."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest

from actuators.catalogue import CATALOGUE
from actuators.errors import InjectionFailed, RevertFailed
from actuators.fault import Fault, Target
from envs.chaos import ChaosEnv
from envs.clusters.simulated.hidden import Hidden
from envs.experiment import Interrupted, NotSteady
from envs.hypothesis import Mechanism
from envs.scoring import Verdict
from envs.telemetry.alerts import Alert
from envs.telemetry.snapshot import Snapshot
from tests.contracts.test_actuators import TARGET
from tests.simulation import simulation

SINGLE = {"gateway": 1, "model-server": 1, "feature-store": 1, "trainer": 2}
REVEALS = {
    "serving.replicas": (Hidden(SINGLE), "pod.kill", "model-server", 0.25, {Mechanism.UNAVAILABLE}),
    "serving.feature_timeout": (
        Hidden(weak=frozenset({"feature_timeout"})),
        "network.delay",
        "feature-store",
        1.0,
        {Mechanism.UNAVAILABLE, Mechanism.SLOW},
    ),
    "serving.retries": (
        Hidden(weak=frozenset({"retries"})),
        "network.loss",
        "feature-store",
        0.5,
        {Mechanism.AMPLIFIED},
    ),
    "training.restart": (Hidden(weak=frozenset({"restart"})), "pod.kill", "trainer", 0.25, {Mechanism.STUCK}),
    "training.restart, node lost": (
        Hidden(weak=frozenset({"restart"})),
        "pod.node_kill",
        "trainer",
        0.25,
        {Mechanism.STUCK},
    ),
    "training.checkpoint": (
        Hidden(weak=frozenset({"checkpoint"})),
        "model.checkpoint_corrupt",
        "trainer",
        0.5,
        {Mechanism.STUCK},
    ),
    "training.checkpoint, deleted": (
        Hidden(weak=frozenset({"checkpoint"})),
        "model.checkpoint_delete",
        "trainer",
        0.25,
        {Mechanism.LOST_PROGRESS},
    ),
    "serving.health": (
        Hidden(weak=frozenset({"health"})),
        "model.registry_unavailable",
        "model-server",
        0.25,
        {Mechanism.UNAVAILABLE},
    ),
    "registry.verify": (
        Hidden(weak=frozenset({"verify"})),
        "model.registry_corrupt",
        "model-server",
        1.0,
        {Mechanism.WRONG_ANSWERS},
    ),
    "deploy.canary_gate": (
        Hidden(weak=frozenset({"canary_gate"})),
        "model.bad_canary",
        "model-server",
        1.0,
        {Mechanism.WRONG_ANSWERS},
    ),
    "training.hang_timeout": (
        Hidden(weak=frozenset({"hang_timeout"})),
        "pod.pause",
        "trainer",
        0.25,
        {Mechanism.STUCK},
    ),
    "monitoring.absent_alert": (
        Hidden(weak=frozenset({"absent_alert"})),
        "pod.pause",
        "feature-store",
        0.25,
        {Mechanism.SILENT},
    ),
    "data.schema_gate": (
        Hidden(weak=frozenset({"schema_gate"})),
        "data.corrupt_rows",
        "stream",
        0.5,
        {Mechanism.WRONG_ANSWERS},
    ),
    "data.schema_gate, renamed": (
        Hidden(weak=frozenset({"schema_gate"})),
        "data.schema_change",
        "stream",
        0.5,
        {Mechanism.WRONG_ANSWERS},
    ),
    "data.drift_alarm": (
        Hidden(weak=frozenset({"drift_alarm"})),
        "data.drift",
        "stream",
        1.0,
        {Mechanism.WRONG_ANSWERS},
    ),
    "features.freshness": (
        Hidden(weak=frozenset({"freshness"})),
        "data.stream_delay",
        "stream",
        1.0,
        {Mechanism.STALE},
    ),
    "serving.queue": (
        Hidden(weak=frozenset({"queue"})),
        "pod.cpu_stress",
        "model-server",
        1.0,
        {Mechanism.UNAVAILABLE, Mechanism.SLOW},
    ),
    "serving.autoscale": (
        Hidden(weak=frozenset({"autoscale"})),
        "pod.cpu_stress",
        "model-server",
        1.0,
        {Mechanism.UNAVAILABLE},
    ),
}


def fault(kind: str, component: str, intensity: float = 0.25) -> Fault:
    return Fault(kind, Target(component), intensity, CATALOGUE[kind].duration_s)


@pytest.mark.parametrize("switch", REVEALS)
def test_each_weakness_is_revealed_by_its_fault_and_by_its_mechanism(settings, tmp_path, switch):
    hidden, kind, component, intensity, mechanisms = REVEALS[switch]
    world = simulation(settings, tmp_path, hidden=hidden)
    env = ChaosEnv(world, budget_min=10.0)
    outcome = env.experiment(env.code.fault(component, kind, intensity))
    assert outcome.verdict is Verdict.WEAKNESS, outcome.score.reason
    assert outcome.mechanism in mechanisms
    world.close()


@pytest.mark.parametrize("switch", REVEALS)
def test_a_hardened_cluster_bears_the_same_faults(settings, tmp_path, switch):
    _, kind, component, intensity, _ = REVEALS[switch]
    world = simulation(settings, tmp_path, units=24)
    env = ChaosEnv(world, budget_min=10.0)
    outcome = env.experiment(env.code.fault(component, kind, intensity))
    assert outcome.verdict is Verdict.RESILIENT, outcome.score.reason
    world.close()


NETWORK = [("network.delay", 1.0), ("network.loss", 1.0), ("network.partition", 0.25), ("network.bandwidth", 0.5)]


@pytest.mark.parametrize(("kind", "intensity"), NETWORK)
def test_whatever_happens_on_the_way_to_the_features_a_fallback_bears_it(settings, tmp_path, kind, intensity):
    verdicts = []
    for weak in (frozenset({"feature_timeout"}), frozenset()):
        folder = tmp_path / str(len(weak))
        folder.mkdir()
        world = simulation(
            settings.model_copy(update={"state_dir": folder}),
            folder,
            hidden=Hidden({**SINGLE, "model-server": 2}, weak),
        )
        verdicts.append(world.experimenter.run(fault(kind, "feature-store", intensity)).verdict)
        world.close()
    assert verdicts == [Verdict.WEAKNESS, Verdict.RESILIENT]


@pytest.mark.parametrize(("kind", "intensity"), [*NETWORK[:3], ("network.bandwidth", 1.0)])
def test_nothing_stands_in_for_a_model_server_that_cannot_be_reached(settings, tmp_path, kind, intensity):
    world = simulation(settings, tmp_path)
    assert world.experimenter.run(fault(kind, "model-server", intensity)).verdict is Verdict.WEAKNESS
    world.close()


def test_no_number_of_model_servers_survives_the_loss_of_their_only_node(settings, tmp_path):
    world = simulation(settings, tmp_path, hidden=Hidden({**SINGLE, "model-server": 3}))
    outcome = world.experimenter.run(fault("pod.node_kill", "model-server"))
    assert (outcome.verdict, outcome.mechanism) == (Verdict.WEAKNESS, Mechanism.UNAVAILABLE)
    assert outcome.score.recovery_s is not None, "the node comes back, and they with it"
    world.close()


def test_a_bound_bears_a_way_that_is_too_narrow_for_all(settings, tmp_path):
    """Those who are let in get through in time; without a bound nobody does. It takes no further model server."""
    verdicts = []
    for weak in (frozenset({"queue", "autoscale"}), frozenset({"autoscale"})):
        folder = tmp_path / str(len(weak))
        folder.mkdir()
        world = simulation(settings.model_copy(update={"state_dir": folder}), folder, hidden=Hidden(weak=weak))
        verdicts.append(world.experimenter.run(fault("network.bandwidth", "model-server", 0.5)).verdict)
        world.close()
    assert verdicts == [Verdict.WEAKNESS, Verdict.RESILIENT]


def test_model_servers_that_come_and_go_with_the_load_are_no_incident(settings, tmp_path):
    world = simulation(settings, tmp_path)
    cluster = world.experimenter.cluster
    before = [cluster.next_snapshot(1.0) for _ in range(4)][-1]
    outcome = world.experimenter.run(fault("pod.cpu_stress", "model-server", 1.0))
    assert outcome.verdict is Verdict.RESILIENT, outcome.score.reason
    for _ in range(60):
        after = world.experimenter.poll()
    assert after.unsteady == after.firing_alerts == ()
    with world.world.change() as document:
        assert len(document["instances"]["model-server"]) == 2, "the one more is gone again"
    newest = cluster.next_snapshot(1.0)
    assert newest.values["model-server/restarts"] == before.values["model-server/restarts"]
    world.close()


def test_who_needs_memory_that_it_cannot_have_dies_of_it_and_who_has_enough_does_not(settings, tmp_path):
    verdicts = {}
    for component in ("gateway", "feature-store", "model-server"):
        folder = tmp_path / component
        folder.mkdir()
        world = simulation(settings.model_copy(update={"state_dir": folder}), folder)
        verdicts[component] = world.experimenter.run(fault("pod.memory_stress", component, 1.0)).verdict
        world.close()
    assert verdicts == {
        "gateway": Verdict.RESILIENT,
        "feature-store": Verdict.RESILIENT,
        "model-server": Verdict.WEAKNESS,
    }


@pytest.mark.parametrize("component", ["gateway", "feature-store"])
def test_what_has_no_node_of_its_own_is_no_target_of_its_loss(settings, tmp_path, component):
    world = simulation(settings, tmp_path, units=None)
    env = ChaosEnv(world, budget_min=10.0)
    kill = env.code.encode(env.code.fault(component, "pod.node_kill", 0.25))
    assert not env.action_masks()[kill]
    refused = env.experiment(env.code.fault(component, "pod.node_kill", 0.25)).refusal
    assert f"{component} lives on no node of its own" in refused.reason
    world.close()


def test_a_wide_enough_edge_is_not_felt(settings, tmp_path):
    """The mildest rate carries the load: what it does is to be had from the arms above it."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"feature_timeout"})))
    assert world.experimenter.run(fault("network.bandwidth", "feature-store", 0.25)).verdict is Verdict.RESILIENT
    world.close()


@pytest.mark.parametrize("kind", CATALOGUE)
def test_after_an_experiment_the_world_is_as_before(settings, tmp_path, kind):
    world = simulation(settings, tmp_path, units=24)
    with world.world.change() as document:
        kept = ("killed", "paused", "squeezed", "impairments", "disturbances", "checkpoints", "registry", "cards")
        before = copy.deepcopy({key: document[key] for key in kept})
    target = TARGET[kind]
    world.experimenter.run(fault(kind, target))
    with world.world.change() as document:
        assert {key: document[key] for key in before} == before
    assert world.state.journal.open_injections() == []
    world.close()


def test_a_fault_lasts_until_the_deadlines_that_it_could_break_have_passed(settings, tmp_path):
    """A freeze that ends before the training job must be back would call every cluster resilient."""
    world = simulation(settings, tmp_path, units=None)
    code = ChaosEnv(world, budget_min=10.0).code
    within_s = next(c.within_s for c in settings.hypothesis.clauses if c.series == "trainer/steps_per_s")
    assert code.fault("trainer", "pod.pause", 0.25).duration_s > within_s
    assert code.fault("gateway", "pod.pause", 0.25).duration_s == CATALOGUE["pod.pause"].duration_s
    assert code.fault("trainer", "pod.kill", 0.25).duration_s == CATALOGUE["pod.kill"].duration_s
    world.close()


def test_a_latent_fault_is_not_blamed_for_what_its_trigger_does(settings, tmp_path):
    """With no restart policy, killing the writer alone stops training: a damaged checkpoint proves nothing then."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"restart", "checkpoint"})))
    env = ChaosEnv(world, budget_min=10.0)
    outcome = env.experiment(fault("model.checkpoint_corrupt", "trainer", 0.5))
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert "its trigger alone, pod.kill, breaks promises already" in outcome.score.reason
    assert [o.fault.kind for o in env.outcomes] == ["pod.kill"], "the control is an experiment of its own"
    telling = env.telling()
    for action in range(env.code.stop):
        asked = env.code.decode(action)
        hopeless = asked.target.name == "trainer" and CATALOGUE[asked.kind].trigger == "pod.kill"
        assert telling[action] == (not hopeless), f"{asked}: nothing more is spent on what could tell nothing"
    assert telling[env.code.stop]
    world.close()


@pytest.mark.parametrize("error", [NotSteady("a promise is broken"), Interrupted("the lever is engaged")])
def test_what_a_latent_fault_has_shown_is_kept_where_its_control_cannot_be_run(settings, tmp_path, monkeypatch, error):
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"checkpoint"})))
    env = ChaosEnv(world, budget_min=10.0)

    def cannot(trigger, target):
        raise error

    monkeypatch.setattr(env, "_control", cannot)
    outcome = env.experiment(fault("model.checkpoint_corrupt", "trainer", 0.5))
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.alone.evidence.verdict is Verdict.WEAKNESS
    world.close()


def test_a_control_is_watched_for_as_long_as_the_fault_beside_it(settings, tmp_path):
    """What its trigger breaks late would be taken for the damage otherwise."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"checkpoint"})))
    env = ChaosEnv(world, budget_min=10.0)
    alone = env.code.fault("trainer", "pod.kill", 0.25)
    borne = env.experiment(alone)
    env.learn(borne)
    assert borne.verdict is Verdict.RESILIENT
    damaged = env.code.fault("trainer", "model.checkpoint_corrupt", 0.5)
    assert damaged.duration_s > alone.duration_s
    for _ in range(2):
        assert env.experiment(damaged).verdict is Verdict.WEAKNESS
        assert [each.fault.duration_s for each in env.outcomes] == [alone.duration_s, damaged.duration_s]
    world.close()


def afterwards(world, change) -> None:
    """Changes what is seen from the end of the first fault on: `change(snapshot, seconds since)` returns it."""
    cluster, journal, ended_s = world.experimenter.cluster, world.state.journal, []
    look = cluster.next_snapshot

    def changed(timeout_s):
        snapshot = look(timeout_s)
        if not ended_s and any(entry.event == "clean" for entry in journal.entries()):
            ended_s.append(snapshot.at_s)
        return change(snapshot, snapshot.at_s - ended_s[0]) if ended_s else snapshot

    cluster.next_snapshot = changed


@pytest.mark.parametrize(
    ("for_s", "verdict", "repaired"), [(8.0, Verdict.RESILIENT, ()), (25.0, Verdict.WEAKNESS, ("model-server",))]
)
def test_what_breaks_only_after_a_fault_has_as_long_as_all_other_to_come_back(
    settings, tmp_path, for_s, verdict, repaired
):
    """A crowd that comes back at once: what is over in time is borne, and nobody repairs what needs no repair."""

    def crowded(snapshot, since_s):
        values = {"client/error_share": 1.0} if 1.0 <= since_s < 1.0 + for_s else {}
        return replace(snapshot, values={**snapshot.values, **values})

    world = simulation(settings, tmp_path)
    afterwards(world, crowded)
    outcome = world.experimenter.run(fault("pod.pause", "model-server"))
    assert outcome.verdict is verdict, outcome.score.reason
    assert (outcome.repaired, outcome.quarantined) == (repaired, ())
    assert {each.mechanism for each in outcome.score.broken} == ({Mechanism.NOT_RECOVERED} if repaired else set())
    world.close()


def test_what_is_not_back_is_quarantined_wherever_it_is(settings, tmp_path):
    """Else every gate would wait for it until the campaign gives up."""
    world = simulation(settings.model_copy(update={"repairs": {}}), tmp_path)
    attempts = itertools.cycle([9_000.0, 9_000.0, 1.0])  # many, and never for as long as a verdict takes

    def stuck(snapshot, _):
        shown = {"trainer/steps_per_s": 0.0, "model-server/feature_attempts": next(attempts)}
        return replace(snapshot, values={**snapshot.values, **shown})

    afterwards(world, stuck)
    outcome = world.experimenter.run(fault("pod.pause", "gateway"))
    assert outcome.quarantined == ("gateway", "trainer")
    assert world.experimenter.run(fault("pod.kill", "feature-pipeline")).phases is not None
    world.close()


def test_what_takes_long_to_read_is_followed_by_a_new_look(settings, tmp_path, monkeypatch):
    """Else nobody could tell whether anything needs a repair, and the campaign would end at the next gate."""
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"restart"})))

    def read(phases):
        world.clock.advance(10.0)

    monkeypatch.setattr(world.experimenter, "_requests", read)
    assert world.experimenter.run(fault("pod.kill", "trainer")).repaired == ("trainer",)
    world.close()


def test_time_in_which_an_alert_fires_is_not_quiet_however_early_the_promises_were_kept(settings, tmp_path):
    """It would be what the next experiment is compared with, and what a sham teaches."""
    firing = frozenset({Alert("HighErrorRate", "model-server")})
    last_s = []

    def heard(snapshot, since_s):
        if since_s < 5.0:
            last_s.append(snapshot.at_s)
            return replace(snapshot, alerts=firing)
        return snapshot

    world = simulation(settings, tmp_path)
    afterwards(world, heard)
    outcome = world.experimenter.run(fault("pod.pause", "model-server"))
    assert outcome.phases.recovered_s < outcome.phases.cleared_s + 1.0 < last_s[-1]
    assert world.experimenter.lookout.quiet_since_s > last_s[-1]
    world.close()


def test_half_a_sham_is_none(settings, tmp_path, monkeypatch):
    world = simulation(settings, tmp_path)
    poll, looks = world.experimenter.lookout.poll, []

    def counting():
        looks.append(None)
        if len(looks) == 40:
            world.experimenter.supervisor.interrupt("SIGTERM")
        return poll()

    monkeypatch.setattr(world.experimenter.lookout, "poll", counting)
    with pytest.raises(Interrupted, match="SIGTERM"):
        world.experimenter.sham()
    world.close()


def test_fault_free_time_that_is_always_too_short_is_not_waited_for_for_ever(settings, tmp_path, monkeypatch):
    world = simulation(settings, tmp_path, units=None)
    poll, looks = world.experimenter.lookout.poll, []

    def now_and_then_broken():
        looks.append(None)
        vitals = poll()
        if len(looks) % 40 == 0:  # every 20 s; a gate takes 12, a unit 36
            world.experimenter.lookout.quiet_since_s = None
        return vitals

    monkeypatch.setattr(world.experimenter.lookout, "poll", now_and_then_broken)
    with pytest.raises(NotSteady, match="too short"):
        world.experimenter.calibrate(24)
    assert world.experimenter.scorer.calibration.stretches == []
    world.close()


def test_an_interrupted_repair_puts_nothing_out_of_the_game(settings, tmp_path, monkeypatch):
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"restart"})))
    supervisor = world.experimenter.supervisor

    def accepted(component):
        supervisor.interrupt("SIGTERM")
        return True

    monkeypatch.setattr(supervisor, "repair", accepted)
    outcome = world.experimenter.run(fault("pod.kill", "trainer"))
    assert (outcome.repaired, outcome.quarantined) == ((), ())
    assert supervisor.quarantined == frozenset()
    world.close()


def test_a_component_that_does_not_come_back_gets_its_declared_repair(settings, tmp_path):
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"restart"})))
    outcome = world.experimenter.run(fault("pod.kill", "trainer"))
    assert outcome.repaired == ("trainer",)
    assert outcome.quarantined == ()
    assert world.experimenter.lookout.vitals().unsteady == ()
    world.close()


def test_without_a_repair_it_is_quarantined_and_the_rest_goes_on(settings, tmp_path):
    world = simulation(
        settings.model_copy(update={"repairs": {}}), tmp_path, hidden=Hidden(weak=frozenset({"restart"}))
    )
    outcome = world.experimenter.run(fault("pod.kill", "trainer"))
    assert (outcome.repaired, outcome.quarantined) == ((), ("trainer",))
    env = ChaosEnv(world, budget_min=10.0)
    assert not any(env.code.decode(a).target.name == "trainer" for a in range(env.code.stop) if env.action_masks()[a])
    assert world.experimenter.run(fault("pod.kill", "model-server")).verdict is Verdict.RESILIENT
    world.close()


@pytest.mark.parametrize(
    ("quarantined", "hopeless"),
    [
        # Whatever comes of a fault of any of these is felt by its users, who are out of the game with it.
        ("stream", {"stream", "feature-pipeline", "feature-store", "model-server", "gateway"}),
        ("gateway", {"gateway"}),
        ("trainer", {"trainer"}),
    ],
)
def test_nothing_is_spent_on_a_fault_of_which_nobody_would_see_anything(settings, tmp_path, quarantined, hopeless):
    world = simulation(settings, tmp_path, units=None)
    env = ChaosEnv(world, budget_min=10.0)
    assert env.telling().all()
    world.experimenter.supervisor.quarantine(quarantined, "a test")
    telling = env.telling()
    for action in range(env.code.stop):
        asked = env.code.decode(action)
        assert telling[action] == (asked.target.name not in hopeless), str(asked)
    assert telling[env.code.stop]
    world.close()


def test_what_would_harm_users_whom_nobody_looks_at_any_more_is_not_borne(settings, tmp_path):
    world = simulation(settings, tmp_path, hidden=Hidden(SINGLE))
    world.experimenter.supervisor.quarantine("stream", "a test")
    outcome = world.experimenter.run(fault("pod.kill", "model-server"))
    assert outcome.verdict is Verdict.INVALID
    assert "quarantined" in outcome.score.reason
    world.close()


@pytest.mark.parametrize(
    ("kind", "component"),
    [
        ("pod.pause", "model-server"),
        ("network.delay", "feature-store"),
        ("data.drift", "stream"),
        ("model.bad_canary", "model-server"),
        ("gpu.compute_contention", "trainer"),
    ],
)
def test_a_fault_that_does_not_take_is_invalid(settings, tmp_path, kind, component):
    world = simulation(settings, tmp_path)
    world.actuators[kind.partition(".")[0]].took = lambda injection: False
    outcome = world.experimenter.run(fault(kind, component))
    assert outcome.verdict is Verdict.INVALID
    assert outcome.phases.cleared_s - outcome.phases.injected_s < 8.0, "no need to wait for its end"
    world.close()


def test_a_service_limit_ends_a_fault_and_its_windows_still_count(settings, tmp_path):
    world = simulation(settings, tmp_path, hidden=Hidden(weak=frozenset({"feature_timeout"})))
    outcome = world.experimenter.run(fault("network.delay", "feature-store", 1.0))
    assert outcome.aborted_by.startswith("limit: client/")
    assert outcome.verdict is Verdict.WEAKNESS
    world.close()


def test_an_experiment_that_is_cut_short_without_a_broken_promise_is_not_resilient(settings, tmp_path):
    world = simulation(settings, tmp_path)
    interrupt_after(world, 3.0)
    outcome = world.experimenter.run(fault("pod.pause", "model-server"))
    assert outcome.verdict is Verdict.INVALID
    assert "interrupted" in outcome.score.reason
    assert world.state.journal.open_injections() == []
    world.close()


def test_a_recovery_that_nobody_waited_for_is_not_resilient(settings, tmp_path):
    """The fault was in force for all of its time, and the end was asked for right after."""
    world = simulation(settings, tmp_path)
    supervisor = world.experimenter.supervisor
    interrupt, watch = supervisor.interrupt, supervisor.watch

    def watched(injection, vitals):
        stop = watch(injection, vitals)
        if stop is not None:
            interrupt("SIGTERM")
        return stop

    supervisor.watch = watched
    outcome = world.experimenter.run(fault("pod.pause", "model-server"))
    assert outcome.stop.cause == "expired"
    assert outcome.verdict is Verdict.INVALID
    assert outcome.score.reason == "cut short by interrupted: SIGTERM"
    world.close()


def test_longer_fault_free_time_than_is_kept_is_learnt_in_pieces(settings, tmp_path, monkeypatch):
    """What the lookout has let go of would count as units of which nothing is known."""
    monkeypatch.setattr("envs.experiment.KEPT_SNAPSHOTS", 240)
    monkeypatch.setattr("envs.lookout.KEPT_SNAPSHOTS", 240)
    world = simulation(settings, tmp_path, units=80)
    calibration = world.experimenter.scorer.calibration
    assert len(calibration.stretches) > 1
    assert all(np.isfinite(stretch).any(axis=1).all() for stretch in calibration.stretches)
    world.close()


@pytest.mark.parametrize("silence", ["no look", "looks that show nothing"])
def test_telemetry_that_dies_ends_the_fault(settings, tmp_path, silence):
    """Whether or not a service limit is there to notice what is unknown: what was known last only grows older."""
    world = simulation(settings, tmp_path, service_levels={})
    cluster = world.experimenter.cluster
    look = cluster.next_snapshot
    injected = []

    def blind(timeout_s):
        snapshot = look(timeout_s)
        injected.extend(world.state.journal.open_injections())
        nothing = Snapshot(snapshot.at_s, {}) if silence == "looks that show nothing" else None
        return nothing if injected else snapshot

    cluster.next_snapshot = blind
    outcome = world.experimenter.run(fault("pod.pause", "model-server"))
    assert outcome.stop.cause == "telemetry"
    assert "old" in outcome.stop.reason
    assert outcome.verdict is not Verdict.RESILIENT
    assert outcome.repaired == outcome.quarantined == ()
    assert world.state.journal.open_injections() == []
    world.close()


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), InjectionFailed("no")])
@pytest.mark.parametrize("where", ["took", "inject"])
def test_whatever_is_raised_nothing_stays_in_force(settings, tmp_path, error, where):
    world = simulation(settings, tmp_path, units=24)

    def broken(injection):
        raise error

    setattr(world.actuators["pod"], where, broken)
    try:
        outcome = world.experimenter.run(fault("pod.pause", "model-server"))
        # A look that fails has seen nothing; an act that fails is an error.
        assert outcome.verdict is (Verdict.INVALID if where == "took" else Verdict.TOOL_ERROR)
    except (RuntimeError, KeyboardInterrupt, InjectionFailed):
        pass
    assert world.state.journal.open_injections() == []
    with world.world.change() as document:
        assert document["paused"] == {}
    world.close()


def test_a_leak_is_a_tool_error_and_ends_the_campaign(settings, tmp_path):
    world = simulation(settings, tmp_path)

    def nobody_can_tell(injection):
        raise RevertFailed("no answer")

    world.actuators["pod"].probe_clean = nobody_can_tell
    env = ChaosEnv(world, budget_min=10.0)
    outcome = env.experiment(fault("pod.pause", "model-server"))
    assert outcome.verdict is Verdict.TOOL_ERROR
    assert env.is_over
    with pytest.raises(Interrupted, match="lever is engaged"):
        env.experiment(fault("pod.kill", "model-server"))
    world.close()


def test_a_gate_that_stays_shut_touches_nothing(settings, tmp_path):
    world = simulation(settings, tmp_path)
    with world.world.change() as document:
        document["impairments"]["somebody-else"] = {
            "gateway->model-server": {
                "effect": "delay",
                "amount": 900.0,
                "affected": 0,
                "until": {"boot_id": "simulated", "boottime_s": 1e9},
            }
        }
    with pytest.raises(NotSteady, match="client/shed_share"):
        world.experimenter.run(fault("pod.kill", "model-server"))
    assert list(world.state.journal.entries()) == []
    world.close()


def test_a_sham_touches_nothing_and_feeds_the_calibration(settings, tmp_path):
    world = simulation(settings, tmp_path)
    units = world.experimenter.scorer.units
    outcome = world.experimenter.sham()
    assert outcome.fault is None
    assert outcome.verdict is Verdict.RESILIENT
    assert world.experimenter.scorer.units > units
    assert list(world.state.journal.entries()) == []
    world.close()


def test_the_detector_learns_only_from_fault_free_windows(settings, tmp_path):
    world = simulation(settings, tmp_path, hidden=Hidden(SINGLE))
    units = world.experimenter.scorer.units
    world.experimenter.run(fault("pod.kill", "model-server"))
    world.experimenter.run(fault("pod.pause", "gateway"))
    assert world.experimenter.scorer.units == units
    world.close()


def interrupt_after(world, seconds: float) -> None:
    watch = world.experimenter.supervisor.watch

    def watched(injection, vitals):
        if world.clock.boottime_s - injection.started_at.boottime_s >= seconds:
            world.experimenter.supervisor.interrupt("SIGTERM")
        return watch(injection, vitals)

    world.experimenter.supervisor.watch = watched
