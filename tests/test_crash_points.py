"""Every actuator, every entry of the journal, every way to be disturbed there: afterwards nothing is in force.

The laws of G1 to G5, tried at each point at which a process can die as far as the journal can tell. What is disturbed
are real processes on a world that is a file; `make test-crashes` tries all kinds of faults, `make test` one of each
actuator.
"""

from __future__ import annotations

import os
import select
import signal
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from actuators.catalogue import CATALOGUE
from tests.crash_points import ENDED_WITHIN_S, LASTS_S, LONG_S, POINTS, Case
from tests.waiting import wait_until

ONE_EACH = (
    "pod.pause",
    "pod.kill",
    "pod.memory_stress",
    "pod.node_kill",
    "network.delay",
    "data.drift",
    "model.checkpoint_corrupt",
    "model.registry_corrupt",
    "gpu.memory_pressure",
)
"""One of every actuator, and of every way in which one of them undoes."""

KINDS = [pytest.param(kind, marks=[] if kind in ONE_EACH else pytest.mark.crashes) for kind in CATALOGUE]


AT_THE_END = ("reverting", "reverted", "clean")
"""Entries that a fault comes to by its expiry."""


def killed_agent(case: Case) -> None:
    if case.point[0] not in AT_THE_END:
        assert not case.taken_out(), f"{case}: somebody was there first, and its death would show nothing"
    case.kill("agent")


def killed_watchdog(case: Case) -> None:
    case.kill("watchdog")
    case.go_on()


def both_killed(case: Case) -> None:
    case.kill("watchdog", "agent")


def frozen_agent(case: Case) -> None:
    """Frozen past its lease, and awake again: the watchdog must have acted, and the agent must notice."""
    os.kill(case.agent, signal.SIGSTOP)
    if _may_be_in_force(case.point):
        case.let_lease_expire()
        wait_until(case.taken_out, within_s=ENDED_WITHIN_S)
    else:
        os.kill(case.agent, signal.SIGTERM)  # nobody has a reason to fence it off: it would go on for a minute
    os.kill(case.agent, signal.SIGCONT)
    case.go_on()


def terminated_agent(case: Case) -> None:
    os.kill(case.agent, signal.SIGTERM)
    case.go_on()


def mistaken_agent(case: Case) -> None:
    case.go_on(b"x")


def full_disk(case: Case) -> None:
    case.go_on(b"f")


DISTURBANCES: dict[str, Callable[[Case], None]] = {
    function.__name__: function
    for function in (
        killed_agent,
        killed_watchdog,
        both_killed,
        frozen_agent,
        terminated_agent,
        mistaken_agent,
        full_disk,
    )
}


def _may_be_in_force(point: tuple[str, str]) -> bool:
    return point not in {("intended", "before"), ("clean", "after")}


@contextmanager
def at_all_points(folder: Path, kind: str, expiring: Collection[str] = AT_THE_END) -> Iterator[list[Case]]:
    """Begins one case per point, all beside each other.

    Args:
        folder: of their worlds.
        kind: of the fault.
        expiring: entries at which a case is about a fault that ends by its expiry; else it would stay.
    """
    cases = [
        Case(folder / f"{number}", kind, [point], LASTS_S if point[0] in expiring else LONG_S)
        for number, point in enumerate(POINTS)
    ]
    try:
        for case in cases:
            case.begin()
        yield cases
    finally:
        for case in cases:
            case.close()


def disturbed(cases: list[Case], how: Callable[[Case], None]) -> None:
    """Disturbs each case as soon as its agent has arrived, and waits until all of them have ended."""
    waiting = {case.told: case for case in cases}
    while waiting:
        ready = select.select(list(waiting), [], [], 20.0)[0]
        assert ready, f"never arrived: {', '.join(map(str, waiting.values()))}"
        for fd in ready:
            case = waiting.pop(fd)
            if case.arrived():
                how(case)
    for case in cases:
        case.wait()


def require_reached(cases: list[Case]) -> None:
    """A case that never came by its point has shown nothing."""
    for case in cases:
        assert case.reached, f"{case}: never reached\n{case.complaints()}"


def require_nothing_in_force(case: Case) -> None:
    undone = case.observed() == case.before
    assert undone, f"{case}: still in force, {case.record()}\n{case.complaints()}"


def require_clean_record(case: Case) -> None:
    left, leaked = case.recovered()
    assert (left, leaked) == ([], []), f"{case}: {case.record()}\n{case.complaints()}"
    require_nothing_in_force(case)
    record = case.record()
    assert not record or (record[0], record[-1]) == ("intended", "clean"), f"{case}: {record}"
    if case.point[0] in AT_THE_END:
        assert "applied" in record, f"{case}: never in force, {record}"


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_wherever_nothing_stays_in_force(tmp_path, kind, disturbance):
    with at_all_points(tmp_path, kind) as cases:
        disturbed(cases, DISTURBANCES[disturbance])
        require_reached(cases)
        for case in cases:
            if disturbance != "both_killed":
                require_nothing_in_force(case)  # before anybody has started anew
            require_clean_record(case)


@pytest.mark.parametrize("kind", KINDS)
def test_a_locked_journal_keeps_no_fault_in_force(tmp_path, kind):
    """Somebody holds the journal from the moment at which the agent arrives until after it has ended."""
    # Where it could still write that the fault shows, it goes on until that is over; else it ends at the next entry.
    with at_all_points(tmp_path, kind, (*AT_THE_END, "verified")) as cases, ExitStack() as locks:

        def locked(case: Case) -> None:
            lock = sqlite3.connect(case.folder / "journal.db", isolation_level=None)
            locks.callback(lock.close)
            lock.execute("BEGIN IMMEDIATE")
            case.go_on()

        disturbed(cases, locked)
        require_reached(cases)
        for case in cases:
            require_nothing_in_force(case)
        locks.close()
        for case in cases:
            require_clean_record(case)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_that_wakes_up_late_acts_and_dies_at_once_leaves_nothing(tmp_path, kind):
    """The worst: reverted and clean in the journal, then in force, and nobody alive who knows."""
    case = Case(tmp_path / "0", kind, [("act", "before"), ("applied", "before")], LONG_S)
    try:
        case.begin()
        assert case.arrived()
        os.kill(case.agent, signal.SIGSTOP)
        case.let_lease_expire()
        wait_until(case.taken_out, within_s=ENDED_WITHIN_S)
        os.kill(case.agent, signal.SIGCONT)
        case.go_on()
        if case.arrived():  # else the undo has taken away what the act needs
            case.kill("agent")
        case.wait()
        require_nothing_in_force(case)
        require_clean_record(case)
    finally:
        case.close()


def test_undisturbed_a_case_comes_to_its_end_and_says_so(tmp_path):
    """The other cases would show nothing if this one did not end as it should."""
    case = Case(tmp_path / "0", "pod.pause", [("applied", "before"), ("clean", "before")])
    try:
        case.begin()
        for _ in case.points:
            assert case.arrived(), case.complaints()
            case.go_on()
        case.wait()
        assert case.record() == ["intended", "applied", "verified", "reverting", "reverted", "clean"]
        assert not case.lever_engaged()
        assert not case.complaints()
    finally:
        case.close()
