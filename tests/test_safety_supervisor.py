from __future__ import annotations

import sqlite3
from dataclasses import replace
from itertools import count

import pytest

from actuators.errors import ActuatorError, InjectionFailed, RevertFailed, TargetNotFound
from actuators.fault import Fault, Injection, Target, Undo
from actuators.pod import Instance, chosen
from safety.guards import Refusal
from safety.journal import Journal
from safety.lease import Lease, LeaseLost
from safety.limits import OPT_IN_LABEL, Limits, ServiceLimit
from safety.supervisor import Supervisor
from safety.vitals import ComponentVitals, Identity, Vitals
from tests.simulation import FakeGuardian

LIMITS = Limits(
    environment="staging",
    cluster_id="c1",
    max_instances=1,
    max_share=0.5,
    stale_after_s=3.0,
    service_levels={"errors": ServiceLimit(at_most=0.5, for_s=4.0)},
)
VITALS = Vitals(
    identity=Identity("c1", "staging"),
    components={"web": ComponentVitals(2, 2, {OPT_IN_LABEL: "true"})},
    service_levels={"errors": 0.0},
    age_s=0.1,
    unsteady=(),
    firing_alerts=(),
)
PAUSE = Fault("pod.pause", Target("web"), 0.5, 10.0)


class FakeActuator:
    """Remembers what it was asked; breaks on demand, and shows what the journal held at that moment."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.calls: list[str] = []
        self.in_force: set[str] = set()
        self.break_on: dict[str, BaseException] = {}
        self.held_at_inject: list[str] = []
        self.stubborn = False
        self.living, self.hits = 2, 1

    def _do(self, verb: str) -> None:
        self.calls.append(verb)
        if verb in self.break_on:
            raise self.break_on[verb]

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        self._do("prepare")
        return chosen([Instance(f"web-{number}", {}) for number in range(self.living)], self.hits)

    def inject(self, injection: Injection) -> None:
        self.held_at_inject = [i.id for i in self.journal.open_injections()]
        self.in_force.add(injection.id)
        self._do("inject")

    def revert(self, injection: Injection) -> None:
        self._do("revert")
        if not self.stubborn:
            self.in_force.discard(injection.id)

    def took(self, injection: Injection) -> bool:
        return injection.id in self.in_force

    def probe_clean(self, injection: Injection) -> bool:
        self._do("probe_clean")
        return injection.id not in self.in_force


@pytest.fixture
def actuator(journal):
    return FakeActuator(journal)


@pytest.fixture
def guardian():
    return FakeGuardian()


@pytest.fixture
def supervisor(journal, lever, lease, clock, actuator, guardian):
    ids = count(1)
    return Supervisor(
        limits=LIMITS,
        journal=journal,
        lever=lever,
        lease=lease,
        guardian=guardian,
        actuators={"pod": actuator},
        repairs=FakeRepairs(),
        declared_repairs={"web": "restart"},
        clock=clock,
        new_id=lambda: f"i{next(ids)}",
        by="test",
    )


class FakeRepairs:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def repair(self, component: str, action: str) -> None:
        self.asked.append((component, action))


def events(journal: Journal) -> list[str]:
    return [entry.event for entry in journal.entries()]


# ---- the door -------------------------------------------------------------------------------------------------------


def test_the_receipt_is_in_the_journal_before_any_harm(supervisor, actuator):
    injection = supervisor.inject(PAUSE, VITALS)
    assert actuator.held_at_inject == [injection.id]


def test_a_whole_life_is_written_down_in_order(supervisor, journal, clock):
    injection = supervisor.inject(PAUSE, VITALS)
    assert supervisor.took(injection)
    clock.advance(10.0)
    stop = supervisor.watch(injection, VITALS)
    assert (stop.cause, stop.clean) == ("expired", True)
    assert events(journal) == ["intended", "applied", "verified", "reverting", "reverted", "clean"]


def test_the_door_judges_again_whatever_a_mask_said(supervisor, actuator, journal):
    refusal = supervisor.inject(replace(PAUSE, target=Target("other")), VITALS)
    assert isinstance(refusal, Refusal)
    assert actuator.calls == []
    assert events(journal) == ["refused"]


def test_a_refusal_costs_nothing_and_names_its_guard(supervisor, actuator):
    refusal = supervisor.inject(PAUSE, replace(VITALS, unsteady=("errors are 1",)))
    assert refusal.guard == "steady_state"
    assert actuator.in_force == set()


@pytest.mark.parametrize("what", ["lever", "watchdog", "lease", "interruption", "leak"])
def test_nothing_is_injected_while_something_forbids_it(
    supervisor, actuator, what, lever, guardian, tmp_path, clock, journal
):
    if what == "lever":
        lever.engage("stop", "me")
    elif what == "watchdog":
        guardian.lives = False
    elif what == "lease":
        fence(tmp_path, clock)
    elif what == "interruption":
        supervisor.interrupt("SIGTERM")
    else:
        leak = Injection("old", PAUSE, {}, clock.now(), clock.now(), 1)
        journal.intend(leak)
        journal.mark(leak, "leaked")
    assert isinstance(supervisor.inject(PAUSE, VITALS), Refusal)
    assert "inject" not in actuator.calls


def test_a_lease_that_is_lost_after_the_permission_stops_the_act(supervisor, actuator, tmp_path, clock, monkeypatch):
    """Frozen between permission and act: whoever took over in the meantime must not be surprised."""
    intend = supervisor._journal.intend

    def frozen_here(injection):
        intend(injection)
        fence(tmp_path, clock)

    monkeypatch.setattr(supervisor._journal, "intend", frozen_here)
    with pytest.raises(LeaseLost):
        supervisor.inject(PAUSE, VITALS)
    assert "inject" not in actuator.calls
    assert supervisor._journal.open_injections() == []


def test_an_act_whose_deadline_has_passed_before_it_does_not_happen(supervisor, actuator, clock, monkeypatch):
    """Frozen between permission and act, and nobody has taken over: whoever watches has looked for the last time."""
    intend = supervisor._journal.intend

    def frozen_here(injection):
        intend(injection)
        clock.advance(PAUSE.duration_s)

    monkeypatch.setattr(supervisor._journal, "intend", frozen_here)
    with pytest.raises(InjectionFailed, match="must have been frozen"):
        supervisor.inject(PAUSE, VITALS)
    assert "inject" not in actuator.calls
    assert supervisor._journal.open_injections() == []


@pytest.mark.parametrize("who", ["lever", "signal"])
def test_a_halt_between_the_permission_and_the_act_stops_the_act(
    supervisor, actuator, lever, journal, monkeypatch, who
):
    """Preparing and writing down take seconds; meanwhile a person was told that everything is halted."""
    intend = journal.intend

    def halted_here(injection):
        intend(injection)
        if who == "lever":
            lever.engage("stop", "me")
        else:
            supervisor.interrupt("SIGTERM")

    monkeypatch.setattr(journal, "intend", halted_here)
    refusal = supervisor.inject(PAUSE, VITALS)
    assert refusal.guard == "supervisor"
    assert ("stop" if who == "lever" else "SIGTERM") in refusal.reason
    assert "inject" not in actuator.calls
    assert events(journal) == ["intended", "reverting", "reverted", "clean"]
    assert not supervisor._open


def test_an_act_on_what_was_measured_too_long_ago_does_not_happen(supervisor, actuator, clock, journal, monkeypatch):
    """Fresh at the permission; then the disk takes its time to write the receipt."""
    intend = journal.intend

    def slow(injection):
        intend(injection)
        clock.advance(took_s)

    monkeypatch.setattr(journal, "intend", slow)
    took_s = LIMITS.stale_after_s
    refusal = supervisor.inject(PAUSE, VITALS)
    assert refusal == Refusal("supervisor", "newest measurement is 3.1 s old")
    assert "inject" not in actuator.calls
    assert events(journal) == ["intended", "reverting", "reverted", "clean"]
    took_s -= 2 * VITALS.age_s
    assert isinstance(supervisor.inject(PAUSE, VITALS), Injection)


def test_a_halted_act_whose_record_cannot_be_closed_is_no_mere_refusal(supervisor, actuator, lever, monkeypatch):
    actuator.break_on["probe_clean"] = RevertFailed("nobody answers")
    renew = supervisor._lease.renew
    pulled = iter([lambda: None, lambda: lever.engage("stop", "me")])
    monkeypatch.setattr(supervisor._lease, "renew", lambda: (renew(), next(pulled)()))
    with pytest.raises(InjectionFailed, match="the lever is engaged: stop"):
        supervisor.inject(PAUSE, VITALS)
    assert "inject" not in actuator.calls


@pytest.mark.parametrize(
    ("living", "hits", "said"),
    [(1, 1, "all of web"), (4, 2, "all of web"), (2, 2, "all of web"), (0, 0, "nobody can tell")],
)
def test_who_would_be_hit_is_judged_again_once_they_are_named(supervisor, actuator, journal, living, hits, said):
    """One of two has died since it was measured; or two of four do not serve, and half of four is half too many."""
    actuator.living, actuator.hits = living, hits
    refusal = supervisor.inject(PAUSE, VITALS)
    assert refusal.guard == "blast_radius"
    assert said in refusal.reason
    assert "inject" not in actuator.calls
    assert events(journal) == ["refused"]


def test_no_more_are_hit_than_the_limits_allow_of_those_that_serve(supervisor, actuator, journal):
    of_eight = replace(VITALS, components={"web": ComponentVitals(4, 8, {OPT_IN_LABEL: "true"})})
    actuator.living, actuator.hits = 8, 3
    assert "would hit 3 of 4 instances" in supervisor.inject(PAUSE, of_eight).reason
    actuator.hits = 2
    assert isinstance(supervisor.inject(PAUSE, of_eight), Injection)


@pytest.mark.parametrize("error", [TargetNotFound("web has no instance"), OSError("No space left on device")])
def test_what_cannot_be_prepared_is_a_refusal(supervisor, actuator, journal, error):
    """Nothing was touched: the target is gone, or there is no room for what an undo needs."""
    actuator.break_on["prepare"] = error
    assert supervisor.inject(PAUSE, VITALS) == Refusal("prepare", str(error))
    assert events(journal) == ["refused"]


@pytest.mark.parametrize("error", [ActuatorError("x"), OSError("x")])
def test_an_injection_that_fails_half_way_is_reverted(supervisor, actuator, journal, error):
    actuator.break_on["inject"] = error
    with pytest.raises(InjectionFailed):
        supervisor.inject(PAUSE, VITALS)
    assert actuator.in_force == set()
    assert events(journal)[-1] == "clean"


def test_even_a_bug_in_an_actuator_leaves_nothing_in_force(supervisor, actuator, journal):
    actuator.break_on["inject"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        supervisor.inject(PAUSE, VITALS)
    assert actuator.in_force == set()
    assert journal.open_injections() == []


def test_a_second_fault_is_refused_while_one_is_open(supervisor):
    supervisor.inject(PAUSE, VITALS)
    assert supervisor.inject(PAUSE, VITALS).guard == "few_open"


# ---- while in force -------------------------------------------------------------------------------------------------


def test_a_healthy_fault_stays_until_its_deadline(supervisor, clock):
    injection = supervisor.inject(PAUSE, VITALS)
    for _ in range(9):
        clock.advance(1.0)
        assert supervisor.watch(injection, VITALS) is None
    clock.advance(1.0)
    assert supervisor.watch(injection, VITALS).cause == "expired"


@pytest.mark.parametrize(
    ("cause", "ends_campaign"),
    [("lever", True), ("watchdog", True), ("lease", True), ("interrupted", True), ("telemetry", False)],
)
def test_whatever_goes_wrong_meanwhile_ends_the_fault(
    supervisor, actuator, cause, ends_campaign, lever, guardian, tmp_path, clock
):
    injection = supervisor.inject(PAUSE, VITALS)
    vitals = VITALS
    if cause == "lever":
        lever.engage("stop", "me")
    elif cause == "watchdog":
        guardian.lives = False
    elif cause == "lease":
        fence(tmp_path, clock)
    elif cause == "interrupted":
        supervisor.interrupt("SIGTERM")
    else:
        vitals = replace(VITALS, age_s=3.1)
    stop = supervisor.watch(injection, vitals)
    assert (stop.cause, stop.clean) == (cause, True)
    assert (supervisor.obstacle() is not None) == ends_campaign
    assert actuator.in_force == set()
    assert not supervisor.is_open(injection)


def test_a_service_limit_reverts_after_its_time_and_forgives_a_pause(supervisor, clock):
    injection = supervisor.inject(PAUSE, VITALS)
    bad = replace(VITALS, service_levels={"errors": 0.9})
    clock.advance(1.0)
    assert supervisor.watch(injection, bad) is None
    clock.advance(3.0)
    assert supervisor.watch(injection, VITALS) is None
    assert supervisor.watch(injection, bad) is None
    clock.advance(3.9)
    assert supervisor.watch(injection, bad) is None
    clock.advance(0.2)
    stop = supervisor.watch(injection, bad)
    assert stop.cause == "limit"
    assert "errors is 0.9" in stop.reason


def test_a_service_level_that_is_unknown_for_too_long_ends_the_fault(supervisor, clock):
    injection = supervisor.inject(PAUSE, VITALS)
    unknown = replace(VITALS, service_levels={"errors": None})
    clock.advance(1.0)
    assert supervisor.watch(injection, unknown) is None
    clock.advance(3.1)
    assert supervisor.watch(injection, unknown).cause == "telemetry"


@pytest.mark.parametrize("error", [RevertFailed("no answer"), TargetNotFound("being written"), OSError("no answer")])
def test_a_look_that_fails_has_seen_nothing(supervisor, actuator, monkeypatch, error):
    injection = supervisor.inject(PAUSE, VITALS)

    def fails(injection):
        raise error

    monkeypatch.setattr(actuator, "took", fails)
    assert not supervisor.took(injection)
    actuator.break_on["probe_clean"] = error
    assert not supervisor.is_spent(injection)


def test_a_journal_or_lease_that_cannot_be_used_stops_everything(supervisor, journal, lease, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    injection = supervisor.inject(PAUSE, VITALS)
    monkeypatch.setattr(lease, "renew", full)
    stop = supervisor.watch(injection, VITALS)
    assert (stop.cause, stop.clean) == ("records", True)
    assert "disk is full" in supervisor.obstacle()
    monkeypatch.undo()
    assert supervisor.obstacle() is None
    monkeypatch.setattr(journal, "leaked", full)
    assert "disk is full" in supervisor.obstacle()
    assert isinstance(supervisor.inject(PAUSE, VITALS), Refusal)


# ---- the end --------------------------------------------------------------------------------------------------------


def test_a_fault_that_stays_after_its_revert_leaks_and_pulls_the_lever(supervisor, actuator, lever, journal, clock):
    injection = supervisor.inject(PAUSE, VITALS)
    actuator.stubborn = True
    clock.advance(10.0)
    stop = supervisor.watch(injection, VITALS)
    assert not stop.clean
    assert "leaked" in supervisor.obstacle()
    assert [i.id for i in journal.leaked()] == [injection.id]
    assert lever.read().engaged
    assert injection.id in lever.read().reason


def test_a_leak_that_neither_journal_nor_lever_takes_forbids_everything(
    supervisor, actuator, lever, journal, monkeypatch
):
    injection = supervisor.inject(PAUSE, VITALS)
    actuator.stubborn = True

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    def broken(*_):
        raise OSError("Input/output error")

    monkeypatch.setattr(journal, "mark", full)
    monkeypatch.setattr(lever, "engage", broken)
    assert not supervisor.revert(injection, "finished", "test").clean
    assert not lever.read().engaged
    assert journal.leaked() == []
    assert f"leaked, first {PAUSE} ({injection.id})" in supervisor.obstacle()
    assert isinstance(supervisor.inject(PAUSE, VITALS), Refusal)
    assert actuator.calls.count("inject") == 1


def test_a_revert_that_cannot_be_probed_counts_as_a_leak(supervisor, actuator, journal):
    injection = supervisor.inject(PAUSE, VITALS)
    actuator.break_on["probe_clean"] = RevertFailed("nobody answers")
    assert not supervisor.revert(injection, "finished", "test").clean
    assert journal.leaked()


def test_a_journal_that_cannot_be_written_does_not_keep_a_fault_in_force(supervisor, actuator, journal):
    import sqlite3

    injection = supervisor.inject(PAUSE, VITALS)

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    journal.mark = full
    assert supervisor.revert(injection, "finished", "test").clean
    assert actuator.in_force == set()
    # What could not be written down is still open on disk, and the next recovery looks again.
    assert [i.id for i in journal.open_injections()] == [injection.id]


def test_repairs_are_declared_or_do_not_happen(supervisor, journal):
    assert supervisor.repair("web")
    assert supervisor._repairs.asked == [("web", "restart")]
    assert not supervisor.repair("database")
    assert events(journal) == ["repair"]


def test_no_repair_while_the_lever_is_engaged(supervisor, lever):
    lever.engage("stop", "me")
    assert not supervisor.repair("web")


def fence(folder, clock) -> None:
    other = Lease(folder / "lease", 5.0, clock)
    other.fence("somebody")
    other.close()
