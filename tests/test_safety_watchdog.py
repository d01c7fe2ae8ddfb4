from __future__ import annotations

import os
import sqlite3

import pytest

from actuators.errors import RevertFailed
from actuators.fault import Fault, Injection, Target
from safety.lease import Lease, LeaseLost
from safety.recovery import recover
from safety.watchdog import Watchdog
from tests.test_safety_supervisor import FakeActuator

FAULT = Fault("pod.pause", Target("web"), 0.5, 10.0)


@pytest.fixture
def actuator(journal):
    return FakeActuator(journal)


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    ends = {"read": read_end, "write": write_end}
    yield ends
    for end in ends.values():
        try:
            os.close(end)
        except OSError:
            continue


@pytest.fixture
def watchdog(pipe, journal, actuator, lever, tmp_path, clock):
    lease = Lease(tmp_path / "lease", 5.0, clock)
    yield Watchdog(
        pipe=pipe["read"],
        journal=journal,
        actuators={"pod": actuator},
        lever=lever,
        lease=lease,
        clock=clock,
        grace_s=5.0,
        poll_s=0.01,
    )
    lease.close()


def intended(journal, clock, name="i1") -> Injection:
    injection = Injection(name, FAULT, {}, clock.now(), clock.now().after(FAULT.duration_s), 1)
    journal.intend(injection)
    return injection


def applied(journal, actuator, clock, name="i1") -> Injection:
    injection = intended(journal, clock, name)
    actuator.inject(injection)
    journal.mark(injection, "applied")
    return injection


def test_a_dead_agents_faults_are_reverted(watchdog, pipe, journal, actuator, clock, lease):
    applied(journal, actuator, clock)
    os.close(pipe["write"])
    watchdog.run()
    assert actuator.in_force == set()
    assert journal.open_injections() == []


def test_a_living_agent_is_left_alone(watchdog, journal, actuator, clock, lease):
    applied(journal, actuator, clock)
    clock.advance(4.0)
    watchdog.look()
    assert actuator.in_force == {"i1"}
    lease.renew()


def test_a_hung_agent_is_fenced_and_its_faults_are_reverted(watchdog, journal, actuator, clock, lease):
    applied(journal, actuator, clock)
    clock.advance(5.1)
    watchdog.look()
    assert actuator.in_force == set()
    with pytest.raises(LeaseLost):
        lease.renew()


def test_an_agent_that_wakes_up_late_and_acts_is_reverted_again(watchdog, journal, actuator, clock, lease):
    """Frozen between its last check and its act: the record is clean in the journal, and the fault is in force."""
    injection = intended(journal, clock)
    clock.advance(5.1)
    watchdog.look()
    actuator.inject(injection)
    clock.advance(10.0)
    watchdog.look()
    assert actuator.in_force == set()


def test_an_agent_that_wakes_up_late_acts_and_dies_is_reverted_again(watchdog, pipe, journal, actuator, clock, lease):
    injection = intended(journal, clock)
    clock.advance(5.1)
    watchdog.look()
    actuator.inject(injection)
    os.close(pipe["write"])
    watchdog.run()
    assert actuator.in_force == set()


def test_where_the_act_was_over_before_the_undo_nobody_looks_again(watchdog, journal, actuator, clock, lease):
    """The next fault of the same kind looks like this one, and the platform may have moved on."""
    injection = applied(journal, actuator, clock)
    watchdog.look()
    actuator.revert(injection)
    for state in ("reverting", "reverted", "clean"):
        journal.mark(injection, state)
    actuator.inject(injection)  # stands for whatever looks the same
    clock.advance(4.0)
    lease.renew()
    for _ in range(16):
        clock.advance(1.0)
        lease.renew()
        watchdog.look()
    assert actuator.in_force == {"i1"}
    assert list(journal.entries())[-1].event == "clean"


def test_what_outlives_its_deadline_and_grace_is_reverted_even_from_a_living_agent(
    watchdog, journal, actuator, clock, lease
):
    applied(journal, actuator, clock)
    for _ in range(16):
        clock.advance(1.0)
        lease.renew()
        watchdog.look()
    assert actuator.in_force == set()


def test_an_agent_that_hangs_with_a_lock_in_its_hands_is_overruled_too(
    watchdog, journal, actuator, clock, lease, tmp_path
):
    injection = applied(journal, actuator, clock)
    clock.advance(5.1)
    journal._db.execute("PRAGMA busy_timeout=100")
    watchdog._lease._db.execute("PRAGMA busy_timeout=100")
    locks = [sqlite3.connect(tmp_path / name, isolation_level=None) for name in ("journal.db", "lease")]
    for lock in locks:
        lock.execute("BEGIN IMMEDIATE")
    watchdog.look()
    assert actuator.in_force == set()
    assert [i.id for i in journal.open_injections()] == [injection.id]
    for lock in locks:
        lock.execute("ROLLBACK")
        lock.close()
    watchdog.look()
    assert journal.open_injections() == []
    with pytest.raises(LeaseLost):
        lease.renew()


def test_one_failed_revert_never_stops_the_next(journal, actuator, lever, clock):
    applied(journal, actuator, clock, "i1")
    stubborn = applied(journal, actuator, clock, "i2")
    revert = actuator.revert

    def fails_for_one(injection):
        if injection.id == stubborn.id:
            raise RevertFailed("no")
        revert(injection)

    actuator.revert = fails_for_one
    left = recover(journal, {"pod": actuator}, lever, "test", "test")
    assert [i.id for i in left] == ["i2"]
    assert actuator.in_force == {"i2"}
    assert [i.id for i in journal.leaked()] == ["i2"]


def test_recovery_goes_newest_first_and_can_be_repeated(journal, actuator, lever, clock):
    order = []
    applied(journal, actuator, clock, "i1")
    applied(journal, actuator, clock, "i2")
    revert = actuator.revert
    actuator.revert = lambda injection: (order.append(injection.id), revert(injection))
    for _ in range(2):
        assert recover(journal, {"pod": actuator}, lever, "test", "test") == []
    assert order == ["i2", "i1"]


def test_a_leak_that_is_gone_later_is_found_clean(journal, actuator, lever, clock):
    applied(journal, actuator, clock)
    actuator.stubborn = True
    recover(journal, {"pod": actuator}, lever, "test", "first")
    assert journal.leaked()
    actuator.stubborn = False
    assert recover(journal, {"pod": actuator}, lever, "test", "second") == []
    assert not journal.leaked()
    assert lever.read().engaged, "a leak is never dismissed by itself"


def test_an_unknown_family_is_a_leak_and_not_a_crash(journal, actuator, lever, clock):
    applied(journal, actuator, clock)
    assert [i.id for i in recover(journal, {}, lever, "test", "test")] == ["i1"]
