"""The training job as Ray Train knows it. Imported on the training node only, for it imports torch.

Ray Train's second version is named in full: which one `ray.train` means is decided as it is imported, and no type
checker can follow that.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import ray
import torch.distributed
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.backend import BackendConfig
from ray.train.torch.config import TorchConfig, _TorchBackend
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from .ray_nodes import TRAINING
from .trainer import train
from .training_job import RANKS, TrainingSettings

_FOR_EVER = -1


def fit(settings: TrainingSettings, name: str) -> None:
    """Trains until the job fails.

    Raises:
        ray.train.TrainingFailedError: it failed.
    """
    _Trainer(
        train,
        train_loop_config={"settings": settings},
        torch_config=_LocalTorchConfig(folder=str(settings.runs)),
        scaling_config=ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1, TRAINING.name: 0.1}),
        run_config=RunConfig(
            name=name,
            storage_path=str(settings.runs),
            failure_config=FailureConfig(max_failures=_FOR_EVER if settings.resumes else 0),
        ),
    ).fit()


class _Trainer(TorchTrainer):
    """Ray's trainer, less a helper that cannot do its work here.

    Its cleaner of placement groups asks the dashboard whether the job still lives. Without a dashboard it never learns
    of a job's end, and every job would leave one more process behind; `TrainingJob` removes stale groups instead.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


@dataclass
class _LocalTorchConfig(TorchConfig):
    """Ranks that meet over a file.

    Attributes:
        folder: where the file is made.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _LocalBackend


class _LocalBackend(_TorchBackend):
    """Ray's torch backend, but for the meeting: torch's own meeting point listens on every address of the host."""

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, _LocalTorchConfig)  # noqa: S101 (it names this class as its own)
        meeting = f"{backend_config.folder}/{uuid.uuid4().hex}"
        ranks = len(worker_group)
        joined: list[Any] = [worker_group.execute_single_async(i, _meet, meeting, i, ranks) for i in range(ranks)]
        ray.get(joined)


def _meet(file: str, number: int, ranks: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=number, world_size=ranks)
