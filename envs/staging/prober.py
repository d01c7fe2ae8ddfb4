"""Asks every instance twice a second whether it is well.

An instance is *ready* when it answered the newest question in time; a rank must also have made steps since. What did
not answer is unknown and not ready, whatever the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from .exporter import HEALTH_PATH, METRICS_PATH
from .handle import Instance

STEP_METRIC = "train_rank_step"
"""Where a rank says which step of the job it is at."""

_PERIOD_S = 0.5
_TIMEOUT_S = 0.3
_STALLED_AFTER_S = 1.5


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one instance.

    Attributes:
        answering: whether it answered the newest question.
        has_answered: whether it ever answered.
        step: of the job, the last one it told; None when it is no rank.
        stepped_at_s: when `step` was last seen to grow.
    """

    answering: bool = False
    has_answered: bool = False
    step: float | None = None
    stepped_at_s: float = float("-inf")

    def is_ready(self, now_s: float) -> bool:
        """Tells whether the instance does its work."""
        return self.answering and (self.step is None or now_s - self.stepped_at_s <= _STALLED_AFTER_S)

    def after(self, answer: str | None, now_s: float) -> Health:
        """Returns what is known after one more question and its answer, None for silence."""
        if answer is None:
            return replace(self, answering=False)
        step = _step_in(answer)
        moved = step is not None and self.step is not None and step != self.step
        return Health(True, True, step, now_s if moved else self.stepped_at_s)


class Prober:
    """Keeps asking.

    Args:
        instances: returns whom to ask.
        clock: seconds that only ever grow.
    """

    def __init__(
        self, instances: Callable[[], Iterable[Instance]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._instances = instances
        self._clock = clock
        self._health: dict[str, Health] = {}
        self.job_step: float | None = None
        """Step of the training job as a rank last told it; outlives the rank."""

    def health(self, instance: Instance) -> Health:
        """Returns what is known of an instance."""
        return self._health.get(instance.id, Health())

    def is_ready(self, instance: Instance) -> bool:
        """Tells whether an instance is alive and does its work."""
        return self.health(instance).is_ready(self._clock()) and instance.process.is_alive()

    async def run(self) -> None:
        """Asks until cancelled."""
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            due = loop.time()
            while True:
                await self._ask_all(session)
                due = max(due + _PERIOD_S, loop.time())
                await asyncio.sleep(due - loop.time())

    async def _ask_all(self, session: aiohttp.ClientSession) -> None:
        """Asks everybody at once; what one answers is known at once, however long another takes."""
        instances = list(self._instances())
        self._health = {instance.id: self.health(instance) for instance in instances}
        await asyncio.gather(*(self._ask(session, instance) for instance in instances))

    async def _ask(self, session: aiohttp.ClientSession, instance: Instance) -> None:
        health = self.health(instance).after(await _ask(session, instance), self._clock())
        self._health[instance.id] = health
        if health.answering and health.step is not None:
            # Ranks are in step; the first to answer after a restart says where the job goes on.
            self.job_step = health.step


async def _ask(session: aiohttp.ClientSession, instance: Instance) -> str | None:
    try:
        async with session.get(health_url(instance), raise_for_status=True) as response:
            return await response.text()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def health_url(instance: Instance) -> str:
    """Returns where to ask: a rank shows its step among its metrics, everybody else has a plain health page."""
    if instance.id.startswith("trainer/"):
        return instance.metrics_url
    return instance.metrics_url.removesuffix(METRICS_PATH) + HEALTH_PATH


def _step_in(text: str) -> float | None:
    if STEP_METRIC not in text:
        return None
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((sample.value for sample in samples if sample.name == STEP_METRIC), None)
