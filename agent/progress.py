"""What a person sees while a campaign runs: what is being broken, which phase, until when, and what was found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actuators.catalogue import kind_of
from actuators.fault import Fault
from envs.experiment import Observer
from envs.outcome import Outcome
from envs.scoring import Verdict

from .findings.weakness import Weakness

if TYPE_CHECKING:
    from .learning.reasons import Reason

_STYLE = {
    Verdict.WEAKNESS: "bold red",
    Verdict.RESILIENT: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.INVALID: "dim",
    Verdict.TOOL_ERROR: "bold magenta",
}
_ALWAYS_SPOKEN = frozenset({"calibrate", "in force", "repair"})
_SPOKEN_EVERY_S = 15.0


class Silent:
    """Tells nobody anything."""

    def entered(self, phase: str, fault: Fault | None, ends_at_s: float | None) -> None:
        """Says nothing."""

    def polled(self, now_s: float) -> None:
        """Says nothing."""


class PhaseClock:
    """Adds up how long the phases of experiments take, on the cluster's clock, and tells another observer.

    Args:
        other: who else is told.
    """

    def __init__(self, other: Observer) -> None:
        self._other = other
        self._phase: str | None = None
        self._since_s = self._now_s = 0.0
        self.seconds: dict[str, float] = {}
        self.entries: dict[str, int] = {}

    def begin_anew(self) -> None:
        """Forgets what it has added up so far."""
        self._phase = None
        self.seconds, self.entries = {}, {}

    def entered(self, phase: str, fault: Fault | None, ends_at_s: float | None) -> None:
        """Ends the phase before, and begins the next one."""
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + self._now_s - self._since_s
        self.entries[phase] = self.entries.get(phase, 0) + 1
        self._phase, self._since_s = phase, self._now_s
        self._other.entered(phase, fault, ends_at_s)

    def polled(self, now_s: float) -> None:
        """Moves time on."""
        self._since_s = self._since_s or now_s
        self._now_s = now_s
        self._other.polled(now_s)


class Display:
    """Shows a run: a live panel on a terminal, lines elsewhere.

    Args:
        console: where to.
        budget_min: of the campaign.
    """

    def __init__(self, console: Console, budget_min: float) -> None:
        self._console = console
        self._budget_min = budget_min
        self._spent_min = 0.0
        self._phase, self._fault = "starting", ""
        self._ends_at_s: float | None = None
        self._now_s: float | None = None
        self._findings: list[str] = []
        self._experiments = 0
        self._spoke_s = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    # ---- a run ----------------------------------------------------------------------------------------------------

    def say(self, text: str, style: str = "") -> None:
        """Prints a line that stays."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def started(self, parts: Mapping[str, float]) -> None:
        """The platform has come a step further."""
        part, seconds = max(parts.items(), key=lambda item: item[1])
        self.say(f"platform: {part} up after {seconds:.0f} s")

    # ---- envs.experiment.Observer ---------------------------------------------------------------------------------

    def entered(self, phase: str, fault: Fault | None, ends_at_s: float | None) -> None:
        """A phase has begun."""
        self._phase, self._ends_at_s = phase, ends_at_s
        self._fault = "" if fault is None else _described(fault)
        if phase in _ALWAYS_SPOKEN:
            self._spoke_s = 0.0
        self._refresh()

    def polled(self, now_s: float) -> None:
        """A measurement has come in."""
        self._now_s = now_s
        self._refresh()

    # ---- agent.campaign.Progress ----------------------------------------------------------------------------------

    def chose(self, fault: Fault | None, spent_min: float, reason: Reason | None = None) -> None:
        """The next experiment has been chosen, and why."""
        self._spent_min = spent_min
        self._experiments += 1
        what = "a sham: the same without a fault" if fault is None else _described(fault)
        self.say(f"[{spent_min:4.1f}/{self._budget_min:g} min] {self._experiments:2d}. {what}")
        if reason is not None:
            self.say(f"      chosen: {reason}", "dim")

    def judged(self, outcome: Outcome, why: str) -> None:
        """An experiment has been judged."""
        control = " (control)" if why == "control" else ""
        self.say(f"      {outcome.verdict}{control}: {outcome.score.reason}", _STYLE[outcome.verdict])

    def confirmed(self, weakness: Weakness) -> None:
        """A weakness has been confirmed."""
        self._findings.append(weakness.title)
        self.say(f"      CONFIRMED {weakness.id} [{weakness.severity}] {weakness.title}", "bold red")

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._panel())
        elif time.monotonic() - self._spoke_s > _SPOKEN_EVERY_S:
            self._spoke_s = time.monotonic()
            self.say(f"      {self._phase}{self._countdown()}", "dim")

    def _countdown(self) -> str:
        if self._ends_at_s is None or self._now_s is None:
            return ""
        left_s = max(0.0, self._ends_at_s - self._now_s)
        return f", reverts in {left_s:.0f} s" if self._phase == "in force" else f", at most {left_s:.0f} s more"

    def _panel(self) -> Group:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("now", style="bold"), Text(f"{self._phase}{self._countdown()}", style="cyan"))
        table.add_row(Text("fault", style="bold"), Text(self._fault or "none"))
        table.add_row(Text("budget", style="bold"), Text(f"{self._spent_min:.1f} of {self._budget_min:g} min spent"))
        found = f"{len(self._findings)} confirmed" + (f", last: {self._findings[-1]}" if self._findings else "")
        table.add_row(Text("found", style="bold"), Text(found, style="red" if self._findings else "green"))
        return Group(Text("─" * 40, style="dim"), table)


def _described(fault: Fault) -> str:
    return f"{fault.kind} on {fault.target}, {kind_of(fault.kind).described(fault.intensity)}, {fault.duration_s:g} s"
