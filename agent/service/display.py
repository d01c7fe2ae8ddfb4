"""Shows a campaign of the service: on its console, in its status; and has it end when its time is over."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from actuators.fault import Fault
from envs.outcome import Outcome
from envs.scoring import Verdict

from ..findings.weakness import Weakness
from ..progress import Display
from .status import Doing, Status


class ServiceDisplay(Display):
    """As of a single run, and beside it the status.

    Args:
        console: where progress is shown.
        budget_min: of the campaign.
        status: of the service.
        polled: is called with every measurement.
    """

    def __init__(self, console: Console, budget_min: float, status: Status, polled: Callable[[], None]) -> None:
        super().__init__(console, budget_min)
        self._status = status
        self._on_poll = polled

    def entered(self, phase: str, fault: Fault | None, ends_at_s: float | None) -> None:
        """A phase has begun."""
        doing = Doing.ENDING if phase == "ending everything" else Doing.RUNNING
        self._status.set(doing=doing, phase=phase, fault=None if fault is None else str(fault))
        super().entered(phase, fault, ends_at_s)

    def polled(self, now_s: float) -> None:
        """A measurement has come in."""
        self._status.beat()
        self._on_poll()
        super().polled(now_s)

    def judged(self, outcome: Outcome, why: str) -> None:
        """An experiment has been judged."""
        self._status.judged(str(outcome.verdict))
        if outcome.fault is None:
            self._status.count("shams")
            self._status.count("sham_alarms", int(outcome.verdict is Verdict.WEAKNESS))
            self._status.count("shams_unjudged", int(outcome.verdict is Verdict.INVALID))
        super().judged(outcome, why)

    def confirmed(self, weakness: Weakness) -> None:
        """A weakness has been confirmed."""
        self._status.count("weaknesses")
        super().confirmed(weakness)
