"""The training job of a simulated cluster: it learns, saves, dies, hangs, and goes on from where it was."""

from __future__ import annotations

from typing import Final

import numpy as np

from . import cards
from .document import Document, cpu_left
from .instances import RESTART_S, Instances

SOUND: Final = b"weights".hex()
"""What a checkpoint holds that nobody has touched."""

_STEPS_PER_S = 20.0
_STEPS_PER_S_OF_A_CORE = 250.0
_CHECKPOINT_EVERY_S = 2.0
_HANG_TIMEOUT_S = 10.0


class Training:
    """The job on all ranks together.

    Attributes:
        failed: whether it was given up.
        steps_per_s: how fast it is now.

    Args:
        weak: which mechanisms are absent.
        instances: of which the ranks are some.
        random: draws the noise.
        period_s: time between two moves, seconds.
    """

    def __init__(
        self, weak: frozenset[str], instances: Instances, random: np.random.Generator, period_s: float
    ) -> None:
        self.failed = False
        self.steps_per_s = _STEPS_PER_S
        self._weak, self._instances, self._random, self._period_s = weak, instances, random, period_s
        self._running = True
        self._starts_at_s = 0.0
        self._step = self._saved_step = self._saved_at_s = 0.0
        self._hung_since_s = np.inf

    def restart(self, world: Document, now_s: float) -> None:
        """Ends all ranks and starts the job anew, as one who has noticed that it hangs does."""
        self._instances.kill(world, "trainer", now_s)
        self._running = False
        self._starts_at_s = now_s + RESTART_S["trainer"]

    def move(self, world: Document, now_s: float) -> None:
        """Moves on by one period."""
        ranks = world["instances"]["trainer"]
        if self._running and not cards.can_work(world["cards"]):
            world["killed"].update(dict.fromkeys(ranks, True))  # all of them work on the same card
        dead = any(name in world["killed"] for name in ranks)
        if dead and self._running:
            self._running = False
            self.failed = "restart" in self._weak
            self._starts_at_s = now_s + RESTART_S["trainer"]
        if not self._running and not self.failed and not dead and now_s >= self._starts_at_s:
            self._start(world, now_s)
        cpu = min(cpu_left(world, name) for name in ranks)
        self._hung_since_s = min(self._hung_since_s, now_s) if cpu == 0.0 and self._running else np.inf
        if now_s - self._hung_since_s >= _HANG_TIMEOUT_S and "hang_timeout" not in self._weak:
            self.restart(world, now_s)
        fastest_per_s = min(cpu * _STEPS_PER_S_OF_A_CORE, cards.most_steps_per_s(world["cards"]))
        self._learn(world, min(1.0, fastest_per_s / _STEPS_PER_S), now_s)

    def values(self, now_s: float) -> dict[str, float]:
        """Returns what the job tells of itself."""
        return {
            "trainer/steps_per_s": self.steps_per_s,
            "trainer/step": self._step,
            "trainer/checkpoint_age_s": now_s - self._saved_at_s,
        }

    def _start(self, world: Document, now_s: float) -> None:
        checkpoint = world["checkpoints"].get("trainer/latest")
        if not cards.can_start(world["cards"]):
            self._starts_at_s = now_s + RESTART_S["trainer"]  # it died of it, and is tried again
        elif checkpoint in {SOUND, None} or "checkpoint" not in self._weak:
            self._running = True
            # Without a checkpoint a job begins at nothing, where nobody has kept the ones before.
            lost = checkpoint is None and "checkpoint" in self._weak
            self._step = self._saved_step = 0.0 if lost else self._saved_step

    def _learn(self, world: Document, pace: float, now_s: float) -> None:
        works = self._running and pace > 0.0
        self.steps_per_s = pace * (_STEPS_PER_S + 0.5 * float(self._random.standard_normal())) if works else 0.0
        self._step += self.steps_per_s * self._period_s
        if works and now_s - self._saved_at_s >= _CHECKPOINT_EVERY_S:
            self._saved_step, self._saved_at_s = self._step, now_s
        if self._saved_at_s == now_s:
            world["checkpoints"]["trainer/latest"] = SOUND
