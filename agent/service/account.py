"""What a campaign costs and shows, kept as it happens: a kill loses none of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from envs.outcome import Outcome
from envs.scoring import Verdict

from ..findings.weakness import Weakness
from ..interruption import Interruption
from .store import Store

_IN_ITS_TIME = {"expired", "finished", "lapsed"}
"""Ends of a fault that came when they should, or because waiting would have shown nothing more."""

_TROUBLE = {"telemetry": "telemetry was lost", "watchdog": "without a watchdog", "lease": "the lease was lost"}


class Account:
    """The account of one campaign.

    Attributes:
        experiments: all that came to an outcome, shams and refused ones included.
        faults: experiments with one, which was not refused.
        dry_run: what experiments show counts for nothing later, and they do no harm.
        trouble: what must not happen and did: a leak, an error of the tool, or in the middle of a fault lost telemetry,
            a dead watchdog or a lost lease; None if nothing did.

    Args:
        store: where it is kept.
        day: names the present day.
        now: the present.
        harm_left: minutes of harm that the day has left.
        asked: is asked to end the campaign when there are none.
        dry_run: as above.
    """

    def __init__(
        self,
        store: Store,
        day: Callable[[], str],
        now: Callable[[], datetime],
        harm_left: Callable[[], float],
        asked: Interruption,
        *,
        dry_run: bool = False,
    ) -> None:
        self._store = store
        self._day = day
        self._now = now
        self._harm_left = harm_left
        self._asked = asked
        self.dry_run = dry_run
        self._paid_min = self._owed_min = self._owed_harm_min = 0.0
        self._owed_for: list[str] = []
        self.experiments = 0
        self.faults = 0
        self.trouble: str | None = None

    def outcome(self, outcome: Outcome) -> None:
        """An experiment has been judged."""
        self.experiments += 1
        self.faults += outcome.fault is not None and outcome.refusal is None
        self.trouble = self.trouble or _trouble(outcome, is_asked=self._asked.asked())
        self._owed_min += outcome.evidence.cost_min
        if outcome.injection_id is not None:
            self._owed_for.append(outcome.injection_id)
        if not self.dry_run:
            self._owed_harm_min += harm_min(outcome)
        self._pay()
        if not self.dry_run:
            self._store.learn(outcome, self._now())
        if self._harm_left() <= 0:
            self._asked.ask("the day's minutes of harm are used up")

    def weakness(self, weakness: Weakness) -> None:
        """A weakness has been confirmed; the notebook keeps it."""

    def settle(self, spent_min: float) -> None:
        """Adds the minutes that no experiment has claimed, and what could not be written down before."""
        self._owed_min = max(self._owed_min, spent_min - self._paid_min)
        self._pay()

    def _pay(self) -> None:
        """Writes down what is owed; where that fails, it still is."""
        self._store.spend(self._day(), self._owed_min, self._owed_harm_min, tuple(self._owed_for))
        self._paid_min += self._owed_min
        self._owed_min = self._owed_harm_min = 0.0
        self._owed_for.clear()


def harm_min(outcome: Outcome) -> float:
    """Returns for how long an experiment may have kept a promise broken, minutes.

    From its injection until all promises were kept for good, if any was broken at all; where nobody saw that they were,
    everything that the experiment has taken, from its gate to repairs and the last alert: never too little. Of a fault
    that was ended before its time nobody knows what it was about to break: it counts for as long as it was in force.
    """
    phases = outcome.phases
    if outcome.fault is None or phases is None:
        return 0.0
    if not outcome.score.broken:
        cut_short = outcome.stop is not None and outcome.stop.cause not in _IN_ITS_TIME
        return (phases.cleared_s - phases.injected_s) / 60.0 if cut_short else 0.0
    if phases.recovered_s is None:
        return outcome.evidence.cost_min
    return (phases.recovered_s - phases.injected_s) / 60.0


def _trouble(outcome: Outcome, *, is_asked: bool) -> str | None:
    """Returns what must not happen and did; whoever asks all of us to end at once may hit the watchdog first."""
    if outcome.verdict is Verdict.TOOL_ERROR:
        return outcome.score.reason
    stop = outcome.stop
    if stop is None or stop.cause not in _TROUBLE or (is_asked and stop.cause == "watchdog"):
        return None
    return f"{_TROUBLE[stop.cause]}: {stop.reason}"
