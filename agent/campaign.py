"""A campaign: a budget of minutes, spent on the experiments that a policy chooses.

    calibrate   until the scorer knows how the cluster wanders by itself
    repeat      sham when one is due · choose · gate · permit · record · act · watch · revert · recover · score · learn
    conclude    a weakness confirmed by replicates is shrunk to its mildest form and written down
    report      whatever ended it, what was found is left behind

One experiment is one step of the environment (`envs.chaos`, `envs.experiment`); what may be touched is decided at one
door (`safety.supervisor`). This module decides only what to try next and what was learnt from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from actuators.catalogue import LEVELS
from actuators.fault import Fault
from envs.chaos import ChaosEnv, severity
from envs.confirmation import Cell, Fingerprint
from envs.experiment import Interrupted, NotSteady
from envs.hypothesis import Mechanism
from envs.outcome import Outcome
from envs.scoring import Verdict

from .findings.record import now_text
from .findings.remedies import remedy_for
from .findings.weakness import Weakness, identifier, reproduced_by, weakness_of
from .learning.policy import Policy, require_sense
from .learning.reasons import Explainer, Reason

_REFUSED_OFTEN = 3
"""From so many refusals of one experiment on, although nothing spoke against it beforehand, it is not offered again."""


class Record(Protocol):
    """Where a campaign writes down what happens, as it happens."""

    def outcome(self, outcome: Outcome, why: str, reason: Reason | None = None) -> None:
        """Keeps one experiment, what it was for, and why the policy chose it."""
        ...

    def weakness(self, weakness: Weakness) -> None:
        """Keeps a confirmed weakness, at once: what comes next may be the end."""
        ...

    def milder(self, weakness: Weakness) -> None:
        """A weakness that was kept before has been seen in a milder form."""
        ...


class Progress(Protocol):
    """Whoever watches a campaign."""

    def chose(self, fault: Fault | None, spent_min: float, reason: Reason | None = None) -> None:
        """The next experiment has been chosen, and why; None is a sham."""
        ...

    def judged(self, outcome: Outcome, why: str) -> None:
        """An experiment has been judged."""
        ...

    def confirmed(self, weakness: Weakness) -> None:
        """A weakness has been confirmed."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """What a campaign may spend.

    Attributes:
        minutes: from the first gate to the last revert.
        reserve_share: part of it that is kept for shams, controls and shrinking.
        sham_share: experiments without a fault, as a share of all.
    """

    minutes: float
    reserve_share: float
    sham_share: float

    @property
    def reserve_min(self) -> float:
        """Minutes that are kept from the policy."""
        return self.minutes * self.reserve_share

    @property
    def choices_min(self) -> float:
        """Minutes that the policy may spend."""
        return self.minutes * (1.0 - self.reserve_share)


class Ending(StrEnum):
    """How a campaign ended."""

    COMPLETE = "complete"
    """Minutes or experiments are spent, or the policy stopped."""
    FORBIDDEN = "forbidden"
    """Lever, lease, watchdog, a leak, or somebody who asked for the end."""
    NOT_STEADY = "not steady"
    """The cluster was not ready for another experiment in time."""


@dataclass(slots=True)
class Result:
    """What a campaign has come to.

    Attributes:
        weaknesses: the confirmed ones.
        confirmed_min: when each of them was confirmed, minutes from the first gate.
        ending: how it ended.
        ended_by: why, in words.
        verdicts: of what the policy chose, in order.
        broken: beside each of them, in which ways that broke promises.
        spent_min: minutes from the first gate to the last revert.
        decision_s: how long each choice took, seconds.
        shams: how many experiments had no fault, how many of those alarmed, and how many could not be judged.
    """

    weaknesses: list[Weakness] = field(default_factory=list)
    confirmed_min: list[float] = field(default_factory=list)
    ending: Ending = Ending.COMPLETE
    ended_by: str = "the budget is spent"
    verdicts: list[Verdict] = field(default_factory=list)
    broken: list[frozenset[Mechanism]] = field(default_factory=list)
    spent_min: float = 0.0
    decision_s: list[float] = field(default_factory=list)
    shams: int = 0
    sham_alarms: int = 0
    shams_unjudged: int = 0

    def stopped_by(self, error: Interrupted | NotSteady) -> None:
        """Keeps what has ended a campaign before its time."""
        self.ending = Ending.NOT_STEADY if isinstance(error, NotSteady) else Ending.FORBIDDEN
        self.ended_by = str(error)


class Campaign:
    """Runs one campaign.

    Args:
        env: the environment, already reset; its own budget must be `budget.choices_min`. What it holds for confirmed
            by now was written down by others.
        policy: chooses.
        budget: what may be spent.
        record: keeps every experiment.
        progress: is told what happens.
        result: is filled while the campaign runs, so that what was found survives whatever breaks it.
        seed: of the campaign; stands in every weakness.
        stopwatch: seconds on some steady clock, to time decisions.
        explainer: says why the policy chose what it chose; nobody does if not given.
    """

    def __init__(
        self,
        env: ChaosEnv,
        policy: Policy,
        budget: Budget,
        *,
        record: Record,
        progress: Progress,
        result: Result,
        seed: int,
        stopwatch: Callable[[], float],
        explainer: Explainer | None = None,
    ) -> None:
        self._env = env
        self._policy = policy
        self._budget = budget
        self._record = record
        self._progress = progress
        self._seed = seed
        self._stopwatch = stopwatch
        self._explainer = explainer
        self._clock = env.experimenter.cluster.clock
        self._result = result
        self._told = 0
        self._known = set(env.confirmations.confirmed)
        self._refusals: Counter[int] = Counter()

    def run(self) -> None:
        """Runs the campaign to its end; every way out leaves nothing in force."""
        began_s = self._now_s()
        try:
            self._loop(began_s)
        except (Interrupted, NotSteady) as error:
            self._result.stopped_by(error)
        finally:
            self._env.experimenter.supervisor.revert_all("the campaign ends")
            self._result.spent_min = (self._now_s() - began_s) / 60.0
        obstacle = self._env.experimenter.supervisor.obstacle()
        if obstacle is not None:  # such as a leak at the very end
            self._result.stopped_by(Interrupted(obstacle))

    def _loop(self, began_s: float) -> None:
        observation = self._env.observation()
        while not self._env.is_over:
            left_min = self._budget.minutes - (self._now_s() - began_s) / 60.0
            in_time = self._env.fits(left_min)
            if not in_time[:-1].any():
                return
            if self._sham_is_due():
                self._sham(began_s)
                continue
            mask = self._mask(in_time)
            if not mask[:-1].any():
                # What is in the way may pass, such as an alert or a moment without telemetry: a gate waits for that.
                self._env.experimenter.gate(None)
                observation, mask = self._env.observation(), self._mask(in_time)
            started_s = self._stopwatch()
            require_sense(observation, mask)
            action = self._policy.choose(observation, mask)
            self._result.decision_s.append(self._stopwatch() - started_s)
            reason = None if self._explainer is None else self._explainer.reason(observation, mask, action)
            self._progress.chose(self._env.code.decode(action), (self._now_s() - began_s) / 60.0, reason)
            observation, _, over, _, info = self._env.step(action)
            kept = self._kept(began_s)
            self._tell("choice", reason)
            self._conclude(kept, began_s)
            if "ended_by" in info:
                raise info["ended_by"]
            outcome: Outcome | None = info["outcome"]
            if outcome is not None:
                self._result.verdicts.append(outcome.verdict)
                self._result.broken.append(frozenset(broken.mechanism for broken in outcome.score.broken))
                self._refusals[action] += outcome.refusal is not None
            if over:
                self._result.ended_by = "the policy stopped" if outcome is None else "the budget is spent"
                return

    def _mask(self, in_time: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Returns which actions are offered to the policy; not what the door has refused again and again."""
        mask = self._env.action_masks() & in_time & self._env.telling()
        mask[[action for action, refused in self._refusals.items() if refused >= _REFUSED_OFTEN]] = False
        return mask

    # ---- what keeps the campaign honest ---------------------------------------------------------------------------

    def _sham_is_due(self) -> bool:
        """Tells whether the share of shams could fall short: a choice may bring a control and two shrinks along."""
        most_after_the_next = len(self._env.outcomes) + self._result.shams + 4
        return self._result.shams < self._budget.sham_share * most_after_the_next

    def _sham(self, began_s: float) -> None:
        self._progress.chose(None, (self._now_s() - began_s) / 60.0)
        outcome = self._env.experimenter.sham()
        self._result.shams += 1
        self._result.sham_alarms += outcome.verdict is Verdict.WEAKNESS
        self._result.shams_unjudged += outcome.verdict is Verdict.INVALID
        self._record.outcome(outcome, "sham")
        self._progress.judged(outcome, "sham")

    # ---- what was found -------------------------------------------------------------------------------------------

    def _kept(self, began_s: float) -> list[Fingerprint]:
        """Keeps the weaknesses that were confirmed since the last time, by a choice or by the control beside it.

        At once: to shrink them takes minutes, and may be the end. And before the experiments that confirmed them: who
        has those and not the weakness takes it for known, and nobody ever hears of it.
        """
        new = [
            fingerprint
            for fingerprint, cell in self._env.confirmations.confirmed.items()
            if fingerprint not in self._known and self._is_shown(fingerprint, cell)
        ]
        for fingerprint in new:
            weakness = self._weakness(fingerprint, self._env.confirmations.confirmed[fingerprint])
            self._known.add(fingerprint)
            self._result.weaknesses.append(weakness)
            self._result.confirmed_min.append((self._now_s() - began_s) / 60.0)
            self._record.weakness(weakness)
        return new

    def _is_shown(self, fingerprint: Fingerprint, cell: Cell) -> bool:
        """Tells whether an experiment of this campaign shows a weakness: recalled ones are no evidence to be read."""
        return any(
            outcome.fault is not None
            and Cell.of(outcome.fault) == cell
            and outcome.verdict is Verdict.WEAKNESS
            and outcome.mechanism is fingerprint.mechanism
            for outcome in self._env.outcomes
        )

    def _conclude(self, waiting: list[Fingerprint], began_s: float) -> None:
        """Tells of weaknesses that were kept, and looks for their mildest forms; on the way more may be confirmed."""
        while waiting:
            fingerprint = waiting.pop(0)
            cell = self._env.confirmations.confirmed[fingerprint]
            (place,) = [n for n, each in enumerate(self._result.weaknesses) if each.id == identifier(fingerprint)]
            weakness = self._result.weaknesses[place]
            self._progress.confirmed(weakness)
            mildest, more = self._shrunk(cell, fingerprint.mechanism, began_s)
            waiting += more
            if mildest != cell:
                self._result.weaknesses[place] = reproduced_by(weakness, mildest)
                self._record.milder(self._result.weaknesses[place])

    def _weakness(self, fingerprint: Fingerprint, cell: Cell) -> Weakness:
        return weakness_of(
            fingerprint,
            cell,
            self._env.confirmations.cells[cell],
            self._env.outcomes,
            severity_of=lambda outcome: severity(outcome, self._env.topology),
            remedy=remedy_for(fingerprint),
            seed=self._seed,
            seen_at=now_text(),
        )

    def _shrunk(self, cell: Cell, mechanism: Mechanism, began_s: float) -> tuple[Cell, list[Fingerprint]]:
        """Returns the mildest level of a cell's arm that still shows this weakness, as far as the reserve reaches.

        And what else was confirmed on the way.
        """
        mildest, confirmed = cell, list[Fingerprint]()
        for level in sorted((level for level in LEVELS if level < cell.intensity), reverse=True):
            milder = self._env.fault_at(cell._replace(intensity=level))
            spent_min = (self._now_s() - began_s) / 60.0
            beside_choices_min = spent_min - self._env.spent_min
            if milder is None:
                continue  # the same as a level that is milder still
            if self._env.is_over or beside_choices_min > self._budget.reserve_min:
                break
            self._progress.chose(milder, spent_min)
            try:
                outcome = self._env.experiment(milder)
            except (Interrupted, NotSteady):
                break  # whether the campaign goes on is for its loop to see
            self._env.learn(outcome)
            confirmed += self._kept(began_s)
            self._tell("shrink")
            if outcome.verdict is not Verdict.WEAKNESS or outcome.mechanism is not mechanism:
                break
            mildest = Cell.of(milder)
        return mildest, confirmed

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _tell(self, why: str, reason: Reason | None = None) -> None:
        """Writes down what the environment did since the last time: the choice, and before it its control, if any."""
        first, new = self._told, self._env.outcomes[self._told :]
        self._told = len(self._env.outcomes)
        for index, outcome in enumerate(new):
            is_last = index == len(new) - 1
            purpose = why if is_last else "control"
            self._record.outcome(outcome, purpose, reason if is_last else None)
            self._progress.judged(outcome, purpose)
        self._env.let_go(first)

    def _now_s(self) -> float:
        return self._clock.now().boottime_s
