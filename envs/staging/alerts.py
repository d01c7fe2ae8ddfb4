"""The platform's alert rules, as its own monitor evaluates them: `configs/alerts.yml` says the same to a Prometheus.

All rules but one compare values, and where there is no value they have nothing to compare: whoever dies together with
its exporter is not told of. `ComponentDown` alone notices absence, and to do so it needs to be told what should be
there. Without such a list (the switch `monitoring.absent_alert`) a dead exporter is silence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

EVALUATED_EVERY_S = 0.5
_STALE_AFTER_S = 2.0

_DOWN_FOR_S = 2.0
_INCOMPLETE_FOR_S = 30.0
_RESTARTS_OVER_S, _MOST_RESTARTS = 30.0, 3
_STUCK_AFTER_S = 5.0
_ERRORS_OVER_S, _MOST_ERRORS, _ERRORS_FOR_S = 5.0, 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What a gateway has answered since it was started."""

    total: float
    failed: float


@dataclass(frozen=True, slots=True)
class Census:
    """How many instances of a component there are, by four ways to count.

    Attributes:
        desired: there should be.
        up: answer with their metrics.
        ready: do their work.
        restarts: were started again so far.
    """

    desired: int
    up: int
    ready: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules are evaluated on, at one moment. What is missing is unknown.

    Attributes:
        components: by name.
        step: of the training job.
        answers: per component that answers requests, those of its instances that could be asked.
    """

    components: Mapping[str, Census] = field(default_factory=dict)
    step: float | None = None
    answers: Mapping[str, Answers] = field(default_factory=dict)


class AlertRules:
    """Evaluates the rules again and again, and knows which alerts fire.

    Args:
        expected: components whose absence is an alarm.
        trainer: the component that training progress belongs to.
    """

    def __init__(self, expected: Sequence[str], trainer: str) -> None:
        self.expected = tuple(expected)
        self._trainer = trainer
        self._past: deque[tuple[float, Facts]] = deque()
        self._pending_since_s: dict[tuple[str, str], float] = {}
        self._stepped: tuple[float, float | None] = (float("-inf"), None)
        self._evaluated_s = float("-inf")
        self._states: dict[tuple[str, str], bool] = {}

    def evaluate(self, facts: Facts, now_s: float) -> None:
        """Takes the facts of a moment into account.

        Args:
            facts: what is known.
            now_s: when, on a clock that only ever grows.
        """
        if facts.step != self._stepped[1]:
            self._stepped = now_s, facts.step
        self._past.append((now_s, facts))
        while len(self._past) > 1 and now_s - self._past[1][0] >= max(_RESTARTS_OVER_S, _ERRORS_OVER_S):
            self._past.popleft()
        self._states = {
            (name, component): self._has_held((name, component), for_s, now_s, holds=holds)
            for name, component, holds, for_s in self._conditions(facts, now_s)
        }
        self._pending_since_s = {key: since for key, since in self._pending_since_s.items() if key in self._states}
        self._evaluated_s = now_s

    def states(self, now_s: float) -> dict[tuple[str, str], bool] | None:
        """Returns whether each alert fires, by its name and component; None while nobody evaluates the rules."""
        return dict(self._states) if now_s - self._evaluated_s <= _STALE_AFTER_S else None

    def _conditions(self, facts: Facts, now_s: float) -> list[tuple[str, str, bool, float]]:
        """Returns every alert with its component, whether its condition holds, and for how long it must, seconds."""
        found: list[tuple[str, str, bool, float]] = []
        for name, census in facts.components.items():
            found.append(("InstancesMissing", name, census.ready < census.desired, _INCOMPLETE_FOR_S))
            found.append(("RestartsOften", name, self._restarts(name, now_s) > _MOST_RESTARTS, 0.0))
        for name in self.expected:
            census_or_none = facts.components.get(name)
            found.append(("ComponentDown", name, census_or_none is None or census_or_none.up == 0, _DOWN_FOR_S))
        if facts.step is not None:
            found.append(("TrainingStuck", self._trainer, now_s - self._stepped[0] >= _STUCK_AFTER_S, 0.0))
        for name in facts.answers:
            found.append(("HighErrorRate", name, self._error_share(name, now_s) > _MOST_ERRORS, _ERRORS_FOR_S))
        return found

    def _has_held(self, key: tuple[str, str], for_s: float, now_s: float, *, holds: bool) -> bool:
        if not holds:
            self._pending_since_s.pop(key, None)
            return False
        return now_s - self._pending_since_s.setdefault(key, now_s) >= for_s

    def _restarts(self, component: str, now_s: float) -> int:
        """Returns how often instances were started again lately; none while there is too short a past to tell."""
        began_s, past = self._past[0]
        if now_s - began_s < _RESTARTS_OVER_S or component not in past.components:
            return 0
        return self._past[-1][1].components[component].restarts - past.components[component].restarts

    def _error_share(self, component: str, now_s: float) -> float:
        """Returns the share of the newest answers that were errors, 0 where there were none."""
        seen = [
            facts.answers[component]
            for at_s, facts in self._past
            if component in facts.answers and now_s - at_s <= _ERRORS_OVER_S
        ]
        total = failed = 0.0
        for before, after in pairwise(seen):
            # One that has been restarted counts from 0 again.
            again = after.total < before.total
            total += after.total - (0.0 if again else before.total)
            failed += after.failed - (0.0 if again else before.failed)
        return failed / total if total > 0 else 0.0
