"""The training job as Ray Train knows it. Imported on the training node only, for it imports torch."""

from __future__ import annotations

from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

from .own_ray_train import LocalTorchConfig, OwnTrainer
from .ray_nodes import TRAINING
from .trainer import train
from .training_job import RANKS, TrainingSettings

_FOR_EVER = -1


def fit(settings: TrainingSettings, name: str) -> None:
    """Trains until the job fails.

    Raises:
        ray.train.TrainingFailedError: it failed.
    """
    OwnTrainer(
        train,
        train_loop_config={"settings": settings},
        torch_config=LocalTorchConfig(folder=str(settings.runs)),
        scaling_config=ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1, TRAINING.name: 0.1}),
        run_config=RunConfig(
            name=name,
            storage_path=str(settings.runs),
            failure_config=FailureConfig(max_failures=_FOR_EVER if settings.resumes else 0),
        ),
    ).fit()
