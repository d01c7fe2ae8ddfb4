"""How a new model gets to serve, in one of two ways.

*At once* is what a first version does: what was published is served. *Canary* is what it becomes after the first bad
model: the new one answers a small share of the requests while both are asked all of them, and it takes over only if it
says nearly the same. No labels are needed for that: they come days later, and a good model rarely changes its mind.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .model import Model, Prediction
from .world import FEATURES

_ON_TRIAL = 30
"""How many requests a trial lasts."""

_EVERY = 10
"""One request in so many is answered by the model on trial."""

_LEAST_AGREEMENT = 0.8
"""Share of answers that must be the same; good models of this world agree on 95 % and more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Release:
    """A model together with its version."""

    version: int
    model: Model


class Rollout(Protocol):
    """Who decides which model answers."""

    @property
    def serving(self) -> Release | None:
        """What serves; None before the first."""
        ...

    @property
    def rejected(self) -> int:
        """How many releases were rolled back."""
        ...

    def offer(self, release: Release) -> None:
        """Hands in a new release."""
        ...

    def predict(self, features: NDArray[np.float32]) -> tuple[Prediction, int]:
        """Answers one request; returns the prediction and the version that made it.

        Raises:
            LookupError: there is no model to answer with.
        """
        ...


class AtOnce:
    """Serves whatever it was offered last."""

    def __init__(self) -> None:
        self.serving: Release | None = None
        self.rejected = 0

    def offer(self, release: Release) -> None:
        """Serves it from now on."""
        self.serving = release

    def predict(self, features: NDArray[np.float32]) -> tuple[Prediction, int]:
        """Answers with the newest model."""
        release = _require(self.serving)
        return release.model.predict(features), release.version


class Canary:
    """Tries a release out before it serves."""

    def __init__(self) -> None:
        self.serving: Release | None = None
        self.rejected = 0
        self._trial: Release | None = None
        self._asked = 0
        self._agreed = 0

    def offer(self, release: Release) -> None:
        """Puts it on trial, in place of any other.

        The very first has nothing to be compared with and serves; so does an older one, for whoever rolls back has a
        reason, and what serves is then no measure.
        """
        if self.serving is None or release.version < self.serving.version:
            self.serving, self._trial = release, None
        else:
            self._trial, self._asked, self._agreed = release, 0, 0

    def predict(self, features: NDArray[np.float32]) -> tuple[Prediction, int]:
        """Answers with the serving model or, now and then, with the one on trial."""
        serving, trial = _require(self.serving), self._trial
        stable = serving.model.predict(features)
        if trial is None:
            return stable, serving.version
        tried = trial.model.predict(features)
        self._asked += 1
        self._agreed += int((stable.labels == tried.labels).all())
        answered_by_trial = self._asked % _EVERY == 0
        if self._asked >= _ON_TRIAL:
            self._conclude(trial)
        return (tried, trial.version) if answered_by_trial else (stable, serving.version)

    def _conclude(self, trial: Release) -> None:
        agreement = self._agreed / self._asked
        if agreement >= _LEAST_AGREEMENT:
            self.serving = trial
        else:
            self.rejected += 1
            _log.warning("model version %d is rolled back: it agrees on %.0f %% only", trial.version, 100 * agreement)
        self._trial = None


def require_answer(rollout: Rollout) -> None:
    """Asks the serving model once, about nobody in particular; what is on trial is left out of it.

    Raises:
        LookupError: there is no model to answer with.
    """
    _require(rollout.serving).model.predict(np.zeros((1, FEATURES), np.float32))


def _require(release: Release | None) -> Release:
    if release is None:
        raise LookupError("no model could be loaded")
    return release
