"""Taking faults out, alike for the agent at work, for the watchdog, and for a fresh process after a crash."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import suppress

from actuators.actuator import Actuator
from actuators.catalogue import kind_of
from actuators.fault import Injection

from .journal import CLEAN, LEAKED, REVERTED, REVERTING, Journal
from .lever import Lever

_ATTEMPTS = 3


def take_out(
    injection: Injection, actuators: Mapping[str, Actuator], journal: Journal, lever: Lever, by: str, reason: str
) -> bool:
    """Reverts one fault and observes that it is gone.

    Args:
        injection: the receipt.
        actuators: by fault family.
        journal: where every step is written down.
        lever: engaged if the fault cannot be shown to be gone.
        by: who takes it out.
        reason: why now.

    Returns:
        Whether its absence was observed. If not, it is `leaked`, and nothing starts until a person has looked.
    """
    _tell(journal, injection, REVERTING, reason)
    problem = "not tried"
    for _ in range(_ATTEMPTS):
        try:
            actuator = actuators[kind_of(injection.fault.kind).family]
            actuator.revert(injection)
            _tell(journal, injection, REVERTED)
            if actuator.probe_clean(injection):
                _tell(journal, injection, CLEAN)
                return True
            problem = "it is still observed after its revert"
        except (
            Exception
        ) as error:  # whatever a driver raises: the next attempt, and the next fault, must have their turn
            problem = f"{type(error).__name__}: {error}"
    _tell(journal, injection, LEAKED, problem)
    with suppress(OSError):  # a broken disk: whoever asked hears of the leak all the same, and the next has its turn
        lever.engage(f"{injection.fault} leaked ({injection.id}): {problem}", by)
    return False


def _tell(journal: Journal, injection: Injection, state: str, reason: str = "") -> None:
    """Writes a step down; a journal that cannot be written must not keep a fault in force, so the undo goes on.

    The journal then still shows the fault as open, and the next recovery takes it out once more.
    """
    with suppress(sqlite3.Error):
        journal.mark(injection, state, reason)


def recover(journal: Journal, actuators: Mapping[str, Actuator], lever: Lever, by: str, reason: str) -> list[Injection]:
    """Takes out everything that may be in force, newest first, leaks included.

    One failure never stops the next. Safe to run at any time, by several processes at once, and again.

    Returns:
        What could not be shown to be gone.
    """
    found = [*journal.open_injections(), *journal.leaked()]
    return [injection for injection in found if not take_out(injection, actuators, journal, lever, by, reason)]
