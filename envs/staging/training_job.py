"""The training job as the platform sees it: submitted, running, failed.

`fit()` is called in an actor on the training node, because Ray Train starts its controller and helpers, with all their
imports, on the node of the caller. Started from the head they would take the CPU from serving next door.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from .announcements import living
from .ray_nodes import TRAINING

TRAINER = "trainer"
RANKS = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What the job and its ranks need to know.

    Attributes:
        checkpoints: folder of checkpoints.
        registry: folder of published models.
        announcements: folder in which ranks say where they are.
        runs: folder for Ray Train's own files.
        log: log file of all ranks.
        seed: of first weights and examples.
        steps_per_s: pace, steps per second.
        checkpoint_every_s: time between checkpoints, seconds.
        publish_every_s: time between published models, seconds.
        verified_checkpoints: whether checkpoints are atomic, verified, and the last good ones kept.
        resumes: whether the job goes on after the death of a rank.
    """

    checkpoints: Path
    registry: Path
    announcements: Path
    runs: Path
    log: Path
    seed: int
    steps_per_s: float
    checkpoint_every_s: float
    publish_every_s: float
    verified_checkpoints: bool
    resumes: bool


class Driver:
    """The actor that drives one job to its end."""

    def fit(self, settings: TrainingSettings, name: str) -> None:
        """Trains until the job fails.

        Raises:
            ray.train.TrainingFailedError: it failed.
        """
        from .torch_job import fit  # here and not above: only the training node pays for this import

        fit(settings, name)


class TrainingJob:
    """The job that is submitted now, and the ones before it."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings
        self._driver: Any = None
        self._end: ray.ObjectRef[None] | None = None
        self._submitted = 0
        self.failure: str | None = None

    @property
    def running(self) -> bool | None:
        """Whether the submitted job has not failed; None before the first one."""
        return self._end is not None if self._submitted else None

    def submit(self) -> None:
        """Starts a job in place of any earlier one; it goes on from the newest checkpoint if there is one."""
        self._stop()
        self._start()

    def submit_from_nothing(self) -> None:
        """Starts a job in place of any earlier one, without its checkpoints; they are moved aside."""
        self._stop()
        folder = self._settings.checkpoints
        folder.rename(folder.with_name(f"{folder.name}-until-job-{self._submitted}"))
        folder.mkdir()
        self._start()

    def tend(self) -> None:
        """Notices the job's end. A job that should resume is submitted anew when its driver died with its node."""
        if self._end is None or not ray.wait([self._end], timeout=0)[0]:
            return
        try:
            ray.get(self._end)
            self.failure = "the training job ended"
        except ray.exceptions.RayError as error:
            self.failure = str(error)
        _log.error("training job %d failed: %s", self._submitted, self.failure)
        self._end = None
        if self._settings.resumes:
            self.submit()

    def _start(self) -> None:
        self._submitted += 1
        self.failure = None
        self._driver = ray.remote(Driver).options(num_cpus=0, resources={TRAINING.name: 0.1}).remote()
        # A new name every time: under an old one, Ray Train would restore its own idea of where the run was.
        self._end = self._driver.fit.remote(self._settings, f"job-{self._submitted}")

    def _stop(self) -> None:
        if self._driver is None:
            return
        ray.kill(self._driver)
        # Ray ends ranks with their driver, but in its own time. Until then one of them could still write a checkpoint.
        for announcement in living(self._settings.announcements):
            if announcement.component == TRAINER:
                announcement.instance.process.kill()
        _remove_placement_groups()


def _remove_placement_groups() -> None:
    """Frees what a killed driver could not give back; without it, a few restarts would fill the training node."""
    for number, group in placement_group_table().items():
        if group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(number)))
