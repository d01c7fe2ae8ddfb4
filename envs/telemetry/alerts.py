"""Alerts that a cluster raises by itself, whoever evaluates its rules.

An alert that always fires, the *watchdog*, proves that rules are evaluated and that their results arrive here. Without
it nobody can tell whether any other alert fires: that is unknown, and not quiet. (The pattern is kube-prometheus'.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

WATCHDOG = "Watchdog"
"""Fires wherever and for as long as rules are evaluated."""


class Alert(NamedTuple):
    """One alert about one component."""

    name: str
    component: str

    def __str__(self) -> str:
        return f"{self.name} ({self.component})"


@dataclass(frozen=True, slots=True)
class Spell:
    """One alert, and for how long it was seen to fire.

    Attributes:
        alert: which one.
        from_s: when it was first seen, seconds.
        until_s: when it was last seen, seconds.
    """

    alert: Alert
    from_s: float
    until_s: float


def known(firing: Iterable[Alert]) -> frozenset[Alert] | None:
    """Returns which alerts fire, the watchdog left out; None when it is not among them, and so nobody can tell."""
    found = frozenset(firing)
    others = frozenset(alert for alert in found if alert.name != WATCHDOG)
    return others if others != found else None


def spells(seen: Iterable[tuple[float, frozenset[Alert] | None]]) -> list[Spell]:
    """Returns when each alert fired, oldest first; what nobody could see in between interrupts nothing.

    Args:
        seen: times and what fired then, None where nobody could tell, oldest first.
    """
    over: list[Spell] = []
    going_on: dict[Alert, Spell] = {}
    for at_s, firing in seen:
        if firing is None:
            continue
        over += [going_on.pop(alert) for alert in going_on.keys() - firing]
        for alert in firing:
            began_s = going_on[alert].from_s if alert in going_on else at_s
            going_on[alert] = Spell(alert, began_s, at_s)
    return sorted([*over, *going_on.values()], key=lambda spell: (spell.from_s, spell.alert))
