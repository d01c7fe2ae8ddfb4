"""What a campaign costs and shows, kept as it happens: a kill loses none of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from envs.outcome import Outcome
from envs.scoring import Verdict

from ..findings.weakness import Weakness
from ..interruption import Interruption
from .store import Store


class Account:
    """The account of one campaign.

    Attributes:
        experiments: all that came to an outcome, shams and refused ones included.
        faults: experiments with one, which was not refused.
        trouble: what must not happen and did: a leak, lost telemetry, an error of the tool; None if nothing did.

    Args:
        store: where it is kept.
        day: names the present day.
        now: the present.
        harm_left: minutes of harm that the day has left.
        asked: is asked to end the campaign when there are none.
        learns: whether what experiments show counts in later campaigns; what a dry run shows does not.
    """

    def __init__(
        self,
        store: Store,
        day: Callable[[], str],
        now: Callable[[], datetime],
        harm_left: Callable[[], float],
        asked: Interruption,
        *,
        learns: bool = True,
    ) -> None:
        self._store = store
        self._day = day
        self._now = now
        self._harm_left = harm_left
        self._asked = asked
        self._learns = learns
        self._paid_min = self._owed_min = self._owed_harm_min = 0.0
        self.experiments = 0
        self.faults = 0
        self.trouble: str | None = None

    def outcome(self, outcome: Outcome) -> None:
        """An experiment has been judged."""
        self.experiments += 1
        self.faults += outcome.fault is not None and outcome.refusal is None
        self.trouble = self.trouble or _trouble(outcome)
        self._owed_min += outcome.evidence.cost_min
        self._owed_harm_min += harm_min(outcome)
        self._pay()
        if self._learns:
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
        self._store.spend(self._day(), self._owed_min, self._owed_harm_min)
        self._paid_min += self._owed_min
        self._owed_min = self._owed_harm_min = 0.0


def harm_min(outcome: Outcome) -> float:
    """Returns for how long an experiment may have kept a promise broken, minutes.

    From its injection until all promises were kept for good, if any was broken at all; where nobody saw that they were,
    everything that the experiment has taken, from its gate to repairs and the last alert: never too little.
    """
    phases = outcome.phases
    if outcome.fault is None or phases is None or not outcome.score.broken:
        return 0.0
    if phases.recovered_s is None:
        return outcome.evidence.cost_min
    return (phases.recovered_s - phases.injected_s) / 60.0


def _trouble(outcome: Outcome) -> str | None:
    if outcome.verdict is Verdict.TOOL_ERROR:
        return outcome.score.reason
    if outcome.stop is not None and outcome.stop.cause == "telemetry":
        return f"telemetry was lost: {outcome.stop.reason}"
    return None
